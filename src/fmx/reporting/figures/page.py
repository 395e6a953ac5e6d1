"""A figure that is laid out in inches."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmx.reporting.figures.lettering import Lettering
from fmx.reporting.figures.palette import DPI, GREY, LARGE, TEXT

__all__ = ["HEADER", "MARGIN", "page"]

MARGIN = 0.2  # inches, like all lengths of the figures
HEADER = 0.65


def page(width: float, height: float, lettering: Lettering, *, title: str, subtitle: str) -> tuple[Figure, Axes]:
    """Start a figure with a title and an invisible Axes, in inches from the top left corner.

    The figure becomes wider if the title needs it.
    """
    title_width = max(lettering.width(title, size=LARGE), lettering.width(subtitle, size=TEXT))
    width = max(width, title_width + 2 * MARGIN)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    lettering.write(axes, MARGIN, 0.28, title, size=LARGE)
    lettering.write(axes, MARGIN, 0.47, subtitle, color=GREY)
    return figure, axes
