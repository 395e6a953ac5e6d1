"""The validation set: a part of the training images, independent of the run's seed."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["split_fold", "split_validation"]


def split_validation(
    labels: Tensor, *, validation: float | str, split: str, seed: int, class_names: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Divide the positions of `labels` (int64 (N,)) into training and validation, both sorted int64.

    `validation` is a count from 1, a fraction between 0 and 1 (rounded up, as Keras does) or `none`. `split`
    is `stratified` (drawn by `seed`, each class its share by largest remainder, the lower class first among
    equals) or `tail` (the last ones in file order, as Keras does). The draw uses PCG64's raw stream, which
    NumPy keeps the same in every version and on every platform.

    Raises:
        ValueError: the split is impossible, or leaves a class without a training image.
    """
    classes = labels.numpy()
    num_held_out = _count(validation, len(classes))
    if split == "tail":
        chosen = np.arange(len(classes) - num_held_out, len(classes))
    elif split == "stratified":
        chosen = _stratified(classes, num_held_out, seed)
    else:
        raise ValueError(f"data.split must be stratified or tail, got {split!r}")
    held_out = np.zeros(len(classes), dtype=bool)
    held_out[chosen] = True
    emptied = np.setdiff1d(classes[held_out], classes[~held_out])
    if len(emptied):
        instead = "use data.split=stratified" if split == "tail" else "hold out fewer images"
        raise ValueError(
            f"data.validation={validation} with data.split={split} leaves no training image of class "
            f"{_named(int(emptied[0]), class_names)}; {instead}"
        )
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))


def split_fold(
    labels: Tensor, *, folds: int, fold: int | None, seed: int, class_names: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Divide the positions of `labels` (int64 (N,)) into the other folds and fold `fold` of `folds`, both sorted int64.

    Each class is shuffled by `seed` as for `stratified`, and the classes are dealt out one after the other. So the
    folds are disjoint, hold every position, and differ by one image at most, in all and of each class.

    Raises:
        ValueError: a class has fewer images than there are folds, or there is no such fold.
    """
    if fold is None or not 0 <= fold < folds:
        raise ValueError(f"data.fold={fold} is none of data.folds={folds}")
    classes = labels.numpy()
    numbers, sizes = np.unique(classes, return_counts=True)
    few = int(sizes.argmin())
    if (least := int(sizes[few])) < folds:
        remedy = f"use data.folds={least} or fewer" if least > 1 else "leave it out, or use data.validation"
        raise ValueError(
            f"data.folds={folds} is more than the training images of class {_named(int(numbers[few]), class_names)}, "
            f"which are {least:,}, so that some folds would have none; {remedy}"
        )
    held_out = np.empty(len(classes), dtype=bool)
    held_out[_shuffled_by_class(classes, seed)] = np.arange(len(classes)) % folds == fold
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))


def _named(label: int, class_names: Sequence[str]) -> str:
    return f"{class_names[label]!r} (label {label})" if label < len(class_names) else str(label)


def _count(validation: float | str, num_images: int) -> int:
    if validation == "none":
        return 0
    if isinstance(validation, float) and 0 < validation < 1:
        count = math.ceil(validation * num_images - 1e-9)  # 0.1 * 30 is a little more than 3
    elif isinstance(validation, int) and not isinstance(validation, bool) and validation >= 1:
        count = validation
    else:
        raise ValueError(
            f"data.validation must be a count from 1, a fraction between 0 and 1, 'test' or 'none', got {validation!r}"
        )
    if count >= num_images:
        raise ValueError(
            f"data.validation={validation} leaves none of the {num_images:,} training images; "
            "use a smaller count or a fraction such as 0.1"
        )
    return count


def _stratified(classes: NDArray[np.int64], num_held_out: int, seed: int) -> NDArray[np.int64]:
    sizes = np.bincount(classes)  # (K,)
    shares, remainders = np.divmod(sizes * num_held_out, len(classes))
    largest = np.argsort(-remainders, kind="stable")
    shares[largest[: num_held_out - shares.sum()]] += 1
    order = _shuffled_by_class(classes, seed)
    starts = np.cumsum(sizes) - sizes
    return np.concatenate([order[start : start + share] for start, share in zip(starts, shares, strict=True)])


def _shuffled_by_class(classes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The positions (N,), one class after the other, shuffled within each."""
    if seed < 0:
        raise ValueError(f"data.split_seed must be at least 0, got {seed}")
    keys = np.random.PCG64(seed).random_raw(len(classes))  # uint64 (N,)
    return np.lexsort((keys, classes))
