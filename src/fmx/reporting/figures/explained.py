"""Pictures, each beside the same one under a heat map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fmx.reporting.figures.image_grid import Caption, Tile, image_grid
from fmx.reporting.figures.lettering import Lettering
from fmx.reporting.figures.palette import BLUE, GREY

__all__ = ["Explained", "explained"]

COLORS = "inferno"  # its brightness grows evenly, so that it can be read without colours
SHARE = 0.55  # of the heat map in the mixture


@dataclass(frozen=True)
class Explained:
    """A picture (C, H, W) uint8, its heat map (H, W) of at least 0, and the captions of both."""

    picture: NDArray[np.uint8]
    heat: NDArray[np.float32]
    said: Sequence[str]  # file, class and probability
    asked: Sequence[str]  # the class that the heat map is for, and its probability


def explained(pictures: Sequence[Explained], *, title: str, subtitle: str) -> Figure:
    """Draw each picture beside its heat map, whose brightest place is where most of the evidence is."""
    texts = [[*each.said, *each.asked] for each in pictures]
    lettering = Lettering([text for each in texts for text in each])
    names = iter(lettering.names)
    tiles = []
    for each in pictures:
        said, asked = ([next(names) for _ in part] for part in (each.said, each.asked))
        tiles.append(Tile(each.picture, [Caption(said[0], GREY), *(Caption(text, BLUE) for text in said[1:])]))
        tiles.append(Tile(_mixed(each.picture, each.heat), [Caption(text) for text in asked]))
    return image_grid(tiles, lettering, title=title, subtitle=subtitle)


def _mixed(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The picture as grey, mixed with the colours of its heat map, (3, H, W)."""
    highest = float(heat.max())
    colors: Any = colormaps[COLORS](heat / highest if highest > 0 else heat)[..., :3]  # (H, W, 3) in 0..1
    grey = picture.mean(axis=0)[..., None] / 255
    mixture = SHARE * colors + (1 - SHARE) * grey
    pixels: NDArray[np.uint8] = np.rint(255 * mixture).clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
    return pixels
