"""Intervals and tests for accuracies: of one configuration, and of the difference between two.

All intervals are 95 % and two-sided. Formulas: E. B. Wilson, JASA 22 (1927) 209; B. L. Welch, Biometrika 34 (1947) 28;
Q. McNemar, Psychometrika 12 (1947) 153, made exact; R. G. Newcombe, Statistics in Medicine 17 (1998) 2635, method 10.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, isfinite, sqrt
from statistics import NormalDist
from typing import NamedTuple

__all__ = [
    "Difference",
    "Interval",
    "Spread",
    "mcnemar",
    "newcombe",
    "paired_t",
    "student_t",
    "welch_t",
    "wilson",
]

TAIL = 0.975
Z = NormalDist().inv_cdf(TAIL)


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Values of several seeds: mean, sample standard deviation (n - 1), and an interval of the mean.

    method: `student-t`, `wilson` (a single model on its test images), or empty where there is no interval.
    """

    values: Sequence[float]
    mean: float
    std: float | None
    interval: Interval | None
    method: str


@dataclass(frozen=True)
class Difference:
    """How far B is above A: the mean difference, its interval, and the p-value of no difference."""

    difference: float
    interval: Interval
    p_value: float


def student_t(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and Student's t interval over seeds; neither of the last two for a single value."""
    n, mean = len(values), fsum(values) / len(values)
    if n == 1:
        return Spread(values, mean, None, None, "")
    std = _std(values, mean)
    margin = _t_quantile(n - 1) * std / sqrt(n)
    return Spread(values, mean, std, Interval(mean - margin, mean + margin), "student-t")


def wilson(num_right: int, total: int) -> Interval:
    """Wilson's score interval of a share of `total` images."""
    share, z2 = num_right / total, Z * Z
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    margin = Z / (1 + z2 / total) * sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return Interval(max(0.0, centre - margin), min(1.0, centre + margin))


def paired_t(a: Sequence[float], b: Sequence[float]) -> Difference:
    """B - A from the same seeds in the same order, by Student's t over their differences."""
    differences = [y - x for x, y in zip(a, b, strict=True)]
    spread = student_t(differences)
    assert spread.std is not None
    return _by_t(spread.mean, spread.std / sqrt(len(a)), len(a) - 1)


def welch_t(a: Sequence[float], b: Sequence[float]) -> Difference:
    """B - A from unrelated seeds with unequal variances, by Welch's t with Satterthwaite's degrees of freedom."""
    means = [fsum(values) / len(values) for values in (a, b)]
    variances = [_std(values, mean) ** 2 / len(values) for values, mean in zip((a, b), means, strict=True)]
    total = fsum(variances)
    parts = fsum(v * v / (len(values) - 1) for v, values in zip(variances, (a, b), strict=True))
    degrees = total * total / parts if parts else len(a) + len(b) - 2
    return _by_t(means[1] - means[0], sqrt(total), degrees)


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value of images that one side alone names right, if a fair coin shared them out.

    only_a, only_b: how many there are. What both or neither name right says nothing of the difference.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def newcombe(both: int, only_a: int, only_b: int, neither: int) -> Interval:
    """The interval of B's accuracy less A's on the same images: Wilson's of each, with their correlation."""
    total = both + only_a + only_b + neither
    right_a, right_b = both + only_a, both + only_b
    share_a, share_b = right_a / total, right_b / total
    a, b = wilson(right_a, total), wilson(right_b, total)
    product = right_a * (total - right_a) * right_b * (total - right_b)
    excess = float(both * neither - only_a * only_b)
    if excess > 0:
        excess = max(excess - total / 2, 0.0)
    phi = excess / sqrt(product) if product else 0.0
    below = _joined(share_b - b.low, a.high - share_a, phi)
    above = _joined(b.high - share_b, share_a - a.low, phi)
    return Interval(share_b - share_a - below, share_b - share_a + above)


def _joined(first: float, second: float, phi: float) -> float:
    return sqrt(max(first * first - 2 * phi * first * second + second * second, 0.0))


def _by_t(difference: float, error: float, degrees: float) -> Difference:
    from scipy.special import stdtr

    margin = _t_quantile(degrees) * error
    # Where every seed says the same, it says nothing, or something without any doubt.
    p_value = float(2 * stdtr(degrees, -abs(difference / error))) if error else float(difference == 0)
    return Difference(difference, Interval(difference - margin, difference + margin), p_value)


def _std(values: Sequence[float], mean: float) -> float:
    if not isfinite(mean):
        return mean
    return sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _t_quantile(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, TAIL))
