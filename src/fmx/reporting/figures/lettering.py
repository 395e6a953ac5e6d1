"""Text layout: names as the fonts can draw them, their widths, and line breaks."""

import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray
from PIL import ImageFont

from fmx.reporting.figures.fonts import BASE_FAMILY, family_for, lacks
from fmx.reporting.figures.palette import INK, TEXT

__all__ = ["Lettering"]

POINTS_PER_INCH = 72
MEASURED_AT = 100  # points
SLACK = 1.03  # glyphs move to whole pixels, which makes some texts a little wider
CACHED = 500  # texts that are drawn more than once, such as names and small numbers
BREAKS_AFTER = frozenset(" -_/")


class Lettering:
    """The names of a figure, and the fonts that they need; lengths are in inches, font sizes in points.

    Characters that no installed font has become `�`, line breaks and control characters become spaces.
    """

    def __init__(self, names: Sequence[str]) -> None:
        family, missing = family_for("".join(names))
        self.families = (BASE_FAMILY,) if family is None else (BASE_FAMILY, family)
        self.names = ["".join(_drawable(c, missing) for c in name).strip() for name in names]

    def write(
        self,
        axes: Axes,
        x: float,
        y: float,
        text: str,
        *,
        size: float = TEXT,
        color: str = INK,
        **properties: Any,
    ) -> None:
        """Write text at data coordinates; `$` and `_` are no markup."""
        properties |= {"parse_math": False, "usetex": False, "transform": axes.transData, "clip_on": False}
        axes.add_artist(_Line(x, y, text, fontproperties=_font(self.families, size), color=color, **properties))

    def width(self, text: str, *, size: float) -> float:
        """The width of a line of text."""
        return SLACK * size / POINTS_PER_INCH * sum(_advance(c, self.families) for c in text)

    def shortened(self, text: str, *, width: float, size: float) -> str:
        """Replace the middle of a text by an ellipsis, if it does not fit into a line."""
        return self.wrapped(text, width=width, size=size, max_lines=1)[0]

    def wrapped(self, text: str, *, width: float, size: float, max_lines: int) -> list[str]:
        """Break text into lines, and shorten it in the middle if there are too many."""
        lines = self._broken(text, width, size)
        space = max_lines * width / max(self.width(text, size=size), width)  # share of the needed width
        kept = min(len(text), 1 + int(len(text) * space))
        while len(lines) > max_lines and kept > 1:
            kept -= 1
            lines = self._broken(f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}", width, size)
        return lines

    def _broken(self, text: str, width: float, size: float) -> list[str]:
        lines = [""]
        for character in text:
            lines[-1] += character
            if self.width(lines[-1].rstrip(), size=size) > width:
                lines[-1:] = _split(lines[-1])
        return [line.strip() for line in lines]


def _split(line: str) -> tuple[str, str]:
    """Split a line that its last character made too long: after a space or a dash, else before it."""
    before_last = max(1, len(line) - 1)
    at = max((k + 1 for k, c in enumerate(line[:-1]) if c in BREAKS_AFTER), default=before_last)
    at = at if 3 * at >= len(line) else before_last  # no very short lines
    return line[:at], line[at:]


def _drawable(character: str, missing: frozenset[str]) -> str:
    if character in missing:
        return "�"
    if character.isspace() or unicodedata.category(character) == "Cc":
        return " "
    return "" if unicodedata.category(character) == "Cf" else character  # invisible, and in few fonts


@cache
def _advance(character: str, families: tuple[str, ...]) -> float:
    """The width of a character, in units of the font size."""
    font = FontProperties(family=list(families), size=MEASURED_AT)
    width, _, _ = text_to_path.get_text_width_height_descent(character, font, ismath=False)
    return float(width) / MEASURED_AT


@cache
def _font(families: tuple[str, ...], size: float) -> FontProperties:
    return FontProperties(family=list(families), size=size)


class _Line(Text):
    """A text that Pillow draws, which takes a tenth of matplotlib's time; matplotlib draws what needs its layout."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw the text."""
        text = self.get_text()
        if not text.strip():
            return
        if self.get_rotation() or not _is_plain(text):
            super().draw(renderer)
            return
        size = float(renderer.points_to_pixels(self.get_fontsize()))  # type: ignore[arg-type]
        x, y = self.get_transform().transform(self.get_unitless_position())
        pixels, left, top, length = _drawn(text, size, to_rgb(self.get_color()))
        above, below = _heights(_pillow_font(size))
        x -= {"left": 0.0, "center": 0.5, "right": 1.0}[self.get_horizontalalignment()] * length
        y += {"baseline": 0, "bottom": below, "top": -above, "center": (below - above) / 2}[
            self.get_verticalalignment()
        ]
        renderer.draw_image(_context(), round(x) + left, round(y) - top - len(pixels), pixels)
        self.stale = False

    def set_clip_path(self, *_: Any) -> None:
        """Do nothing: no text of a figure is clipped."""


@lru_cache(maxsize=CACHED)
def _is_plain(text: str) -> bool:
    """Whether a text is a single line that the base font has all characters of."""
    return "\n" not in text and not lacks(BASE_FAMILY, frozenset(text))


@lru_cache(maxsize=CACHED)
def _drawn(text: str, size: float, color: tuple[float, ...]) -> tuple[NDArray[np.uint8], int, int, float]:
    """A text in pixels (H, W, 4), the last row first, where it begins and ends, and its length."""
    font = _pillow_font(size)
    mask, (left, top) = font.getmask2(text, mode="L", anchor="ls")
    shares = np.array(mask, np.uint8).reshape(mask.size[::-1])  # (H, W)
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = np.rint(255 * np.array(color))
    pixels[..., 3] = shares
    return pixels[::-1], left, top, font.getlength(text)


@cache
def _context() -> GraphicsContextBase:
    """How images are drawn: as they are."""
    return GraphicsContextBase()


@cache
def _pillow_font(size: float) -> ImageFont.FreeTypeFont:
    """The base font at a size in pixels."""
    path = findfont(FontProperties(family=[BASE_FAMILY]))
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _heights(font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """The pixels of a line above and below its baseline, as matplotlib measures them."""
    _, top, _, bottom = font.getbbox("lp", anchor="ls")
    return -int(top), int(bottom)
