"""Which classes a trained model takes for which."""

from collections.abc import Sequence
from math import ceil, cos, radians, sin
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fmx.figures.lettering import Lettering
from fmx.figures.page import HEADER, MARGIN, page
from fmx.figures.palette import GREY, INK, PALE, SMALL, TEXT

__all__ = ["confusion_matrix"]

MAX_NUMBERED = 20  # classes up to which the cells say their numbers
MAX_NAMED = 100  # classes up to which each is named
CELLS = {10: 0.64, MAX_NUMBERED: 0.5, np.inf: 0.24}  # inches, like the others, for up to so many classes
MIN_SIDE, MAX_SIDE = 2.4, 11.5
NAME_WIDTH, NAME_HEIGHT = 2.3, 0.13
PAD, AXIS_LABEL, BAR, BAR_LABELS = 0.1, 0.2, 0.13, 0.5
TICKS = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]
DARK = 0.35  # the share from which a cell is too dark for dark text


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw a heat map of how many images of each class (rows) were given which name (columns).

    labels, predicted: integers in 0..K-1 (N,). Colours are shares of a row, on a square-root scale that keeps
    rare confusions visible. Up to 20 classes the cells say count and percentage; beyond 100 not all are named.
    """
    labels, predicted, num_classes = np.asarray(labels), np.asarray(predicted), len(class_names)
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    counts = counts.reshape(num_classes, num_classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # a class without images has zeros
    right = 100 * np.trace(counts) / max(len(labels), 1)
    lettering = Lettering(class_names)
    figure, axes, bar = _layout(lettering, f"{len(labels):,} test images, {right:.2f} % right; a row is a true class")
    heat = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")
    if num_classes <= MAX_NUMBERED:
        _write_numbers(axes, counts, shares, lettering)
    figure.colorbar(heat, cax=bar, ticks=TICKS, format=lambda share, _: f"{100 * share:.0f} %")
    bar.tick_params(labelsize=SMALL, labelcolor=INK, color=PALE)
    for spine in [*axes.spines.values(), *bar.spines.values()]:
        spine.set(color=PALE, linewidth=0.5)
    return figure


def _layout(lettering: Lettering, subtitle: str) -> tuple[Figure, Axes, Axes]:
    """Place a square Axes with class names on two sides, and a narrow one next to it, on a page of their size."""
    num_classes = len(lettering.names)
    side = next(cell for limit, cell in CELLS.items() if num_classes <= limit) * num_classes
    side = min(max(side, MIN_SIDE), MAX_SIDE)
    size = TEXT if num_classes <= MAX_NUMBERED else SMALL
    names = [lettering.shortened(name, width=NAME_WIDTH, size=size) for name in lettering.names]
    longest = max(lettering.width(name, size=size) for name in names)
    slant = 0 if longest < 0.9 * side / num_classes else 45 if num_classes <= MAX_NUMBERED else 90
    left = MARGIN + AXIS_LABEL + longest + PAD
    below = PAD + longest * sin(radians(slant)) + NAME_HEIGHT * cos(radians(slant))
    width, height = left + side + PAD + BAR + BAR_LABELS, HEADER + side + below + AXIS_LABEL + MARGIN
    figure, sheet = page(width, height, lettering, title="Confusion matrix", subtitle=subtitle)
    lettering.write(sheet, MARGIN, HEADER + side / 2, "true", rotation=90, va="center", color=GREY)
    lettering.write(sheet, left + side / 2, height - MARGIN, "predicted", ha="center", color=GREY)
    below_names = {"rotation": slant, "rotation_mode": "anchor", "ha": "right" if slant else "center"}
    for label in range(0, num_classes, ceil(num_classes / MAX_NAMED)):
        along = (label + 0.5) * side / num_classes
        ...
    return figure, _axes_at(...)
