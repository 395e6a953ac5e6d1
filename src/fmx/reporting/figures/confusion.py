"""The confusion matrix of a trained model."""

from collections.abc import Sequence
from math import ceil, cos, radians, sin
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fmx.reporting.figures.lettering import Lettering
from fmx.reporting.figures.page import HEADER, MARGIN, page
from fmx.reporting.figures.palette import GREY, INK, PALE, SMALL, TEXT
from fmx.reporting.figures.sharp_image import sharp_image

__all__ = ["confusion_matrix"]

MAX_NUMBERED = 20  # classes up to which cells show their numbers
MAX_NAMED = 100  # classes up to which each is named
MAX_WHOLE = 300  # classes up to which all are shown: beyond, a cell is hardly a pixel, and K x K cells take memory
CELLS = {10: 0.64, MAX_NUMBERED: 0.5, np.inf: 0.24}  # inches, by the number of classes up to which it applies
MIN_SIDE, MAX_SIDE = 2.4, 11.5
NAME_WIDTH, NAME_HEIGHT = 2.3, 0.13
PAD, AXIS_LABEL, BAR, BAR_LABELS = 0.1, 0.2, 0.13, 0.5
UPRIGHT = 90  # degrees
LEVELS = 256  # of colour
TICK = 3.5 / 72  # inches: as long as matplotlib's
TICKS = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]
DARK = 0.35  # share above which a cell is too dark for dark text


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw a heat map of the numbers of images by true class (rows) and predicted class (columns).

    labels, predicted: integers in 0..K-1 (N,). Colours are shares of a row, on a square-root scale that keeps
    rare confusions visible. Up to 20 classes cells show count and percentage; beyond 100 not all are named, and beyond
    300 only the 100 that are confused most often are shown.
    """
    labels, predicted = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    shown = _shown(labels, predicted, len(class_names))
    num_classes = len(shown)
    places = np.full(len(class_names), -1)
    places[shown] = np.arange(num_classes)
    rows, columns = places[labels], places[predicted]
    inside = (rows >= 0) & (columns >= 0)
    counts = np.bincount(rows[inside] * num_classes + columns[inside], minlength=num_classes**2)
    counts = counts.reshape(num_classes, num_classes)
    images = np.bincount(labels, minlength=len(class_names))[shown]
    shares = counts / np.maximum(images, 1)[:, None]  # a class without images has zeros
    right = 100 * np.mean(labels == predicted) if len(labels) else 0.0
    lettering = Lettering([class_names[label] for label in shown])
    subtitle = f"{len(labels):,} test images, {right:.2f} % right; a row is a true class"
    if num_classes < len(class_names):
        subtitle += f"; the {num_classes} of {len(class_names):,} classes that are confused most often"
    figure, axes, bar = _layout(lettering, subtitle)
    extent = (-0.5, num_classes - 0.5, num_classes - 0.5, -0.5)
    colors: dict[str, Any] = {"cmap": "Blues", "norm": PowerNorm(0.5, vmin=0, vmax=1)}
    sharp_image(axes, shares, extent, **colors)
    if num_classes <= MAX_NUMBERED:
        _write_numbers(axes, counts, shares, lettering)
    _draw_scale(bar, colors, lettering)
    for spine in [*axes.spines.values(), *bar.spines.values()]:
        spine.set(color=PALE, linewidth=0.5)
    return figure


def _shown(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """The classes to show, in their order: all, or those of the most frequent confusions."""
    classes = np.arange(num_classes)
    if num_classes <= MAX_WHOLE:
        return classes
    wrong = labels != predicted
    pairs, times = np.unique(labels[wrong] * num_classes + predicted[wrong], return_counts=True)
    pairs = pairs[np.argsort(-times, kind="stable")]
    confused, first = np.unique(np.stack(np.divmod(pairs, num_classes), axis=1), return_index=True)
    confused = confused[np.argsort(first)]
    return np.sort(np.concatenate([confused, np.setdiff1d(classes, confused)])[:MAX_NAMED])


def _layout(lettering: Lettering, subtitle: str) -> tuple[Figure, Axes, Axes]:
    """Place a square Axes with class names on two sides, and a narrow one, on a page that fits them."""
    num_classes = len(lettering.names)
    side = num_classes * next(cell for limit, cell in CELLS.items() if num_classes <= limit)
    side = min(max(side, MIN_SIDE), MAX_SIDE)
    size = TEXT if num_classes <= MAX_NUMBERED else SMALL
    names = [lettering.shortened(name, width=NAME_WIDTH, size=size) for name in lettering.names]
    longest = max(lettering.width(name, size=size) for name in names)
    slant = 0 if longest < 0.9 * side / num_classes else 45 if num_classes <= MAX_NUMBERED else UPRIGHT
    left = MARGIN + AXIS_LABEL + longest + PAD
    below = PAD + longest * sin(radians(slant)) + NAME_HEIGHT * cos(radians(slant))
    width, height = left + side + PAD + BAR + BAR_LABELS, HEADER + side + below + AXIS_LABEL + MARGIN
    figure, sheet = page(width, height, lettering, title="Confusion matrix", subtitle=subtitle)
    lettering.write(sheet, MARGIN, HEADER + side / 2, "true", color=GREY, rotation=90, va="center")
    lettering.write(sheet, left + side / 2, height - MARGIN, "predicted", color=GREY, ha="center")
    width, bottom = figure.get_figwidth(), (height - HEADER - side) / height
    axes = figure.add_axes((left / width, bottom, side / width, side / height), xticks=[], yticks=[])
    bar = figure.add_axes(((left + side + PAD) / width, bottom, BAR / width, side / height), xticks=[], yticks=[])
    _write_names(axes, names, lettering, size=size, slant=slant, gap=PAD / 2 * num_classes / side)
    return figure, axes, bar


def _write_names(
    axes: Axes, names: Sequence[str], lettering: Lettering, *, size: float, slant: int, gap: float
) -> None:
    """Write class names to the left and below, `gap` cells away."""
    below: dict[str, Any] = {
        "ha": "right" if slant else "center",
        "va": "center" if slant == UPRIGHT else "top",
    }
    below |= {"rotation": slant, "rotation_mode": "anchor"}
    for label in range(0, len(names), ceil(len(names) / MAX_NAMED)):
        lettering.write(axes, -0.5 - gap, label, names[label], size=size, ha="right", va="center")
        lettering.write(axes, label, len(names) - 0.5 + gap, names[label], size=size, **below)


def _draw_scale(bar: Axes, colors: dict[str, Any], lettering: Lettering) -> None:
    """Draw the colours of the shares with ticks at their right; a colorbar of matplotlib takes 20 ms more."""
    norm = colors["norm"]
    levels = norm.inverse(np.arange(LEVELS - 0.5, 0, -1) / LEVELS)  # the largest at the top
    sharp_image(bar, levels[:, None], (0, 1, 0, 1), **colors)
    end = 1 + TICK / BAR
    bar.hlines(norm(TICKS), 1, end, color=PALE, linewidth=0.8, clip_on=False)
    for share, place in zip(TICKS, norm(TICKS), strict=True):
        lettering.write(bar, end + TICK / BAR, place, f"{100 * share:.0f} %", size=SMALL, va="center")


def _write_numbers(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], lettering: Lettering) -> None:
    """Write the count and the percentage into each cell, and a pale 0 into the empty ones."""
    end = len(counts) - 0.5
    axes.hlines(np.arange(0.5, end), -0.5, end, color="white", linewidth=1)
    axes.vlines(np.arange(0.5, end), -0.5, end, color="white", linewidth=1)
    for (row, column), count in np.ndenumerate(counts):
        if not count:
            lettering.write(axes, column, row, "0", color=PALE, ha="center", va="center")
            continue
        share = shares[row, column]
        color = "white" if share > DARK else INK
        lettering.write(axes, column, row, f"{count:,}", color=color, ha="center", va="bottom")
        percent = f"{100 * share:.1f} %"
        lettering.write(axes, column, row, percent, size=SMALL, color=color, ha="center", va="top")
