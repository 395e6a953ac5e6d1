"""Pictures with captions, in rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fmx.figures.lettering import Lettering
from fmx.figures.palette import DPI, GREY, INK, LARGE, PALE, TEXT

__all__ = ["Caption", "Images", "Tile", "image_grid", "page", "picture"]

COLUMNS = 8
SIDE = 1.0  # of a picture; all lengths are in inches
GAP = 0.16
LINE = 0.145  # from one line of text to the next
MARGIN = 0.2
HEADER = 0.65
MAX_LINES = 3
MIN_WIDTH = 4.6  # for the title
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
            for line in lettering.wrapped(caption.text, width=SIDE + GAP / 3, size=TEXT, max_lines=MAX_LINES)
        ]
        for tile in tiles
    ]
    rows = [slice(first, first + COLUMNS) for first in range(0, len(tiles), COLUMNS)]
    heights = [SIDE + GAP + LINE * (max(map(len, texts[row])) + 0.5) for row in rows]
    width = 2 * MARGIN - GAP + (SIDE + GAP) * min(len(tiles), COLUMNS)
    figure, axes = page(max(width, MIN_WIDTH), HEADER + sum(heights), lettering, title=title, subtitle=subtitle)
    for row, top in zip(rows, HEADER + np.cumsum([0, *heights]), strict=False):
        for column, (tile, lines) in enumerate(zip(tiles[row], texts[row], strict=True)):
            left = MARGIN + column * (SIDE + GAP)
            picture(axes, tile.image, left=left, top=top, side=SIDE, frame=tile.frame)
            for number, (line, color) in enumerate(lines, start=1):
                baseline = top + SIDE + LINE * (number + 0.1)
                axes.text(left + SIDE / 2, baseline, line, ha="center", va="baseline", **lettering.style(TEXT, color))
    return figure


def page(width: float, height: float, lettering: Lettering, *, title: str, subtitle: str) -> tuple[Figure, Axes]:
    """Start a figure with a title and one invisible Axes, whose coordinates are inches from the top left corner."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(MARGIN, 0.28, title, va="baseline", **lettering.style(LARGE))
    axes.text(MARGIN, 0.47, subtitle, va="baseline", **lettering.style(TEXT, GREY))
    return figure, axes


def picture(axes: Axes, image: Any, *, left: float, top: float, side: float, frame: str | None = None) -> None:
    """Draw an image (C, H, W) into the middle of a square of `side` inches; colours where C is 3, else the mean as grey."""
    pixels = np.asarray(image)
    pixels = pixels.transpose(1, 2, 0) if len(pixels) == RGB else pixels.mean(axis=0)
    height, width = (side * n / max(pixels.shape[:2]) for n in pixels.shape[:2])
    left, top = left + (side - width) / 2, top + (side - height) / 2
    extent = (left, left + width, top + height, top)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
    thickness = 2.5 if frame else 0.5
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=frame or PALE, linewidth=thickness))
