"""Loss and accuracy of each training step."""

import pandas as pd
from matplotlib.figure import Figure

from fmx.reporting.figures.learning_curves import frame
from fmx.reporting.figures.palette import BLUE, DPI, PALE, TEXT

__all__ = ["step_curves"]

SHARE_SMOOTHED = 0.02  # of all steps, over which the mean is drawn
SIZE = (8.4, 3.5)


def step_curves(steps: pd.DataFrame) -> Figure:
    """Draw the loss and accuracy of each training step, and their running mean.

    steps: the columns of steps.csv, one row per step; accuracies are in 0..1.
    """
    width = max(1, round(SHARE_SMOOTHED * len(steps)))
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white")
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        frame(axes, "step", name)
        values = steps[name].astype(float)
        finite = values.where(values.abs() < float("inf"))
        (each,) = axes.plot(steps["step"], finite, color=PALE if width > 1 else BLUE, linewidth=0.7, label="each step")
        each.set_marker("o" if len(steps) == 1 else "")
        if width > 1:
            smooth = finite.rolling(width, min_periods=1).mean()
            axes.plot(steps["step"], smooth, color=BLUE, linewidth=1.4, label=f"mean of the last {width} steps")
    figure.legend(handles=panels[0].lines, loc="upper right", ncols=2, frameon=False, fontsize=TEXT)
    figure.subplots_adjust(left=0.07, right=0.97, bottom=0.13, top=0.81, wspace=0.2)
    return figure
