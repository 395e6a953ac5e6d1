"""Calibration of probabilities: the expected calibration error, and the temperature that lowers it.

C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, On Calibration of Modern Neural Networks, ICML 2017 (arXiv:1706.04599).
"""

from collections.abc import Iterator
from math import exp, log

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fmx.errors import DataError
from fmx.models.logits import logits_of
from fmx.runs.calibration import HIGHEST, LOWEST, Calibration, Reliability

__all__ = ["calibrate", "fit_temperature", "reliability", "tempered", "with_temperature"]

BINS = 15  # of equal width, as in the paper
RESAMPLES = 1000
AT_ONCE = 2**22  # logits, to bound the memory
Logits = NDArray[np.float32]  # (N, K)
Labels = NDArray[np.int64]  # (N,)


def tempered(net: nn.Module, temperature: float) -> nn.Module:
    """A network whose logits are divided by a temperature; the network itself for a temperature of 1."""
    return net if temperature == 1 else _Tempered(net, temperature)


class _Tempered(nn.Module):
    def __init__(self, net: nn.Module, temperature: float) -> None:
        super().__init__()
        self.net = net
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K)."""
        return logits_of(self.net(images)) / self.temperature


def with_temperature(probs: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities (N, K) whose logarithms are divided by a temperature; unchanged for a temperature of 1."""
    from scipy.special import softmax

    if temperature == 1:
        return probs
    changed: NDArray[np.float64] = softmax(np.log(np.maximum(probs, np.finfo(np.float64).tiny)) / temperature, axis=1)
    return changed


def calibrate(val: tuple[Logits, Labels], test: tuple[Logits, Labels], *, weights: str) -> Calibration:
    """Fit a temperature on validation predictions, and measure on both parts what it changes.

    DataError for logits that are not finite. weights: the SHA-256 sum of the checkpoint.
    """
    temperature = fit_temperature(*val)
    parts = {
        part: {"trained": reliability(*predictions), "calibrated": reliability(*predictions, temperature)}
        for part, predictions in (("val", val), ("test", test))
    }
    return Calibration(temperature, weights, len(val[1]), parts)


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature in 1/20..20 with the lowest negative log-likelihood, which has one minimum in its inverse."""
    from scipy.optimize import minimize_scalar

    _check_finite(logits)
    found = minimize_scalar(
        lambda exponent: _nll(logits, labels, exp(exponent)),
        bounds=(log(LOWEST), log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.clip(exp(found.x), LOWEST, HIGHEST))


def _nll(logits: Logits, labels: Labels, temperature: float) -> float:
    logs = (log_probs[np.arange(len(part)), part] for log_probs, part in _log_probs(logits, labels, temperature))
    return -sum(float(each.sum()) for each in logs) / len(labels)


def _log_probs(logits: Logits, labels: Labels, temperature: float) -> Iterator[tuple[NDArray[np.float64], Labels]]:
    """Log-probabilities (M, K) with their labels (M,), a part of the images at a time."""
    from scipy.special import log_softmax

    images = max(1, AT_ONCE // logits.shape[1])
    for first in range(0, len(labels), images):
        part = slice(first, first + images)
        yield log_softmax(logits[part].astype(np.float64) / temperature, axis=1), labels[part]


def reliability(logits: Logits, labels: Labels, temperature: float = 1.0) -> Reliability:
    """Confidence and accuracy in 15 bins ((m - 1) / 15, m / 15], with the ECE of equation 3 and proper scores.

    The interval spans the percentile and the basic bootstrap interval over images (A. C. Davison and D. V. Hinkley,
    Bootstrap Methods, 1997, chapter 5): the ECE of few images is too large, by an amount that one alone misses. It
    begins at 0 where calibrated confidences would have that ECE by chance (J. Bröcker and L. A. Smith, Weather and
    Forecasting 22 (2007) 651).
    """
    _check_finite(logits)
    confidence, right, brier, nll = np.empty(len(labels)), np.empty(len(labels)), 0.0, 0.0
    first = 0
    for log_probs, truth in _log_probs(logits, labels, temperature):
        part, rows = slice(first, first + len(truth)), np.arange(len(truth))
        probs = np.exp(log_probs)
        confidence[part], right[part] = probs.max(axis=1), probs.argmax(axis=1) == truth
        nll -= float(log_probs[rows, truth].sum())
        brier += float((probs**2).sum() + (1 - 2 * probs[rows, truth]).sum())
        first += len(truth)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=each, minlength=BINS) for each in (confidence, right)]
    ece = float(np.abs(sums[0] - sums[1]).sum()) / len(labels)
    means = [[float(s) / int(n) if n else None for s, n in zip(each, counts, strict=True)] for each in sums]
    return Reliability(
        ece=ece,
        ece_interval=_interval(ece, bins, confidence, right),
        nll=nll / len(labels),
        brier=brier / len(labels),
        counts=counts.tolist(),
        confidence=means[0],
        accuracy=means[1],
    )


def _interval(
    ece: float, bins: NDArray[np.int64], confidence: NDArray[np.float64], right: NDArray[np.float64]
) -> list[float]:
    generator, num, gaps = np.random.default_rng(0), len(bins), confidence - right
    drawn, calibrated = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for sample in range(RESAMPLES):
        images = generator.integers(num, size=num)
        drawn[sample] = _error(bins[images], gaps[images])
        calibrated[sample] = _error(bins, confidence - (generator.random(num) < confidence))
    low, high = np.quantile(drawn, [0.025, 0.975])
    low, high = min(low, 2 * ece - high), max(high, 2 * ece - low)
    if ece <= np.quantile(calibrated, 0.975):
        low = 0.0
    return [float(np.clip(low, 0.0, ece)), float(np.clip(high, ece, 1.0))]


def _error(bins: NDArray[np.int64], gaps: NDArray[np.float64]) -> float:
    return float(np.abs(np.bincount(bins, weights=gaps, minlength=BINS)).sum()) / len(bins)


def _check_finite(logits: Logits) -> None:
    if lost := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise DataError(f"{lost:,} of {len(logits):,} images have logits that are not finite: the network diverged, "
                        "and its probabilities mean nothing")  # fmt: skip
