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
LARGE_CELLS = {10: 0.64, MAX_NUMBERED: 0.5}  # inches, for up to so many classes
SMALL_CELL = 0.24
MIN_SIDE, MAX_SIDE = 2.4, 11.5
NAME_WIDTH, NAME_HEIGHT = 2.3, 0.13
PAD, AXIS_LABEL, BAR, BAR_LABELS = 0.1, 0.2, 0.13, 0.5
TICKS = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]
DARK = 0.35  # the share from which a cell is too dark for dark text


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw a heat map of how many images of each class (rows) were given which name (columns).

    labels, predicted: integers in 0..K-1 (N,). Colours are shares of a row, on a square-root scale that keeps rare
    confusions visible. Up to 20 classes the cells say count and percentage; beyond 100 not every class is named.
    """
    labels, predicted, num_classes = np.asarray(labels), np.asarray(predicted), len(class_names)
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, -1)  # (K, K)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # a class without images has a row of zeros
    lettering = Lettering(class_names)
    subtitle = f"{len(labels):,} test images, {100 * np.trace(counts) / max(len(labels), 1):.2f} % right; a row is a true class"
    figure, axes, bar = _layout(lettering, subtitle)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")
    if num_classes <= MAX_NUMBERED:
        _write_numbers(axes, counts, shares, lettering)
    figure.colorbar(image, cax=bar, ticks=TICKS, format=lambda share, _: f"{100 * share:.0f} %")
    bar.tick_params(labelsize=SMALL, labelcolor=INK, color=PALE, labelfontfamily=lettering.families)
    for spine in [*axes.spines.values(), *bar.spines.values()]:
        spine.set(color=PALE, linewidth=0.5)
    return figure


def _layout(lettering: Lettering, subtitle: str) -> tuple[Figure, Axes, Axes]:
    """Place a square Axes with class names on two sides and a narrow one to its right, on a page that fits them."""
    num_classes = len(lettering.names)
    cell = next((size for limit, size in LARGE_CELLS.items() if num_classes <= limit), SMALL_CELL)
    side = min(max(cell * num_classes, MIN_SIDE), MAX_SIDE)
    size = TEXT if num_classes <= MAX_NUMBERED else SMALL
    named = range(0, num_classes, ceil(num_classes / MAX_NAMED))
    names = [lettering.shortened(lettering.names[k], width=NAME_WIDTH, size=size) for k in named]
    longest = max(lettering.width(name, size) for name in names)
    angle = 0 if longest < 0.9 * side / num_classes else 45 if num_classes <= MAX_NUMBERED else 90
    left = MARGIN + AXIS_LABEL + longest + PAD
    below = PAD + longest * sin(radians(angle)) + NAME_HEIGHT * cos(radians(angle))
    width, height = left + side + PAD + BAR + BAR_LABELS, HEADER + side + below + AXIS_LABEL + MARGIN
    figure, sheet = page(width, height, lettering, title="Confusion matrix", subtitle=subtitle)
    width = figure.get_figwidth()
    bottom = (height - HEADER - side) / height
    axes = figure.add_axes((left / width, bottom, side / width, side / height))
    bar = figure.add_axes(((left + side + PAD) / width, bottom, BAR / width, side / height))
    axes.set(xticks=[], yticks=[])
    style = lettering.style(size)
    for k, name in zip(named, names, strict=True):
        middle, base = (k + 0.5) * side / num_classes, HEADER + side + PAD / 2
        sheet.text(left - PAD / 2, HEADER + middle, name, ha="right", va="center", **style)
        slant = {"rotation": angle, "rotation_mode": "anchor", "ha": "right" if angle else "center"}
        sheet.text(left + middle, base, name, va="center" if angle > 45 else "top", **slant, **style)
    sheet.text(left + side / 2, height - MARGIN, "predicted", ha="center", va="baseline", **lettering.style(TEXT, GREY))
    sheet.text(MARGIN, HEADER + side / 2, "true", rotation=90, va="center", **lettering.style(TEXT, GREY))
    return figure, axes, bar


def _write_numbers(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], lettering: Lettering) -> None:
    """Write the count and the percentage into each cell, and a pale 0 into the empty ones."""
    num_classes = len(counts)
    edges = np.arange(0.5, num_classes - 1)
    axes.hlines(edges, -0.5, num_classes - 0.5, color="white", linewidth=1)
    axes.vlines(edges, -0.5, num_classes - 0.5, color="white", linewidth=1)
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        color = "white" if share > DARK else INK if count else PALE
        axes.text(column, row, f"{count:,}", ha="center", va="bottom" if count else "center", **lettering.style(TEXT, color))
        if count:
            axes.text(column, row, f"{100 * share:.1f} %", ha="center", va="top", **lettering.style(SMALL, color))
