"""The mean probability of several networks: as a network, and of their stored predictions."""

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import MetricCollection

from fmx.errors import DataError
from fmx.inference.scoring import Predictions
from fmx.training.counts import plain_metrics

__all__ = ["EnsembleNet", "combined", "score_mean"]

AT_ONCE = 2**20  # logits of one member, to bound the memory


class EnsembleNet(nn.Module):
    """Maps images to the logarithm of the members' mean probability (N, K), whose softmax is that mean.

    members: networks that map the same images to logits (N, K).
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logarithms of the mean probabilities."""
        logs = torch.stack([member(images).float().log_softmax(dim=1) for member in self.members])  # (M, N, K)
        return logs.logsumexp(dim=0) - log(len(self.members))


def combined(members: Sequence[Predictions], names: Sequence[object]) -> Predictions:
    """The ensemble's predictions, with the logarithms of the mean probabilities as logits.

    DataError, which names the member, for other images or labels, another number of classes, or logits that are not
    finite.
    """
    first = members[0]
    for name, each in zip(names, members, strict=True):
        if not torch.equal(each.labels, first.labels) or not torch.equal(each.indices, first.indices):
            raise DataError(f"{name} was scored on other images than {names[0]}: members need the same images")
        if each.logits.shape[1] != first.logits.shape[1]:
            raise DataError(f"{name} has {each.logits.shape[1]} classes, {names[0]} has {first.logits.shape[1]}")
        if lost := int((~each.logits.isfinite()).any(dim=1).sum()):
            raise DataError(f"{name} has logits that are not finite for {lost:,} images: it diverged, so leave it out")
    logits = _mean_log_probs([each.logits.numpy() for each in members])
    return Predictions(labels=first.labels, logits=torch.from_numpy(logits), indices=first.indices)


def _mean_log_probs(members: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The logarithm of the mean probability (N, K) of members' logits, (N, K) each, computed in float64."""
    from scipy.special import log_softmax, logsumexp

    num, classes = members[0].shape
    means, images = np.empty((num, classes), np.float32), max(1, AT_ONCE // classes)
    for start in range(0, num, images):
        part = slice(start, start + images)
        logs = [log_softmax(each[part].astype(np.float64), axis=1) for each in members]
        means[part] = logsumexp(logs, axis=0) - log(len(members))
    return means


def score_mean(predictions: Predictions, metrics: MetricCollection, class_names: Sequence[str]) -> dict[str, Any]:
    """The negative log-likelihood as `loss`, and the metrics of a run."""
    loss = torch.nn.functional.nll_loss(predictions.logits, predictions.labels)
    return {"loss": float(loss)} | plain_metrics(metrics, predictions.logits, predictions.labels, class_names)
