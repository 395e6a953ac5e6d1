"""Training images as the training gets them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmx.reporting.figures.image_grid import Caption, Images, Tile, image_grid
from fmx.reporting.figures.lettering import Lettering
from fmx.reporting.figures.palette import GREY, INK

__all__ = ["augmented"]

VISIBLE = 0.005  # share of a class from which on it is named
NAMED = 2  # classes


def augmented(images: Images, labels: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw augmented training images, with the name of each, or the names and shares of both that are mixed.

    images: uint8 (N, C, H, W); labels: integers in 0..K-1 (N,), or shares of the classes (N, K).
    """
    labels, lettering = np.asarray(labels), Lettering(class_names)
    tiles = []
    for index, label in enumerate(labels):
        if labels.ndim == 1:
            captions = [Caption(lettering.names[label])]
        else:
            named = [each for each in np.argsort(-label, kind="stable")[:NAMED] if label[each] >= VISIBLE]
            captions = [
                Caption(f"{lettering.names[each]} {100 * label[each]:.0f} %", GREY if place else INK)
                for place, each in enumerate(named)
            ]
        tiles.append(Tile(images[index], captions))
    mixed = "" if labels.ndim == 1 else ", with the share of each class"
    return image_grid(
        tiles,
        lettering,
        title=f"{len(tiles)} augmented training images",
        subtitle=f"as the training gets them{mixed}",
    )
