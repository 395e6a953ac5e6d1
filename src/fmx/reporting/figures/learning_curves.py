"""Loss and accuracy during training."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fmx.reporting.figures.palette import BLUE, DPI, GREY, INK, LARGE, PALE, TEXT, VERMILION

__all__ = ["frame", "learning_curves"]

PARTS = {"train": ("training", BLUE), "val": ("validation", VERMILION)}
PANELS = ("loss", "accuracy")
ABOVE = 1.0  # of the axes' height: matplotlib would lay out all ticks to find a title's place
MAX_MARKERS = 40  # beyond, the points of a curve run together


def learning_curves(history: pd.DataFrame, chosen_step: int | None) -> Figure:
    """Draw loss and accuracy by epoch, or by step if there were several validations per epoch.

    history: the columns of history.csv, one row per validation; values may be missing, accuracies are in 0..1.
    chosen_step: the step of the chosen checkpoint, which is marked; None, or one without a row, marks nothing.
    """
    columns = _columns(history)
    x = "epoch" if len(np.unique(columns["epoch"])) == len(columns["epoch"]) else "step"
    chosen = np.flatnonzero(columns["step"] == chosen_step)
    figure = Figure(figsize=(8.4, 3.5), dpi=DPI, facecolor="white")
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, PANELS, strict=True):
        frame(axes, x, name)
        _draw_curves(axes, columns, x, name)
        if len(chosen) and axes.lines:
            _mark(axes, {column: float(values[chosen[0]]) for column, values in columns.items()}, x, name)
    handles = {str(line.get_label()): line for axes in panels for line in axes.lines}
    figure.legend(handles=[*handles.values()], loc="upper right", ncols=3, frameon=False, fontsize=TEXT)
    figure.subplots_adjust(left=0.07, right=0.97, bottom=0.13, top=0.81, wspace=0.2)
    return figure


def _columns(history: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """The columns of the last row of each step, by step; taking rows of a DataFrame costs 20 ms more."""
    names = ["epoch", "step", *(f"{part}/{name}" for part in PARTS for name in PANELS)]
    columns = {name: history[name].to_numpy(dtype=float, na_value=np.nan) for name in names}
    _, last = np.unique(columns["step"][::-1], return_index=True)
    return {name: values[::-1][last] for name, values in columns.items()}


def frame(axes: Axes, x: str, name: str) -> None:
    """Set title, ticks, grid and colours of a panel for the metric `name` over the count `x`."""
    axes.set_title(name.capitalize(), loc="left", y=ABOVE, fontsize=LARGE, color=INK)
    axes.set_xlabel(x, fontsize=TEXT, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if name == "accuracy":
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.5g} %")
    axes.tick_params(labelsize=TEXT, color=PALE, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.grid(color=PALE, linewidth=0.5, alpha=0.6)


def _draw_curves(axes: Axes, columns: Mapping[str, NDArray[np.float64]], x: str, name: str) -> None:
    for part, (label, color) in PARTS.items():
        # A loss that overflowed would leave the axis without limits.
        points = np.stack([columns[x], columns[f"{part}/{name}"]])
        points = points[:, np.isfinite(points).all(axis=0)]
        if points.size:
            marker = "o" if points.shape[1] <= MAX_MARKERS else ""
            (line,) = axes.plot(*points, label=label, color=color, marker=marker)
            line.set(linewidth=1.4, markersize=3)
    if not axes.lines:
        axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes, color=GREY, fontsize=TEXT)


def _mark(axes: Axes, row: Mapping[str, float], x: str, name: str) -> None:
    """Ring the point of the chosen checkpoint, on the validation curve if there is one."""
    at, value = row[x], row[f"val/{name}"]
    if np.isnan(value):
        value = row[f"train/{name}"]
    (ring,) = axes.plot([at], [value], "o", label="chosen checkpoint", color=INK, zorder=3)
    ring.set(markersize=8, markerfacecolor="none")
    shown = f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4f}"
    axes.set_title(f"{shown} at {x} {at:,.0f}", loc="right", y=ABOVE, fontsize=TEXT, color=INK)
