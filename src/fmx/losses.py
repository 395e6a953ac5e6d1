"""Losses on logits; what shapes the training alone (weights, smoothing) is off in eval mode, so figures compare."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["NLL", "CrossEntropy"]


class CrossEntropy(nn.Module):
    """Cross entropy between logits (B, K) and labels (B,).

    weight: a number for each class, or None. label_smoothing: 0 up to but not including 1 (Szegedy et al., 2016,
    arXiv:1512.00567). Both act in training mode alone.
    """

    weight: Tensor | None

    def __init__(self, *, weight: Sequence[float] | None, label_smoothing: float) -> None:
        super().__init__()
        self.register_buffer(
            "weight", None if weight is None else torch.tensor(weight, dtype=torch.float32), persistent=False
        )
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the batch, a scalar."""
        if not self.training:
            return functional.cross_entropy(logits, labels)
        return functional.cross_entropy(logits, labels, weight=self.weight, label_smoothing=self.label_smoothing)


class NLL(nn.Module):
    """Negative log-likelihood on the log-softmax of logits (B, K), for labels (B,).

    weight: a number for each class, or None; acts in training mode alone.
    """

    weight: Tensor | None

    def __init__(self, *, weight: Sequence[float] | None) -> None:
        super().__init__()
        self.register_buffer(
            "weight", None if weight is None else torch.tensor(weight, dtype=torch.float32), persistent=False
        )

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the batch, a scalar."""
        log_probs = functional.log_softmax(logits, dim=1)
        return functional.nll_loss(log_probs, labels, weight=self.weight if self.training else None)
