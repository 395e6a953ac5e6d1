"""A trained model's predictions on test images, and its worst mistakes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fmx.reporting.figures.image_grid import Caption, Images, Tile, image_grid
from fmx.reporting.figures.lettering import Lettering
from fmx.reporting.figures.page import HEADER, page
from fmx.reporting.figures.palette import BLUE, VERMILION

__all__ = ["mistakes", "predictions"]

MAX_TILES = 32
AT_ONCE = 2**20  # probabilities computed at a time
ROUNDING = 0.0005


def predictions(images: Images, labels: ArrayLike, logits: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw up to 32 test images, evenly spaced over the set, with their true and predicted names.

    images: uint8 (N, C, H, W); labels: integers in 0..K-1 (N,); logits (N, K).
    """
    labels, predicted = np.asarray(labels), np.asarray(logits).argmax(axis=1)
    lettering = Lettering(class_names)
    tiles = []
    for index in np.linspace(0, len(labels) - 1, min(MAX_TILES, len(labels))).astype(int):
        true, named = lettering.names[labels[index]], lettering.names[predicted[index]]
        if labels[index] == predicted[index]:
            tiles.append(Tile(images[int(index)], [Caption(true), Caption(f"✓ {named}", BLUE)]))
        else:
            captions = [Caption(true), Caption(f"✗ {named}", VERMILION)]
            tiles.append(Tile(images[int(index)], captions, frame=VERMILION))
    title = f"{len(tiles)} of {len(labels):,} test images"
    subtitle = "the true name, and what the model says: ✓ right, ✗ wrong"
    return image_grid(tiles, lettering, title=title, subtitle=subtitle)


def mistakes(images: Images, labels: ArrayLike, logits: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw up to 32 misclassified test images, those with the most probable wrong class first.

    images: uint8 (N, C, H, W); labels: integers in 0..K-1 (N,); logits (N, K).
    """
    labels, logits = np.asarray(labels), np.asarray(logits)
    predicted = logits.argmax(axis=1)
    lettering = Lettering(class_names)
    wrong = np.flatnonzero(predicted != labels)
    if not len(wrong):
        title = f"No mistakes: all {len(labels):,} test images are named right"
        return page(0, HEADER, lettering, title=title, subtitle="")[0]
    tiles = []
    # In parts: the probabilities of all would take more memory than the logits do.
    parts = np.array_split(wrong, -(-len(wrong) * logits.shape[1] // AT_ONCE))
    certainty = np.concatenate([_softmax(logits[part]).max(axis=1) for part in parts])
    for index in wrong[np.argsort(-certainty, kind="stable")][:MAX_TILES]:
        true, named, probs = labels[index], predicted[index], _softmax(logits[[index]])[0]
        captions = [
            Caption(f"{lettering.names[true]}: {_percent(probs[true])}"),
            Caption(f"✗ {lettering.names[named]}: {_percent(probs[named])}", VERMILION),
        ]
        tiles.append(Tile(images[int(index)], captions))
    title = f"Mistakes: the worst {len(tiles)} of {len(wrong):,} in {len(labels):,} test images"
    subtitle = "the true name, and what the model says (✗), with its probabilities"
    return image_grid(tiles, lettering, title=title, subtitle=subtitle)


def _softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities (N, K); NaN for logits that are not finite, as of a model that diverged."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        probs: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probs


def _percent(probability: float) -> str:
    """One decimal, never rounded to 0 or 100 %."""
    if probability < ROUNDING:
        number = "<0.1"
    else:
        number = ">99.9" if probability >= 1 - ROUNDING else f"{100 * probability:.1f}"
    return f"{number}\N{NO-BREAK SPACE}%"
