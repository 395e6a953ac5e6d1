"""What a trained model says of test images, and where it is most wrong."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmx.figures.image_grid import Caption, Images, Tile, image_grid
from fmx.figures.lettering import Lettering
from fmx.figures.page import HEADER, page
from fmx.figures.palette import BLUE, VERMILION

__all__ = ["mistakes", "predictions"]

NUM_SHOWN = 40


def predictions(images: Images, labels: ArrayLike, logits: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw up to 40 test images, evenly spaced over the set, with their true and predicted names.

    images: uint8 (N, C, H, W), C 1 or 3; labels: integers (N,); logits (N, K).
    """
    labels, predicted = np.asarray(labels), np.asarray(logits).argmax(axis=1)
    lettering = Lettering(class_names)
    chosen = np.linspace(0, len(labels) - 1, min(NUM_SHOWN, len(labels))).astype(int)
    tiles = []
    for index in chosen:
        right = predicted[index] == labels[index]
        verdict = Caption(f"{'✓' if right else '✗'} {lettering.names[predicted[index]]}", BLUE if right else VERMILION)
        captions = [Caption(lettering.names[labels[index]]), verdict]
        tiles.append(Tile(images[int(index)], captions, None if right else VERMILION))
    return image_grid(
        tiles,
        lettering,
        title=f"{len(tiles)} of {len(labels):,} test images",
        subtitle="the true name, and what the model says: ✓ right, ✗ wrong",
    )


def mistakes(images: Images, labels: ArrayLike, logits: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw up to 40 wrongly named test images, those with the most probability on a wrong class first.

    images: uint8 (N, C, H, W), C 1 or 3; labels: integers (N,); logits (N, K). With no mistakes the figure says so.
    """
    labels, logits = np.asarray(labels), np.asarray(logits)
    predicted, probs = logits.argmax(axis=1), _softmax(logits)
    lettering = Lettering(class_names)
    wrong = np.flatnonzero(predicted != labels)
    if not len(wrong):
        title = f"No mistakes: all {len(labels):,} test images are named right"
        return page(0, HEADER, lettering, title=title, subtitle="")[0]
    worst = wrong[np.argsort(-probs[wrong, predicted[wrong]], kind="stable")][:NUM_SHOWN]
    tiles = []
    for index in worst:
        true, said = labels[index], predicted[index]
        captions = [
            Caption(f"{lettering.names[true]}: {_percent(probs[index, true])}"),
            Caption(f"✗ {lettering.names[said]}: {_percent(probs[index, said])}", VERMILION),
        ]
        tiles.append(Tile(images[int(index)], captions))
    return image_grid(
        tiles,
        lettering,
        title=f"Mistakes: the worst {len(tiles)} of {len(wrong):,} in {len(labels):,} test images",
        subtitle="the true name and the predicted one (✗), with the model's probabilities",
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float64 (N, K); logits that are not finite, of a model that diverged, give nan."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def _percent(probability: float) -> str:
    # The space does not break. A wrong answer is never quite certain, and the right one never quite excluded.
    if probability > 0.9995:
        return ">99.9\N{NO-BREAK SPACE}%"
    return "<0.1\N{NO-BREAK SPACE}%" if probability < 0.0005 else f"{100 * probability:.1f}\N{NO-BREAK SPACE}%"
