"""A figure that is laid out in inches."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmx.figures.lettering import Lettering
from fmx.figures.palette import DPI, GREY, LARGE, TEXT

__all__ = ["HEADER", "MARGIN", "page"]

MARGIN = 0.2  # inches, like HEADER
HEADER = 0.65


def page(width: float, height: float, lettering: Lettering, *, title: str, subtitle: str) -> tuple[Figure, Axes]:
    """Start a figure with a title and one invisible Axes, whose coordinates are inches from the top left corner.

    It becomes wider where the title needs it.
    """
    width = max(width, 2 * MARGIN + max(lettering.width(title, LARGE), lettering.width(subtitle, TEXT)))
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(MARGIN, 0.28, title, va="baseline", **lettering.style(LARGE))
    axes.text(MARGIN, 0.47, subtitle, va="baseline", **lettering.style(TEXT, GREY))
    return figure, axes
