"""What the training images look like."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmx.figures.image_grid import Caption, Images, Tile, image_grid, picture
from fmx.figures.lettering import Lettering
from fmx.figures.page import HEADER, MARGIN, page
from fmx.figures.palette import GREY, TEXT

__all__ = ["samples"]

MAX_ROWS = 10
PER_ROW = 8
MAX_TILES = 48
SIDE, GAP, NAME_GAP = 0.72, 0.08, 0.15  # inches
NAME_WIDTH = 1.7


def samples(images: Images, labels: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw training images by class: a row for each of up to 10 classes, else one image of each of up to 48 classes.

    images: uint8 (N, C, H, W), C 1 or 3; labels: integers (N,). The images of a class are spread evenly over the set.
    """
    labels = np.asarray(labels)
    lettering = Lettering(class_names)
    if len(class_names) <= MAX_ROWS:
        return _rows(images, labels, lettering)
    classes = _spread(np.unique(labels), MAX_TILES)
    tiles = [Tile(images[int(np.argmax(labels == k))], [Caption(lettering.names[k])]) for k in classes]
    shown = "each" if len(tiles) == len(class_names) else f"{len(tiles)}"
    return image_grid(
        tiles,
        lettering,
        title="Training images",
        subtitle=f"one image of {shown} of {len(class_names)} classes; {len(labels):,} images in all",
    )


def _rows(images: Images, labels: np.ndarray, lettering: Lettering) -> Figure:
    lines = [lettering.wrapped(name, width=NAME_WIDTH, size=TEXT, max_lines=3) for name in lettering.names]
    name_width = max(lettering.width(line, TEXT) for name in lines for line in name)
    first = MARGIN + name_width + NAME_GAP
    figure, axes = page(
        first + PER_ROW * (SIDE + GAP) - GAP + MARGIN,
        HEADER + len(lines) * (SIDE + GAP) - GAP + MARGIN,
        lettering,
        title="Training images",
        subtitle=f"{len(labels):,} images in all",
    )
    for label, name in enumerate(lines):
        top = HEADER + label * (SIDE + GAP)
        axes.text(first - NAME_GAP, top + SIDE / 2, "\n".join(name), ha="right", va="center", **lettering.style(TEXT))
        chosen = _spread(np.flatnonzero(labels == label), PER_ROW)
        for column, index in enumerate(chosen):
            picture(axes, images[int(index)], left=first + column * (SIDE + GAP), top=top, side=SIDE)
        if not len(chosen):
            axes.text(first, top + SIDE / 2, "no images", va="center", **lettering.style(TEXT, GREY))
    return figure


def _spread(items: np.ndarray, num: int) -> np.ndarray:
    """At most `num` items, evenly spaced."""
    return items[np.linspace(0, len(items) - 1, min(num, len(items))).astype(int)]
