"""How loss and accuracy went while a model was trained."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from fmx.figures.palette import BLUE, DPI, GREY, INK, LARGE, PALE, TEXT, VERMILION

__all__ = ["learning_curves"]

PARTS = {"train": ("training", BLUE, "-"), "val": ("validation", VERMILION, "-")}
MAX_MARKERS = 40


def learning_curves(history: pd.DataFrame, chosen_step: int | None) -> Figure:
    """Draw loss and accuracy by epoch, or by step where there were several validations an epoch.

    history: the columns of history.csv, a row a validation; values may be missing, and accuracy is in 0..1.
    chosen_step: the step of the row whose checkpoint was chosen; None, or a step without a row, marks nothing.
    """
    history = history.drop_duplicates("step", keep="last").sort_values("step")
    x = "epoch" if history["epoch"].is_unique else "step"
    chosen = history[history["step"] == chosen_step]
    figure = Figure(figsize=(8.4, 3.3), dpi=DPI, facecolor="white")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _panel(axes, history, chosen, x, name)
    figure.axes[1].yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.14, top=0.80, wspace=0.2)
    handles = [...]
    return figure
