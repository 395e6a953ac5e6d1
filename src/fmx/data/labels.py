"""Labels of any kind, as int64 from 0."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmx.errors import DataError

__all__ = ["as_labels", "from_zero", "label_of"]

log = logging.getLogger(__name__)
MANY = 5  # texts that a message lists
COLUMN, ONE_HOT = 2, 1  # dimensions of (N, 1) or (N, K), and the sum of each row of the latter


def as_labels(given: Any, *, where: str, num_classes: int, class_names: Sequence[str]) -> Tensor:
    """Labels (N,), (N, 1) or one-hot (N, K) as int64 (N,), not yet compared with num_classes.

    given: integers of any kind, floats that hold whole numbers, or texts that all are names of classes; in a tensor,
    an array or a list. where: `data.train`. Raises DataError for anything else.
    """
    array = _as_array(given)
    found = f"labels of shape {array.shape} and type {array.dtype}"
    if array.ndim == COLUMN and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind in "OUS" and array.ndim == 1:
        return _from_texts(array, where, class_names)
    if array.dtype.kind not in "biuf" or array.ndim not in {1, COLUMN}:
        raise DataError(f"{where}: {found}; one whole number per image is needed: integers (N,)")
    if not np.isfinite(array).all():
        raise DataError(f"{where}: {found} hold NaN or infinity; leave out the images without a label")
    if array.ndim == COLUMN:
        return _from_one_hot(array, where, found, num_classes)
    whole = array.astype(np.int64)
    if (whole != array).any():
        first = int(np.flatnonzero(whole != array)[0])
        raise DataError(
            f"{where}: {found} hold {array[first]:g} at position {first}; a class is a whole number from 0 to "
            f"{num_classes - 1}"
        )
    return torch.from_numpy(whole)


def _as_array(given: Any) -> NDArray[Any]:
    if isinstance(given, Tensor):
        return np.asarray(given.detach().cpu())
    if isinstance(given, list | tuple) and any(isinstance(each, Tensor) for each in given):
        given = [each.tolist() if isinstance(each, Tensor) else each for each in given]
    try:
        return np.asarray(given)
    except ValueError:  # lists of different lengths
        return np.asarray(given, dtype=object)


def _from_one_hot(array: NDArray[Any], where: str, found: str, num_classes: int) -> Tensor:
    is_one_hot = ((array == 0) | (array == 1)).all() and (array.sum(axis=1) == ONE_HOT).all()
    if not is_one_hot or array.shape[1] != num_classes:
        raise DataError(
            f"{where}: {found}; a matrix of labels must be one-hot, a column for each of the data.num_classes="
            f"{num_classes} and one 1 in each row. Give one whole number per image instead: integers (N,)"
        )
    return torch.from_numpy(array.argmax(axis=1).astype(np.int64))


def _from_texts(array: NDArray[Any], where: str, class_names: Sequence[str]) -> Tensor:
    texts = [each.decode(errors="replace") if isinstance(each, bytes) else each for each in array.tolist()]
    numbers = {name: number for number, name in enumerate(class_names)}
    if strange := [text for text in texts if not isinstance(text, str)]:
        raise DataError(
            f"{where}: labels of type object hold {type(strange[0]).__name__}; give one whole number per image"
        )
    known = sorted({*texts})
    if unknown := [text for text in known if text not in numbers]:
        raise DataError(
            f"{where}: labels are texts, and {', '.join(map(repr, unknown[:MANY]))} "
            f"{'are' if len(unknown) > 1 else 'is'} not in data.class_names ({', '.join(list(numbers)[:MANY])}"
            f"{', ...' if len(numbers) > MANY else ''}); give whole numbers, or set "
            f"data.class_names=[{','.join(known[:MANY])}{',...' if len(known) > MANY else ''}]"
        )
    places = ", ".join(f"{name} {number}" for name, number in [*numbers.items()][:MANY])
    more = ", ..." if len(numbers) > MANY else ""
    log.info("%s: labels are texts: each is its position in data.class_names, %s%s", where, places, more)
    return torch.tensor([numbers[text] for text in texts], dtype=torch.int64)


def label_of(given: Any, *, where: str, num_classes: int, class_names: Sequence[str]) -> int:
    """The label of one image of a dataset: an integer of any kind, or the name of a class."""
    if isinstance(given, str) and given in class_names:
        return list(class_names).index(given)
    labels = as_labels(np.asarray(given).reshape(1, -1), where=where, num_classes=num_classes, class_names=class_names)
    return int(labels[0])


def from_zero(labels: Mapping[str, Tensor], num_classes: int, class_names: Sequence[str]) -> int:
    """What to subtract from all labels, 0 or 1, so that they run from 0 to num_classes - 1.

    labels: of each part by its name, the training part first. They count from 1 only if that is certain: the
    training labels have no 0 and reach num_classes, and the others fit. Raises DataError for other labels.
    """
    bounds = {part: (int(each.min()), int(each.max())) for part, each in labels.items()}
    low, high = bounds["train"]
    if low == 1 and high == num_classes and all(a >= 1 and b <= num_classes for a, b in bounds.values()):
        log.info(
            "data.train: labels run from 1 to %d: 1 is subtracted from all, so that they become the classes 0 to %d: "
            "data.class_names[0], %s, is label 1", num_classes, num_classes - 1, class_names[0]
        )  # fmt: skip
        return 1
    for part, (least, most) in bounds.items():
        if least < 0 or most >= num_classes:
            what = f"data.{part} has a label {least if least < 0 else most}, but data.num_classes={num_classes}"
            remedy = f"labels run from 0 to {num_classes - 1}"
            if least == 1 and most == num_classes:
                remedy += f"; these count from 1 and those of data.train from {low}: subtract 1 from them"
            elif least >= 0:
                remedy += f": if these are right, data.num_classes={most + 1} with as many data.class_names"
            raise DataError(f"{what}; {remedy}")
    return 0
