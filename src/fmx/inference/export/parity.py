"""Whether an exported model gives the same results as the network that it came from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmx.data.module import Pictures
from fmx.errors import FmxError
from fmx.inference.export.onnx_model import Logits

__all__ = ["Reference", "check_parity", "logits_of"]

FIRST, CHUNK = 7, 250  # batch sizes: several, since the batch must be dynamic
EXACT = 1e-3  # largest difference of logits up to 1 that the order of float32 sums explains
COARSE = 2e-2  # for a reference from a GPU, whose TF32 convolutions have ten mantissa bits


@dataclass(frozen=True)
class Reference:
    """Images (C, H, W) each, as the data set has them, a description of them, and the logits (N, K) to reproduce.

    from_gpu: whether a GPU computed the logits.
    """

    images: Sequence[Tensor] | Pictures
    what: str
    logits: NDArray[np.float32]
    from_gpu: bool = False


def logits_of(model: Logits, images: Sequence[Tensor] | Pictures) -> NDArray[np.float32]:
    """Run a model on all images, in batches; returns its logits (N, K)."""
    return np.concatenate([model(chunk) for chunk in _chunks(images)])


def _chunks(images: Sequence[Tensor] | Pictures) -> Iterator[NDArray[Any]]:
    for first, end in pairwise([0, *range(FIRST, len(images), CHUNK), len(images)]):
        yield torch.stack([images[i] for i in range(first, end)]).numpy()


def check_parity(exported: Logits, reference: Reference) -> str:
    """Return a line on how well an exported model agrees with the reference; FmxError if it does not.

    Every predicted class must be equal, except for ties within the rounding of a reference from a GPU.
    """
    expected, given = reference.logits, logits_of(exported, reference.images)
    largest = float(np.abs(given - expected).max())
    tolerance = (COARSE if reference.from_gpu else EXACT) * max(1.0, float(np.abs(expected).max()))
    classes = given.argmax(axis=1)
    changed = classes != expected.argmax(axis=1)
    lost = expected.max(axis=1) - np.take_along_axis(expected, classes[:, None], axis=1)[:, 0]
    wrong = changed & (lost > 2 * tolerance) if reference.from_gpu else changed
    count = f"{len(classes):,} {reference.what}"
    if wrong.any() or not largest <= tolerance:  # a NaN must not pass
        raise FmxError(
            f"the exported model does not agree with the run: {changed.sum():,} of {count} get another class, "
            f"and the largest logit difference is {largest:.2g}; nothing was written"
        )
    ties = f", but for {changed.sum():,} that are ties to the run's GPU" if changed.any() else ""
    return f"all {count} get the same class{ties}; the largest logit difference is {largest:.2g}"
