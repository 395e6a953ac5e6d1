"""The training loss over the learning rate, of a range test."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fmx.reporting.figures.learning_curves import frame
from fmx.reporting.figures.palette import BLUE, DPI, PALE, TEXT, VERMILION

__all__ = ["lr_curve"]

SIZE = (6.4, 3.6)


def lr_curve(
    rates: NDArray[np.float64], losses: NDArray[np.float64], smooth: NDArray[np.float64], *, chosen: float
) -> Figure:
    """Draw the losses and their running mean over a logarithmic axis of rates, with a line at the one that is chosen.

    The axis of losses ends a little above the running mean's value at the first rate, which diverging losses exceed.
    """
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white")
    axes = figure.subplots()
    frame(axes, "learning rate", "training loss")
    axes.plot(rates, losses, color=PALE, linewidth=0.7, label="each step")
    axes.plot(rates, smooth, color=BLUE, linewidth=1.4, label="running mean")
    least, first = min(smooth), max(smooth[0], smooth[len(smooth) // 2])
    margin = 0.25 * (first - least) or 1.0
    axes.set_ylim(least - margin, first + 2 * margin)
    axes.set_xscale("log")
    axes.axvline(chosen, color=VERMILION, linewidth=0.8, linestyle=":", label=f"falls fastest: {chosen:.2g}")
    axes.legend(frameon=False, fontsize=TEXT, loc="upper left")
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.14, top=0.88)
    return figure
