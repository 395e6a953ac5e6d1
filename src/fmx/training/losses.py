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

BALANCED = "balanced"


class _ClassWeighted(nn.Module):
    """A loss with a weight for each class, which is a list, None, or `balanced`: by the class counts."""

    weight: Tensor | None

    def __init__(self, weight: Sequence[float] | str | None) -> None:
        super().__init__()
        if isinstance(weight, str) and weight != BALANCED:
            raise ValueError(f"weight must be a number for each class, {BALANCED} or null, got {weight!r}")
        self.is_balanced, self.leaves_out = weight == BALANCED, False
        self.register_buffer("weight", None, persistent=False)
        if not isinstance(weight, str):
            self._set_weight(_class_weights(weight))

    def use_class_counts(self, counts: Tensor) -> None:
        """Set balanced weights by the counts of training images (K,): N / (K n) for a class of n, as scikit-learn's.

        A class without images has the weight 0, and does not count in K.
        """
        if self.is_balanced:
            weights = counts.sum() / (counts.count_nonzero() * counts.double())
            self._set_weight(weights.masked_fill(counts == 0, 0).float())

    def _set_weight(self, weight: Tensor | None) -> None:
        self.weight = weight
        self.leaves_out = weight is not None and not bool(weight.all())

    def _training_weight(self) -> Tensor | None:
        """The weights in training, None in eval mode."""
        if not self.training:
            return None
        if self.is_balanced and self.weight is None:
            raise ValueError("weight=balanced needs the class counts of the training images: call use_class_counts")
        return self.weight


class CrossEntropy(_ClassWeighted):
    """Cross entropy between logits (B, K) and labels (B,) or (B, K).

    weight: a number for each class, `balanced` (`use_class_counts` sets it), or None; a batch whose images all have
    weight 0 has the loss 0. label_smoothing: 0 up to but not including 1 (Szegedy et al., 2016, arXiv:1512.00567). Both
    act in training mode alone. Raises ValueError for weights that no loss can be computed with.
    """

    def __init__(self, *, weight: Sequence[float] | str | None, label_smoothing: float) -> None:
        super().__init__(weight)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the batch, a scalar."""
        if not self.training:
            return functional.cross_entropy(logits, labels)
        weight = self._training_weight()
        divides = self.leaves_out or _divides(weight, labels)
        reduction = "sum" if divides else "mean"
        loss = functional.cross_entropy(
            logits, labels, weight=weight, label_smoothing=self.label_smoothing, reduction=reduction
        )
        return _mean(loss, weight, labels) if divides else loss


class NLL(_ClassWeighted):
    """Negative log-likelihood on the log-softmax of logits (B, K), for labels (B,) or (B, K).

    weight: a number for each class, `balanced` (`use_class_counts` sets it), or None; acts in training mode alone. A
    batch whose images all have weight 0 has the loss 0. Raises ValueError for weights that no loss can be computed
    with.
    """

    def __init__(self, *, weight: Sequence[float] | str | None) -> None:
        super().__init__(weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the batch, a scalar."""
        log_probs, weight = functional.log_softmax(logits, dim=1), self._training_weight()
        if labels.is_floating_point():
            losses = -labels * log_probs if weight is None else -labels * log_probs * weight
            return losses.sum() / len(labels) if weight is None else _mean(losses.sum(), weight, labels)
        if not (self.training and self.leaves_out):
            return functional.nll_loss(log_probs, labels, weight=weight)
        loss = functional.nll_loss(log_probs, labels, weight=weight, reduction="sum")
        return _mean(loss, weight, labels)


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
