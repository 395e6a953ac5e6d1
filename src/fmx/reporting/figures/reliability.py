"""Reliability diagrams: accuracy over confidence, before and after a temperature."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmx.reporting.figures.palette import BLUE, DPI, GREY, INK, LARGE, PALE, TEXT, VERMILION
from fmx.runs.calibration import Calibration, Reliability

__all__ = ["reliability_diagram"]

SIZE = (8.4, 4.6)
LOW = 0.02  # share, so that a bin of wrong images alone is seen


def reliability_diagram(calibration: Calibration) -> Figure:
    """Draw accuracy and number of test images in each bin of confidence, as trained and with the temperature.

    A calibrated network follows the diagonal.
    """
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white")
    panels = figure.subplots(2, 2, sharex=True, height_ratios=[3.2, 1])
    states = {"trained": "As trained", "calibrated": f"Temperature {calibration.temperature:.3g}"}
    for column, (state, title) in enumerate(states.items()):
        measured = calibration.parts["test"][state]
        _draw(panels[0][column], measured, title)
        _draw_counts(panels[1][column], measured)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=3, frameon=False, fontsize=TEXT)
    figure.subplots_adjust(left=0.08, right=0.97, bottom=0.11, top=0.85, wspace=0.2, hspace=0.12)
    return figure


def _draw(axes: Axes, measured: Reliability, title: str) -> None:
    width = 1 / len(measured.counts)
    filled = [number for number, count in enumerate(measured.counts) if count]
    middles = np.array([(number + 0.5) * width for number in filled])
    accuracy, confidence = (
        np.array([values[number] for number in filled], float) for values in (measured.accuracy, measured.confidence)
    )
    axes.bar(middles, np.maximum(accuracy, LOW), width=0.94 * width, color=BLUE, label="accuracy on the test set")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", label="perfect calibration")
    axes.plot(confidence, confidence, "_", color=VERMILION, markersize=9, markeredgewidth=1.6, label="mean confidence")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(title, loc="left", fontsize=LARGE, color=INK)
    low, high = measured.ece_interval
    text = f"ECE {100 * measured.ece:.2f} %  ({100 * low:.2f} to {100 * high:.2f})"
    axes.set_title(text, loc="right", fontsize=TEXT, color=INK)
    axes.set_ylabel("accuracy", fontsize=TEXT, color=INK)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.5g} %")
    _style(axes)


def _draw_counts(axes: Axes, measured: Reliability) -> None:
    width = 1 / len(measured.counts)
    middles = (np.arange(len(measured.counts)) + 0.5) * width
    axes.bar(middles, measured.counts, width=0.94 * width, color=PALE)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel("confidence", fontsize=TEXT, color=INK)
    axes.set_ylabel("images", fontsize=TEXT, color=INK)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.5g} %")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _style(axes)


def _style(axes: Axes) -> None:
    axes.tick_params(labelsize=TEXT, color=PALE, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.grid(color=PALE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
