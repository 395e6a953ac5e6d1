"""Intervals and tests for accuracies: of one configuration, and of the difference between two.

All intervals are 95 % and two-sided. Formulas: E. B. Wilson, JASA 22 (1927) 209; Q. McNemar, Psychometrika 12 (1947)
153, made exact; R. G. Newcombe, Statistics in Medicine 17 (1998) 2635, method 10; F. E. Satterthwaite, Biometrics
Bulletin 2 (1946) 110; D. G. Bonett and R. M. Price, J. Educational and Behavioral Statistics 37 (2012) 479; variance
components of seeds crossed with images, as of readers crossed with cases: S. L. Hillis, Statistics in Medicine 26
(2007) 596; Wilson's interval with an effective sample size: C. Franco et al., J. Survey Statistics and Methodology 7
(2019) 334.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, inf, isfinite, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Difference",
    "Interval",
    "Spread",
    "corrected_t",
    "crossed",
    "mcnemar",
    "newcombe",
    "share",
    "student_t",
    "wilson",
]

TAIL = 0.975
Z = NormalDist().inv_cdf(TAIL)
MANY = 1e9  # degrees of freedom; with more Student's t is the normal distribution


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Values of several seeds or folds: mean, sample standard deviation (n - 1), and an interval of the mean.

    method: `student-t`, `wilson` (a single model on its images), `wilson-t` (seeds and images), `folds` (folds, and
    images that all of them share), or empty if there is no interval.
    """

    values: Sequence[float]
    mean: float
    std: float | None
    interval: Interval | None
    method: str


@dataclass(frozen=True)
class Difference:
    """The difference B - A: its mean, its interval, and the p-value of no difference.

    seeds_agree: whether the seeds of each side agree on every image, so that their variance is undefined.
    """

    difference: float
    interval: Interval
    p_value: float
    seeds_agree: bool


def student_t(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and Student's t interval over seeds; neither of the last two for a single value."""
    n, mean = len(values), fsum(values) / len(values)
    if n == 1:
        return Spread(values, mean, None, None, "")
    std = _std(values, mean)
    margin = _t_quantile(n - 1) * std / sqrt(n)
    return Spread(values, mean, std, Interval(mean - margin, mean + margin), "student-t")


def share(values: Sequence[float], num_images: int | None, *, folds: int = 0) -> Spread:
    """Mean, standard deviation and interval, within 0..1, of a share of images that one or more seeds measured.

    Wilson's interval with an effective sample size, that of a binomial with the variance of the mean, and Student's t
    with Satterthwaite's degrees of freedom. The variance is that of the seeds plus the binomial one of the images,
    which all seeds share. No interval if `num_images` is None and there is a single seed, or the seeds do not vary.

    folds: where the values are those of several of so many folds instead, their number. Folds have training images in
    common, so that their values are correlated, and their variance has no unbiased estimate (Y. Bengio and
    Y. Grandvalet, JMLR 5 (2004) 1089). That of the mean of n is taken as s² (1 / n + 1 / (folds - 1)), as C. Nadeau and
    Y. Bengio propose (Machine Learning 52 (2003) 239): rather too large than too small.
    """
    n, mean = len(values), fsum(values) / len(values)
    std = _std(values, mean) if n > 1 else None
    if not isfinite(mean):
        return Spread(values, mean, std, None, "")
    per_value = 1 / n + (1 / (folds - 1) if folds else 0.0)
    of_seeds, of_images = (std or 0.0) ** 2 * per_value, mean * (1 - mean) / num_images if num_images else 0.0
    if n == 1 or not of_seeds:
        interval = wilson(mean * num_images, num_images) if num_images else None
        method = "folds" if folds else "wilson" if n == 1 else "wilson-t"
        return Spread(values, mean, std, interval, "" if interval is None else method)
    variance = of_seeds + of_images
    quantile = _t_quantile((variance / of_seeds) ** 2 * (n - 1))
    interval = _wilson(mean, mean * (1 - mean) / variance, quantile)
    return Spread(values, mean, std, interval, "folds" if folds else "wilson-t")


def wilson(num_right: float, total: int) -> Interval:
    """Wilson's score interval of a share of `total` images."""
    return _wilson(num_right / total, total, Z)


def _wilson(share: float, total: float, quantile: float) -> Interval:
    squared = quantile * quantile
    centre = (share + squared / (2 * total)) / (1 + squared / total)
    margin = quantile / (1 + squared / total) * sqrt(share * (1 - share) / total + squared / (4 * total * total))
    return Interval(max(0.0, centre - margin), min(1.0, centre + margin))


def corrected_t(differences: Sequence[float], folds: int) -> Difference:
    """The mean of paired differences of several of so many folds: Student's t, corrected as in `share`."""
    from scipy.special import stdtr

    n, spread = len(differences), student_t(differences)
    assert spread.std is not None
    error = spread.std * sqrt(1 / n + 1 / (folds - 1))
    margin = _t_quantile(n - 1) * error
    p_value = 2 * float(stdtr(n - 1, -abs(spread.mean / error))) if error else float(spread.mean == 0)
    return Difference(spread.mean, Interval(spread.mean - margin, spread.mean + margin), p_value, seeds_agree=not error)


def crossed(
    a: NDArray[np.bool_] | NDArray[np.float64],
    b: NDArray[np.bool_] | NDArray[np.float64],
    *,
    paired: bool,
    folds: int = 0,
) -> Difference:
    """The difference of accuracies B - A, for other seeds and other test images: both are random samples.

    a, b: whether each seed's model is right on each image, (seeds, images), the same images, at least two seeds each.
    folds: where these are several of so many folds instead, their number; the variance due to them is larger as in
    `share`, and a fold's values may be shares of its seeds.
    paired: whether both have the same seeds in the same order. The variance of the difference is the sum of the
    components of seeds, of images, and of their interaction, none below zero. Two images are added, one on which only A
    and one on which only B is right (Bonett and Price), so that a few images that all changed one way prove nothing.
    Student's t with Satterthwaite's degrees of freedom: n - 1 for n seeds, infinitely many for the images.
    """
    from scipy.special import stdtr

    sides = [(b.astype(float) - a)] if paired else [a.astype(float), b.astype(float)]  # (seeds, images)
    by_image = b.mean(axis=0) - a.mean(axis=0)  # (images,)
    parts = [_variances_of_seeds(side) for side in sides]
    of_rest = fsum(rest for _, rest in parts)
    if folds:
        parts = [(each * (1 + len(side) / (folds - 1)), rest) for (each, rest), side in zip(parts, sides, strict=True)]
    of_seeds = max(fsum(seeds for seeds, _ in parts), of_rest)
    of_images = max(float((by_image**2).sum() + 2) / (len(by_image) + 2) ** 2, of_rest)
    variance = of_seeds + of_images - of_rest
    least = [max(each) for each in parts]
    per_degree = fsum(v * v / (len(side) - 1) for v, side in zip(least, sides, strict=True))
    degrees = variance * variance / per_degree if per_degree else inf
    difference, error = float(by_image.mean()), sqrt(variance)
    margin = _t_quantile(degrees) * error
    return Difference(
        difference=difference,
        interval=Interval(max(-1.0, difference - margin), min(1.0, difference + margin)),
        p_value=min(1.0, float(2 * stdtr(min(degrees, MANY), -abs(difference / error)))),
        seeds_agree=all(bool((each == each[0]).all()) for each in (a, b)),
    )


def _variances_of_seeds(values: NDArray[np.float64]) -> tuple[float, float]:
    """The variances of the mean of (seeds, images) due to the seeds, and to their interaction with images."""
    num_seeds, num_images = values.shape
    seeds, images, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    rest = values - seeds[:, None] - images + mean
    degrees = num_seeds - 1
    return (
        float(((seeds - mean) ** 2).sum()) / degrees / num_seeds,
        float((rest**2).sum()) / (degrees * max(num_images - 1, 1)) / (num_seeds * num_images),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value of McNemar's test: a binomial test with p = 0.5.

    only_a, only_b: numbers of images on which only A, or only B, is right. The other images do not count.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def newcombe(both: int, only_a: int, only_b: int, neither: int) -> Interval:
    """The interval of the accuracies' difference B - A on the same images: Wilson's of each, with their correlation."""
    total = both + only_a + only_b + neither
    right_a, right_b = both + only_a, both + only_b
    share_a, share_b = right_a / total, right_b / total
    a, b = wilson(right_a, total), wilson(right_b, total)
    product = right_a * (total - right_a) * right_b * (total - right_b)
    excess = float(both * neither - only_a * only_b)
    if excess > 0:
        excess = max(excess - total / 2, 0.0)
    phi = excess / sqrt(product) if product else 0.0
    below = _joint_margin(share_b - b.low, a.high - share_a, phi)
    above = _joint_margin(b.high - share_b, share_a - a.low, phi)
    return Interval(share_b - share_a - below, share_b - share_a + above)


def _joint_margin(first: float, second: float, phi: float) -> float:
    return sqrt(max(first * first - 2 * phi * first * second + second * second, 0.0))


def _std(values: Sequence[float], mean: float) -> float:
    if not isfinite(mean):
        return mean
    return sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _t_quantile(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(min(degrees, MANY), TAIL))
