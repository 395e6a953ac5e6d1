"""Whether an exported model says the same as the one it came from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmx.data.module import Pictures
from fmx.errors import FmxError
from fmx.inference.export.onnx_model import Logits

__all__ = ["Evidence", "answers", "prove"]

FIRST, CHUNK = 7, 250  # images at a time: the batch must be free, so its size changes
EXACT = 1e-3  # the largest difference that the order of float32 sums explains, of logits up to 1
COARSE = 2e-2  # where the reference comes from a GPU, whose convolutions may keep ten bits of a number


@dataclass(frozen=True)
class Evidence:
    """Images uint8 (C, H, W) each, what they are in words, and the logits (N, K) that they must get.

    from_gpu: whether a GPU computed these.
    """

    images: Sequence[Tensor] | Pictures
    what: str
    logits: NDArray[np.float32]
    from_gpu: bool = False


def answers(model: Logits, images: Sequence[Tensor] | Pictures) -> NDArray[np.float32]:
    """Give a model all images, some at a time; returns its logits (N, K)."""
    return np.concatenate([model(chunk) for chunk in _chunks(images)])


def _chunks(images: Sequence[Tensor] | Pictures) -> Iterator[NDArray[np.uint8]]:
    for first, end in pairwise([0, *range(FIRST, len(images), CHUNK), len(images)]):
        yield torch.stack([images[i] for i in range(first, end)]).numpy()


def prove(exported: Logits, evidence: Evidence) -> str:
    """Return a line that says how well an exported model agrees with the evidence; FmxError where it does not.

    Every class must be equal; where the evidence comes from a GPU, but for ties within its rounding.
    """
    expected, given = evidence.logits, answers(exported, evidence.images)
    largest = float(np.abs(given - expected).max())
    tolerance = (COARSE if evidence.from_gpu else EXACT) * max(1.0, float(np.abs(expected).max()))
    classes = given.argmax(axis=1)
    changed = classes != expected.argmax(axis=1)
    lost = expected.max(axis=1) - np.take_along_axis(expected, classes[:, None], axis=1)[:, 0]
    wrong = changed & (lost > 2 * tolerance) if evidence.from_gpu else changed
    count = f"{len(classes):,} {evidence.what}"
    if wrong.any() or not largest <= tolerance:  # a NaN must not pass
        raise FmxError(
            f"the exported model does not agree with the run: {changed.sum():,} of {count} get another class, "
            f"and the largest logit difference is {largest:.2g}; nothing was written"
        )
    ties = f", but for {changed.sum():,} that are ties to the run's GPU" if changed.any() else ""
    return f"all {count} get the same class{ties}; the largest logit difference is {largest:.2g}"
