"""Test images that only one of two models classifies right."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmx.reporting.figures.image_grid import Caption, Images, Tile, image_grid
from fmx.reporting.figures.lettering import Lettering
from fmx.reporting.figures.palette import BLUE, VERMILION
from fmx.runs.predictions import Verdicts

__all__ = ["changed_sides"]

MAX_TILES = 32


def changed_sides(
    images: Images,
    indices: ArrayLike,
    labels: ArrayLike,
    verdicts: tuple[Verdicts, Verdicts],
    class_names: Sequence[str],
) -> Figure:
    """Draw up to 32 images that only A or only B classifies right, equally many of each, the largest differences first.

    images: uint8 (C, H, W) by position; indices: the positions (N,) of labels (N,) and of A's and B's verdicts.
    """
    a, b = verdicts
    indices, labels = np.asarray(indices), np.asarray(labels)
    lettering = Lettering(class_names)
    gap = np.abs(a.certainty - b.certainty)
    only_a, only_b = (np.flatnonzero(one.right & ~other.right) for one, other in ((a, b), (b, a)))
    first, second = (only[np.argsort(-gap[only], kind="stable")] for only in (only_a, only_b))
    num_first = min(len(first), max(MAX_TILES // 2, MAX_TILES - len(second)))
    tiles = []
    for at in [*first[:num_first], *second[: MAX_TILES - num_first]]:
        captions = [_caption(name, model, at, lettering) for name, model in (("A", a), ("B", b))]
        tiles.append(Tile(images[int(indices[at])], [Caption(lettering.names[labels[at]]), *captions]))
    title = f"Changed sides: {len(tiles)} of {len(first) + len(second):,} images in {len(labels):,}"
    subtitle = f"the true name, and what A and B say: A alone is right on {len(first):,}, B alone on {len(second):,}"
    return image_grid(tiles, lettering, title=title, subtitle=subtitle)


def _caption(name: str, model: Verdicts, at: int, lettering: Lettering) -> Caption:
    right = bool(model.right[at])
    return Caption(f"{name} {'✓' if right else '✗'} {lettering.names[model.said[at]]}", BLUE if right else VERMILION)
