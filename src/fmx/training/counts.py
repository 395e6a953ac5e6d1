"""Metrics in memory and time that are linear in images and classes.

torchmetrics counts hits and misses of a class in a confusion matrix of K x K numbers. With deterministic algorithms, as
of trainer.deterministic=warn, it makes such a matrix for each image, because torch.bincount once was not deterministic.
`update` replaces two private functions of torchmetrics while it runs (`compat.py`).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from fmx.compat import torchmetrics_bincount, torchmetrics_class_counts, torchmetrics_counts_by

__all__ = ["plain_metrics", "update"]

AT_ONCE = 2**22  # logits per update, and numbers in a mesh


def update(metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
    """Update metrics with logits (N, K) and labels (N,), a part of them at a time."""
    images = max(1, AT_ONCE // logits.shape[1])
    with torchmetrics_counts_by(bincount=_bincount, class_counts=_class_counts):
        for part in range(0, len(labels), images):
            metrics.update(logits[part : part + images], labels[part : part + images])


def _bincount(x: Tensor, minlength: int | None = None) -> Tensor:
    """How often each number from 0 to minlength - 1 occurs, as torchmetrics' _bincount."""
    small = minlength is not None and len(x) * minlength <= AT_ONCE
    if x.device.type == "mps" or (x.is_cuda and small):  # where torch.bincount would wait for the GPU
        counts: Tensor = torchmetrics_bincount()(x, minlength)
        return counts
    return torch.bincount(x, minlength=len(torch.unique(x)) if minlength is None else minlength)


def _class_counts(  # noqa: PLR0917 - torchmetrics' own
    preds: Tensor,
    target: Tensor,
    num_classes: int,
    top_k: int = 1,
    average: str | None = "macro",
    multidim_average: str = "global",
    ignore_index: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """True and false positives, true and false negatives of each class, (K,) each, from classes (N,)."""
    if top_k != 1 or average == "micro" or multidim_average != "global":
        by_matrix: tuple[Tensor, Tensor, Tensor, Tensor] = torchmetrics_class_counts()(
            preds, target, num_classes, top_k, average, multidim_average, ignore_index
        )
        return by_matrix
    preds, target = preds.flatten().long(), target.flatten().long()
    if ignore_index is not None:
        counts = target != ignore_index
        preds, target = preds[counts], target[counts]
    hits = torch.where(preds == target, target, num_classes)
    tp = _bincount(hits, minlength=num_classes + 1)[:-1]
    fp = _bincount(preds, minlength=num_classes) - tp
    fn = _bincount(target, minlength=num_classes) - tp
    return tp, fp, preds.numel() - (tp + fp + fn), fn


def plain_metrics(
    metrics: MetricCollection, logits: Tensor, labels: Tensor, class_names: Sequence[str]
) -> dict[str, Any]:
    """Return metrics of logits (N, K) and labels (N,) as plain numbers, computed by a copy."""
    metrics = metrics.clone().cpu()
    metrics.reset()
    update(metrics, logits, labels)
    return _as_plain(metrics.compute(), class_names, set(labels.tolist()))


def _as_plain(values: Mapping[str, Tensor], class_names: Sequence[str], present: Collection[int]) -> dict[str, Any]:
    """A number for each scalar, a mapping by class name for each vector with one value per class.

    A class without images has the value None, where torchmetrics has 0.
    """
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if value.numel() == 1:
            plain[name] = float(value)
        elif value.ndim == 1 and len(value) == len(class_names):
            numbers = [number if label in present else None for label, number in enumerate(value.tolist())]
            plain[name] = dict(zip(class_names, numbers, strict=True))
        else:
            plain[name] = value.tolist()
    return plain
