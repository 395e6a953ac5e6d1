"""Pictures with captions, in rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fmx.figures.lettering import Lettering
from fmx.figures.page import HEADER, MARGIN, page
from fmx.figures.palette import INK, PALE, TEXT

__all__ = ["Caption", "Images", "Tile", "image_grid", "picture"]

COLUMNS = 8
SIDE = 1.0  # of a picture; all lengths are in inches
GAP = 0.2
TEXT_WIDTH = 1.14
LINE = 0.145  # from one line of text to the next
MAX_LINES = 3
RGB = 3


class Images(Protocol):
    """Images by position, each uint8 (C, H, W): a tensor or an array on the CPU, or something that reads them one by one."""

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Caption:
    """A text under a picture."""

    text: str
    color: str = INK


@dataclass(frozen=True)
class Tile:
    """A picture uint8 (C, H, W), its captions, and the colour of its frame (None: a thin grey one)."""

    image: Any
    captions: Sequence[Caption]
    frame: str | None = None


def image_grid(tiles: Sequence[Tile], lettering: Lettering, *, title: str, subtitle: str) -> Figure:
    """Draw pictures in rows of eight, with their captions beneath, broken into lines where they are long."""
    texts = [
        [
            (line, caption.color)
            for caption in tile.captions
            for line in lettering.wrapped(caption.text, width=TEXT_WIDTH, size=TEXT, max_lines=MAX_LINES)
        ]
        for tile in tiles
    ]
    rows = [slice(first, first + COLUMNS) for first in range(0, len(tiles), COLUMNS)]
    heights = [SIDE + GAP + LINE * (max(map(len, texts[row])) + 0.5) for row in rows]
    width = 2 * MARGIN - GAP + (SIDE + GAP) * min(len(tiles), COLUMNS)
    figure, axes = page(width, HEADER + sum(heights), lettering, title=title, subtitle=subtitle)
    for row, top in zip(rows, HEADER + np.cumsum([0, *heights]), strict=False):
        for column, (tile, lines) in enumerate(zip(tiles[row], texts[row], strict=True)):
            left = MARGIN + column * (SIDE + GAP)
            picture(axes, tile.image, left=left, top=top, side=SIDE, frame=tile.frame)
            for number, (line, color) in enumerate(lines, start=1):
                baseline = top + SIDE + LINE * (number + 0.1)
                axes.text(left + SIDE / 2, baseline, line, ha="center", va="baseline", **lettering.style(TEXT, color))
    return figure


def picture(axes: Axes, image: Any, *, left: float, top: float, side: float, frame: str | None = None) -> None:
    """Draw an image (C, H, W) into the middle of a square of `side` inches; colours where C is 3, else the mean as grey."""
    pixels = np.asarray(image)
    if len(pixels) != RGB:
        pixels = np.broadcast_to(pixels.mean(axis=0).astype(np.uint8), (RGB, *pixels.shape[1:]))
    height, width = (side * n / max(pixels.shape[1:]) for n in pixels.shape[1:])
    left, top = left + (side - width) / 2, top + (side - height) / 2
    axes.imshow(pixels.transpose(1, 2, 0), extent=(left, left + width, top + height, top), aspect="auto")
    thickness = 2.5 if frame else 0.5
    axes.add_artist(Rectangle((left, top), width, height, fill=False, edgecolor=frame or PALE, linewidth=thickness))
