"""Losses on logits; class weights and label smoothing are off in eval mode, so that losses compare.

Labels are classes (B,), or shares of classes (B, K) as mixed images have them. Weights of shares act as weights of
classes do: the sum of weighted losses is divided by the sum of the weights.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["NLL", "CrossEntropy"]


class CrossEntropy(nn.Module):
    """Cross entropy between logits (B, K) and labels (B,) or (B, K).

    weight: a number for each class, or None; a batch whose images all have weight 0 has the loss 0. label_smoothing: 0
    up to but not including 1 (Szegedy et al., 2016, arXiv:1512.00567). Both act in training mode alone. Raises
    ValueError for weights that no loss can be computed with.
    """

    weight: Tensor | None

    def __init__(self, *, weight: Sequence[float] | None, label_smoothing: float) -> None:
        super().__init__()
        self.register_buffer("weight", _class_weights(weight), persistent=False)
        self.leaves_out = self.weight is not None and not bool(self.weight.all())
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the batch, a scalar."""
        if not self.training:
            return functional.cross_entropy(logits, labels)
        divides = self.leaves_out or _divides(self.weight, labels)
        reduction = "sum" if divides else "mean"
        loss = functional.cross_entropy(
            logits, labels, weight=self.weight, label_smoothing=self.label_smoothing, reduction=reduction
        )
        return _mean(loss, self.weight, labels) if divides else loss


class NLL(nn.Module):
    """Negative log-likelihood on the log-softmax of logits (B, K), for labels (B,) or (B, K).

    weight: a number for each class, or None; acts in training mode alone. A batch whose images all have weight 0 has
    the loss 0. Raises ValueError for weights that no loss can be computed with.
    """

    weight: Tensor | None

    def __init__(self, *, weight: Sequence[float] | None) -> None:
        super().__init__()
        self.register_buffer("weight", _class_weights(weight), persistent=False)
        self.leaves_out = self.weight is not None and not bool(self.weight.all())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the batch, a scalar."""
        log_probs = functional.log_softmax(logits, dim=1)
        if labels.is_floating_point():
            weight = self.weight if self.training else None
            losses = -labels * log_probs if weight is None else -labels * log_probs * weight
            return losses.sum() / len(labels) if weight is None else _mean(losses.sum(), weight, labels)
        if not (self.training and self.leaves_out):
            return functional.nll_loss(log_probs, labels, weight=self.weight if self.training else None)
        loss = functional.nll_loss(log_probs, labels, weight=self.weight, reduction="sum")
        return _mean(loss, self.weight, labels)


def _class_weights(weight: Sequence[float] | None) -> Tensor | None:
    """The weights as float32, in which tiny ones become 0 and huge ones infinite."""
    if weight is None:
        return None
    weights = torch.tensor(weight, dtype=torch.float32)
    if not weights.isfinite().all() or bool((weights < 0).any()):
        raise ValueError(f"weight must hold finite numbers of at least 0 in float32, got {list(weight)}")
    if not weights.any():
        raise ValueError("weight is 0 for every class, so that no image counts; give one class at least a larger one")
    return weights


def _divides(weight: Tensor | None, labels: Tensor) -> bool:
    """Whether torch would divide a weighted loss by the number of images instead of by their weights."""
    return weight is not None and labels.is_floating_point()


def _mean(loss: Tensor, weight: Tensor | None, labels: Tensor) -> Tensor:
    """A batch's sum of weighted losses divided by its weights; 0 where these are all 0, for which torch gives NaN."""
    assert weight is not None
    total = (labels @ weight if labels.is_floating_point() else weight[labels]).sum()
    return loss / total.masked_fill(total == 0, math.inf)
