"""The runs of a trial, which differ in their seed or in the fold that is held out, and what their values say."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from math import fsum
from statistics import median

from fmx.errors import ConfigError
from fmx.reporting.intervals import Interval, corrected_t, share, student_t
from fmx.sweeps.search.options import Objective, Options

__all__ = ["check_repeats", "in_a_sweep", "interval", "is_poor", "mean", "runs_of_trial"]


def runs_of_trial(options: Options, seed: int) -> list[list[str]]:
    """The overrides of each run of a trial. seed: of its first run; a single run needs none."""
    seeds = [[f"seed={seed + number}"] for number in range(options.seeds)] if options.seeds > 1 else [[]]
    folds = [[]] if options.folds is None else [[f"data.fold={fold}"] for fold in range(options.folds)]
    number = [] if options.folds is None else [f"data.folds={options.folds}"]
    return [[*number, *of_fold, *of_seed] for of_seed, of_fold in product(seeds, folds)]


def in_a_sweep(runs: Sequence[Sequence[str]]) -> list[str]:
    """The overrides of a multirun of the same runs: `seed=1,2,3`."""
    values: dict[str, list[str]] = {}
    for key, _, value in (each.partition("=") for run in runs for each in run):
        if value not in values.setdefault(key, []):
            values[key].append(value)
    return [f"{key}={','.join(each)}" for key, each in values.items()]


def check_repeats(options: Options, drawn: Collection[str], fixed: Mapping[str, str]) -> None:
    """ConfigError if a trial's runs would contradict the space or the overrides of every trial.

    drawn: the keys of the space. fixed: the overrides by key.
    """
    if options.seeds > 1 and "seed" in drawn:
        raise ConfigError(
            f"hydra.sweeper.seeds={options.seeds} runs each trial with several seeds, so the search cannot draw the "
            "seed: leave it out of the distributions"
        )
    for key in ("data.fold", "data.folds"):
        if options.folds is not None and (key in drawn or key in fixed):
            raise ConfigError(
                f"hydra.sweeper.folds={options.folds} sets data.folds and data.fold of each run: leave out {key}"
            )


def mean(values: Sequence[Sequence[float]]) -> list[float]:
    """The mean over runs of each objective. values: of each run, by objective."""
    return [fsum(of_objective) / len(values) for of_objective in zip(*values, strict=True)]


def interval(values: Sequence[float], options: Options) -> Interval | None:
    """The 95 % interval of the mean over runs in the first metric; None for a single value.

    It is Student's t, for an accuracy within 0..1 as in the leaderboard. With folds it is that of their means over
    seeds, corrected for the training images that they share.
    """
    folds = options.folds or 0
    if folds:
        values = [fsum(values[fold::folds]) / options.seeds for fold in range(folds)]
    is_share = options.objectives[0].metric.endswith(("accuracy", "f1"))
    of_share = share(values, None, folds=folds).interval if is_share else None
    return of_share or (corrected_t(values, folds) if folds else student_t(values)).interval


def is_poor(value: float, others: Sequence[float], num_runs: int, num_completed: int, options: Options) -> bool:
    """Whether a trial gets no further run.

    value: its mean over its first `num_runs` runs, as in `others`, which are those of all other trials with as many.
    num_completed: how many trials have all their runs. With `median`, poor is what is worse than the median of the
    others, from the `startup`-th completed trial on. With the others it is what is not among the best of `reduction`
    trials after 1, reduction, reduction² … runs: successive halving (L. Li et al., MLSys 2020) with runs as resource.
    """
    objective = options.objectives[0]
    if options.pruning == "median":
        return num_completed >= options.startup and bool(others) and _is_worse(value, median(others), objective)
    while num_runs > 1 and num_runs % options.reduction == 0:
        num_runs //= options.reduction
    if num_runs > 1:
        return False
    places = max(1, (len(others) + 1) // options.reduction)
    return sum(_is_worse(value, other, objective) for other in others) >= places


def _is_worse(value: float, other: float, objective: Objective) -> bool:
    return value < other if objective.direction == "maximize" else value > other
