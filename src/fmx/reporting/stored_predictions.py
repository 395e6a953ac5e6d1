"""predictions.npz read back without torch: what a run said of the test set."""

import struct
import tokenize
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmx.errors import DataError

__all__ = ["StoredPredictions", "Verdicts", "read_predictions", "verdicts"]

DAMAGE = (  # what zipfile and NumPy may say of a damaged file
    *(ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile),
)


@dataclass(frozen=True)
class StoredPredictions:
    """What a model said of each test image."""

    labels: NDArray[np.int64]  # (N,)
    logits: NDArray[np.float32]  # (N, K)
    indices: NDArray[np.int64]  # (N,), positions in the official set

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class that each image is named, (N,)."""
        classes: NDArray[np.int64] = self.logits.argmax(axis=1)
        return classes

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each image is named right, (N,)."""
        right: NDArray[np.bool_] = self.predicted == self.labels
        return right


@dataclass(frozen=True)
class Verdicts:
    """What one model, or most of several runs, says of each test image."""

    right: NDArray[np.bool_]  # (N,), in more than half of the runs
    said: NDArray[np.int64]  # (N,), the right name, else the most frequent wrong one
    certainty: NDArray[np.float64]  # (N,), the mean probability of the true name


def verdicts(runs: Sequence[StoredPredictions]) -> Verdicts:
    """Join what runs say of the same images."""
    labels = runs[0].labels
    rows = np.arange(len(labels))
    votes = np.zeros((len(labels), max(run.logits.shape[1] for run in runs)), dtype=np.int64)
    certainty = np.zeros(len(labels))
    for run in runs:
        votes[rows, run.predicted] += 1
        with np.errstate(invalid="ignore"):  # a model that diverged has no probabilities: nan
            powers = np.exp(run.logits.astype(np.float64) - run.logits.max(axis=1, keepdims=True))
            certainty += powers[rows, labels] / powers.sum(axis=1) / len(runs)
    right = 2 * votes[rows, labels] > len(runs)
    votes[rows, labels] = np.where(right, len(runs) + 1, -1)
    return Verdicts(right=right, said=votes.argmax(axis=1), certainty=certainty)


def read_predictions(run_dir: Path) -> StoredPredictions:
    """Read predictions.npz; DataError where it is missing, damaged, or not what a run writes.

    A run writes it uncompressed, so that no member can be larger than the file is.
    """
    path = run_dir / "predictions.npz"
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise DataError(f"{path} was not written by fmx: it is compressed")
        with np.load(path, allow_pickle=False) as arrays:
            labels, logits, indices = (arrays[name] for name in ("labels", "logits", "indices"))
    except DAMAGE as error:
        raise DataError(f"{path} cannot be read as predictions: {error}") from error
    kinds = (labels.dtype.kind, logits.dtype.kind, indices.dtype.kind)
    whole = kinds == ("i", "f", "i") and logits.ndim == 2 and logits.size > 0  # noqa: PLR2004
    if not whole or labels.shape != (len(logits),) or indices.shape != labels.shape:
        raise DataError(
            f"{path}: labels {labels.shape}, logits {logits.shape} and indices {indices.shape} do not fit together"
        )
    return StoredPredictions(labels=labels, logits=logits, indices=indices)
