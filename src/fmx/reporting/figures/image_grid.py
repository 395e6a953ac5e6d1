"""Pictures with captions, in rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fmx.reporting.figures.lettering import Lettering
from fmx.reporting.figures.page import HEADER, MARGIN, page
from fmx.reporting.figures.palette import DPI, INK, PALE, TEXT
from fmx.reporting.figures.sharp_image import sharp_image

__all__ = ["Caption", "Images", "Placed", "Tile", "image_grid", "show"]

COLUMNS = 8
SIDE, GAP = 1.0, 0.2  # inches, like the others
CAPTION_WIDTH = 1.14
LINE = 0.145  # from one line of a caption to the next
MAX_LINES = 3
RGB = 3
SEEN = 3  # upscaling from which pixels keep sharp edges, as in matplotlib


class Images(Protocol):
    """Images by position, uint8 (C, H, W): a tensor or array on the CPU, or an object that reads them one by one."""

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Caption:
    """A text under a picture."""

    text: str
    color: str = INK


@dataclass(frozen=True)
class Tile:
    """A picture uint8 (C, H, W) with its captions, and the colour of a frame that highlights it."""

    image: Any
    captions: Sequence[Caption]
    frame: str | None = None


@dataclass(frozen=True)
class Placed:
    """A picture uint8 (C, H, W), the top left corner of its square on the page, and the colour of its frame."""

    image: Any
    left: float
    top: float
    frame: str | None = None


def image_grid(tiles: Sequence[Tile], lettering: Lettering, *, title: str, subtitle: str) -> Figure:
    """Draw pictures in rows of eight, with captions of up to three lines each below."""
    lines = [_lines(tile.captions, lettering) for tile in tiles]
    rows = [slice(first, first + COLUMNS) for first in range(0, len(tiles), COLUMNS)]
    heights = [SIDE + GAP + LINE * (max(map(len, lines[row])) + 0.5) for row in rows]
    width = 2 * MARGIN + (SIDE + GAP) * min(len(tiles), COLUMNS) - GAP
    figure, axes = page(width, HEADER + sum(heights), lettering, title=title, subtitle=subtitle)
    tops = HEADER + np.cumsum([0, *heights[:-1]])
    placed = []
    for row, top in zip(rows, tops, strict=True):
        for column, (tile, captions) in enumerate(zip(tiles[row], lines[row], strict=True)):
            left = MARGIN + column * (SIDE + GAP)
            placed.append(Placed(tile.image, left, top, tile.frame))
            for number, line in enumerate(captions, start=1):
                baseline = top + SIDE + LINE * (number + 0.1)
                lettering.write(axes, left + SIDE / 2, baseline, line.text, color=line.color, ha="center")
    show(axes, placed, side=SIDE)
    return figure


def show(axes: Axes, placed: Sequence[Placed], *, side: float) -> None:
    """Draw pictures, each in the middle of its square, as a single image, which is faster than one for each."""
    width, height = max(axes.get_xlim()), max(axes.get_ylim())
    sheet = np.zeros((round(height * DPI), round(width * DPI), 4), np.uint8)
    outlines = []
    for each in placed:
        pixels = _coloured(np.asarray(each.image))
        shown = [max(1, round(DPI * side * n / max(pixels.shape[:2]))) for n in pixels.shape[:2]]
        first = [round(DPI * (at + side / 2) - n / 2) for at, n in zip((each.top, each.left), shown, strict=True)]
        (top, left), (rows, columns) = first, shown
        sheet[top : top + rows, left : left + columns] = _scaled(pixels, rows, columns)
        x, y = (left, left + columns), (top, top + rows)
        outlines.append(np.array([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]) / DPI)
    extent = (0, sheet.shape[1] / DPI, sheet.shape[0] / DPI, 0)
    sharp_image(axes, sheet, extent)
    colors = [each.frame or PALE for each in placed]
    widths = [2.5 if each.frame else 0.5 for each in placed]
    axes.add_collection(PolyCollection(outlines, facecolors="none", edgecolors=colors, linewidths=widths))


def _coloured(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (C, H, W) as (H, W, 3): in colour where C is 3, else the mean as grey."""
    if len(image) != RGB:
        image = np.broadcast_to(image.mean(axis=0).astype(np.uint8), (RGB, *image.shape[1:]))
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def _scaled(pixels: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Resize an image to RGBA (rows, columns, 4); pixels that become large keep sharp edges."""
    how = Image.Resampling.NEAREST if rows >= SEEN * len(pixels) else Image.Resampling.HAMMING
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), how).convert("RGBA"))


def _lines(captions: Sequence[Caption], lettering: Lettering) -> list[Caption]:
    return [
        Caption(line, caption.color)
        for caption in captions
        for line in lettering.wrapped(caption.text, width=CAPTION_WIDTH, size=TEXT, max_lines=MAX_LINES)
    ]
