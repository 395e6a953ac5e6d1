"""Training images of the classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fmx.reporting.figures.image_grid import Caption, Images, Placed, Tile, image_grid, show
from fmx.reporting.figures.lettering import Lettering
from fmx.reporting.figures.page import HEADER, MARGIN, page
from fmx.reporting.figures.palette import GREY, TEXT

__all__ = ["samples"]

MAX_ROWS = 10
PER_ROW = 8
MAX_TILES = 48
SIDE, GAP, NAME_GAP = 0.72, 0.08, 0.15  # inches
NAME_WIDTH = 1.7


def samples(images: Images, labels: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw training images: one row per class for up to 10 classes, else one image each of up to 48 classes.

    images: uint8 (N, C, H, W); labels: integers in 0..K-1 (N,). The images are spread evenly over the set.
    """
    labels, lettering = np.asarray(labels), Lettering(class_names)
    if len(class_names) <= MAX_ROWS:
        return _rows(images, labels, lettering)
    classes, first = np.unique(labels, return_index=True)
    chosen = _spread(np.arange(len(classes)), MAX_TILES)
    tiles = [
        Tile(images[int(index)], [Caption(lettering.names[label])])
        for label, index in zip(classes[chosen], first[chosen], strict=True)
    ]
    subtitle = f"{len(tiles)} of {len(class_names)} classes, an image each; {len(labels):,} images in all"
    return image_grid(tiles, lettering, title="Training images", subtitle=subtitle)


def _rows(images: Images, labels: NDArray[Any], lettering: Lettering) -> Figure:
    names = [lettering.wrapped(name, width=NAME_WIDTH, size=TEXT, max_lines=3) for name in lettering.names]
    first = MARGIN + NAME_GAP + max(lettering.width(line, size=TEXT) for name in names for line in name)
    width = first + PER_ROW * (SIDE + GAP) - GAP + MARGIN
    height = HEADER + len(names) * (SIDE + GAP) - GAP + MARGIN
    subtitle = f"{len(labels):,} images in all"
    figure, axes = page(width, height, lettering, title="Training images", subtitle=subtitle)
    placed = []
    for label, name in enumerate(names):
        top = HEADER + label * (SIDE + GAP)
        middle = top + SIDE / 2
        lettering.write(axes, first - NAME_GAP, middle, "\n".join(name), ha="right", va="center")
        chosen = _spread(np.flatnonzero(labels == label), PER_ROW)
        for column, index in enumerate(chosen):
            placed.append(Placed(images[int(index)], first + column * (SIDE + GAP), top))
        if not len(chosen):
            lettering.write(axes, first, middle, "no images", color=GREY, va="center")
    show(axes, placed, side=SIDE)
    return figure


def _spread(items: NDArray[Any], num: int) -> NDArray[Any]:
    """At most `num` of the items, evenly spaced."""
    positions = np.linspace(0, len(items) - 1, min(num, len(items))).astype(int)
    return np.take(items, positions)
