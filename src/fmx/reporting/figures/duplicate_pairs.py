"""Pairs of equal or similar images, side by side."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from fmx.reporting.figures.image_grid import Caption, Tile, image_grid
from fmx.reporting.figures.lettering import Lettering
from fmx.reporting.figures.palette import INK, VERMILION

__all__ = ["MAX_DRAWN", "DrawnImage", "duplicate_pairs"]

MAX_DRAWN = 24  # pairs, four of them per row


class DrawnImage(NamedTuple):
    """An image uint8 (C, H, W), its label, and its name."""

    image: Any
    label: int
    name: str


def duplicate_pairs(
    pairs: Sequence[tuple[DrawnImage, DrawnImage, float]], class_names: Sequence[str], *, title: str, subtitle: str
) -> Figure:
    """Draw pairs of images beside each other with their correlations, and with a frame if their labels differ."""
    lettering = Lettering(class_names)
    tiles = []
    for first, second, correlation in pairs:
        color, frame = (INK, None) if first.label == second.label else (VERMILION, VERMILION)
        for each, more in ((first, []), (second, [Caption(f"r = {correlation:.4f}")])):
            captions = [Caption(lettering.names[each.label], color), Caption(each.name), *more]
            tiles.append(Tile(each.image, captions, frame=frame))
    return image_grid(tiles, lettering, title=title, subtitle=subtitle)
