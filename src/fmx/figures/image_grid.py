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
SIDE, GAP = 1.0, 0.2  # inches, like the others
CAPTION_WIDTH = 1.14
LINE = 0.145  # from one line of a caption to the next
MAX_LINES = 3
RGB = 3


class Images(Protocol):
    """Images by position, uint8 (C, H, W): a tensor or array on the CPU, or what reads them one by one."""

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Caption:
    """A text under a picture."""

    text: str
    color: str = INK


@dataclass(frozen=True)
class Tile:
    """A picture uint8 (C, H, W) with its captions, and the colour of its frame where it is to stand out."""

    image: Any
    captions: Sequence[Caption]
    frame: str | None = None


def image_grid(tiles: Sequence[Tile], lettering: Lettering, *, title: str, subtitle: str) -> Figure:
    """Draw pictures in rows of eight, with captions beneath that are broken into up to three lines each."""
    lines = [_lines(tile.captions, lettering) for tile in tiles]
    rows = [slice(first, first + COLUMNS) for first in range(0, len(tiles), COLUMNS)]
    heights = [SIDE + GAP + LINE * (max(map(len, lines[row])) + 0.5) for row in rows]
    width = 2 * MARGIN + (SIDE + GAP) * min(len(tiles), COLUMNS) - GAP
    figure, axes = page(width, HEADER + sum(heights), lettering, title=title, subtitle=subtitle)
    tops = HEADER + np.cumsum([0, *heights[:-1]])
    for row, top in zip(rows, tops, strict=True):
        for column, (tile, captions) in enumerate(zip(tiles[row], lines[row], strict=True)):
            left = MARGIN + column * (SIDE + GAP)
            picture(axes, tile.image, left=left, top=top, side=SIDE, frame=tile.frame)
            for number, line in enumerate(captions, start=1):
                baseline = top + SIDE + LINE * (number + 0.1)
                lettering.write(axes, left + SIDE / 2, baseline, line.text, color=line.color, ha="center")
    return figure


def picture(axes: Axes, image: Any, *, left: float, top: float, side: float, frame: str | None = None) -> None:
    """Draw an image (C, H, W) in the middle of a square: in colour where C is 3, else the mean as grey."""
    pixels = np.asarray(image)
    if len(pixels) != RGB:
        pixels = np.broadcast_to(pixels.mean(axis=0).astype(np.uint8), (RGB, *pixels.shape[1:]))
    height, width = (side * n / max(pixels.shape[1:]) for n in pixels.shape[1:])
    left, top = left + (side - width) / 2, top + (side - height) / 2
    extent = (left, left + width, top + height, top)
    axes.imshow(pixels.transpose(1, 2, 0), extent=extent, origin="upper", aspect="auto")
    outline: dict[str, Any] = {"edgecolor": frame or PALE, "linewidth": 2.5 if frame else 0.5}
    axes.add_artist(Rectangle((left, top), width, height, fill=False, **outline))


def _lines(captions: Sequence[Caption], lettering: Lettering) -> list[Caption]:
    return [
        Caption(line, caption.color)
        for caption in captions
        for line in lettering.wrapped(caption.text, width=CAPTION_WIDTH, size=TEXT, max_lines=MAX_LINES)
    ]
