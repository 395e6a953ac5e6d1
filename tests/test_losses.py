"""Losses against their definitions; what shapes the training is off in evaluation."""

import pytest
import torch

from fmx.training.losses import NLL, CrossEntropy

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [-3.0, 1.0, 4.0]])
LABELS = torch.tensor([0, 2, 1])
PLAIN = float(-LOGITS.log_softmax(1)[torch.arange(3), LABELS].mean())


@pytest.mark.parametrize("loss", [CrossEntropy(weight=None, label_smoothing=0.0), NLL(weight=None)], ids=["ce", "nll"])
def test_cross_entropy_and_nll_are_the_same_figure(loss):
    assert float(loss(LOGITS, LABELS)) == pytest.approx(PLAIN)


def test_weights_and_smoothing_shape_the_training_alone():
    weights = torch.tensor([1.0, 2.0, 4.0])
    losses = -LOGITS.log_softmax(1)[torch.arange(3), LABELS]
    weighted = float((losses * weights[LABELS]).sum() / weights[LABELS].sum())
    smoothed = float(-(LOGITS.log_softmax(1) * (0.9 * torch.eye(3)[LABELS] + 0.1 / 3)).sum(1).mean())
    for loss, expected in [
        (CrossEntropy(weight=weights.tolist(), label_smoothing=0.0), weighted),
        (NLL(weight=weights.tolist()), weighted),
        (CrossEntropy(weight=None, label_smoothing=0.1), smoothed),
    ]:
        assert float(loss.train()(LOGITS, LABELS)) == pytest.approx(expected)
        assert float(loss.eval()(LOGITS, LABELS)) == pytest.approx(PLAIN)
        assert not loss.state_dict(), "a loss adds nothing to a checkpoint"
