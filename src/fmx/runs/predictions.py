"""predictions.npz and held_out.npz: predictions on the test set and on a held-out fold, read without torch."""

import math
import struct
import tokenize
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import DataError

__all__ = ["HELD_OUT", "PREDICTIONS", "StoredPredictions", "Verdicts", "read_predictions", "verdicts"]

PREDICTIONS, HELD_OUT = "predictions.npz", "held_out.npz"
AT_ONCE = 2**22  # logits, to bound the memory
DAMAGE = (  # what zipfile and NumPy raise for a damaged file
    *(ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile),
)


@dataclass(frozen=True)
class StoredPredictions:
    """A model's logits for each image of the test set or of a held-out fold."""

    labels: NDArray[np.int64]  # (N,)
    logits: NDArray[np.float32]  # (N, K)
    indices: NDArray[np.int64]  # (N,), positions in the official test or training set

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The predicted class of each image, (N,)."""
        classes: NDArray[np.int64] = self.logits.argmax(axis=1)
        return classes

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each prediction is right, (N,)."""
        right: NDArray[np.bool_] = self.predicted == self.labels
        return right

    @property
    def num_undefined(self) -> int:
        """The number of images with a NaN logit."""
        return int(np.isnan(self.logits).any(axis=1).sum())


@dataclass(frozen=True)
class Verdicts:
    """The prediction of one run, or the majority vote of several, for each test image."""

    right: NDArray[np.bool_]  # (N,), whether more than half of the runs are right
    said: NDArray[np.int64]  # (N,), the true class if right, else the most frequent wrong one
    certainty: NDArray[np.float64]  # (N,), the mean probability of the true class


def verdicts(runs: Sequence[StoredPredictions]) -> Verdicts:
    """Combine the predictions of runs on the same images."""
    num_classes = max(run.logits.shape[1] for run in runs)
    images = max(1, AT_ONCE // num_classes)
    parts = [_verdicts(runs, slice(first, first + images)) for first in range(0, len(runs[0].labels), images)]
    right, said, certainty = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Verdicts(right=right, said=said, certainty=certainty)


def _verdicts(runs: Sequence[StoredPredictions], part: slice) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """`right`, `said` and `certainty` of a slice of the images, (M,) each."""
    labels = runs[0].labels[part]
    rows = np.arange(len(labels))
    votes = np.zeros((len(labels), max(run.logits.shape[1] for run in runs)), dtype=np.int64)
    certainty = np.zeros(len(labels))
    for run in runs:
        logits = run.logits[part]
        votes[rows, logits.argmax(axis=1)] += 1
        with np.errstate(invalid="ignore"):  # a model that diverged has no probabilities: nan
            powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
            certainty += powers[rows, labels] / powers.sum(axis=1) / len(runs)
    right = 2 * votes[rows, labels] > len(runs)
    votes[rows, labels] = np.where(right, len(runs) + 1, -1)
    return right, votes.argmax(axis=1), certainty


def read_predictions(run_dir: Path, name: str = PREDICTIONS) -> StoredPredictions:
    """Read predictions.npz or held_out.npz; DataError where it is missing, damaged, or not what a run writes.

    Memory: at most about three times the size of the file. Runs write it uncompressed, so no array is larger than the
    file, and each array's header must match the number of bytes that follow.
    """
    path = run_dir / name
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} cannot be read: it is no plain file")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise DataError(f"{path} was not written by fmx: it is compressed")
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise DataError(f"{path} claims to be larger than it is")
            labels, logits, indices = (_array(archive.read(f"{name}.npy")) for name in ("labels", "logits", "indices"))
    except DAMAGE as error:
        raise DataError(f"{path} cannot be read as predictions: {str(error)[:200]}") from error
    kinds = (labels.dtype.kind, logits.dtype.kind, indices.dtype.kind)
    whole = kinds == ("i", "f", "i") and logits.ndim == 2 and logits.size > 0  # noqa: PLR2004
    if not whole or labels.shape != (len(logits),) or indices.shape != labels.shape:
        raise DataError(
            f"{path}: labels {labels.shape}, logits {logits.shape} and indices {indices.shape} do not fit together"
        )
    if not (0 <= labels.min() <= labels.max() < logits.shape[1]) or indices.min() < 0:
        raise DataError(f"{path}: its labels are no classes of its logits {logits.shape}")
    return StoredPredictions(
        labels=labels.astype(np.int64, copy=False),
        logits=logits.astype(np.float32, copy=False),
        indices=indices.astype(np.int64, copy=False),
    )


def _array(contents: bytes) -> NDArray[Any]:
    """An array of numbers from the bytes of a .npy file; ValueError where their count is not the header's."""
    stream = BytesIO(contents)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran_order, dtype = read_header(stream)
    num_bytes = len(contents) - stream.tell()
    if dtype.kind not in "if" or math.prod(shape) * dtype.itemsize != num_bytes or min(shape, default=0) < 0:
        raise ValueError(f"an array says that it is {dtype} {shape}, but {num_bytes:,} bytes follow")
    array = np.frombuffer(contents, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran_order else "C")
    return array.astype(dtype.newbyteorder("="))
