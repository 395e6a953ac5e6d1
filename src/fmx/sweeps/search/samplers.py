"""Optuna's samplers and pruners, by their names in `hydra.sweeper`."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from fmx.errors import ConfigError
from fmx.sweeps.search.space import Parameter, Space, tags_of

__all__ = ["FROM", "check_sampler", "draw_value", "make_pruner", "make_sampler"]


FROM = "from"  # attribute of a trial that was taken over from an earlier study: its study and its number there
LEAST_SOURCE = 2  # trials from which cmaes can estimate where to start


class _Grid(GridSampler):
    """Optuna's grid sampler, without its call to study.stop() at the end: fmx does not use Optuna's loop."""

    def after_trial(self, *_: Any) -> None:
        pass


class _Point(BaseSampler):
    """Draws the values of one point. Optuna's grid sampler takes no branches."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def infer_relative_search_space(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, _study: Any, _trial: Any, param_name: str, _distribution: Any) -> Any:
        return self._values[param_name]


def check_sampler(name: str, space: Space) -> None:
    """ConfigError for a sampler that cannot draw from a space."""
    if name == "cmaes" and space.has_branches:
        each = next(each for each in space.parameters if each.when)
        raise ConfigError(
            f"hydra.sweeper.sampler=cmaes draws the same keys in all trials, but {each.key} is sought with "
            f"{' or '.join(tags_of(each.when))} alone; use hydra.sweeper.sampler=tpe"
        )
    if name == "grid":
        _ = space.num_points


def make_sampler(
    name: str, space: Space, *, seed: int, number: int, startup: int, trials: Sequence[FrozenTrial]
) -> BaseSampler:
    """The sampler that draws one trial.

    number: of the trial. It is part of the seed, so that searches which are resumed, or shared by several commands, do
    not repeat draws, and a resumed search draws what an uninterrupted one would. trials: all of the study.
    """
    taken_over = [trial for trial in trials if FROM in trial.user_attrs]
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    match name:
        case "tpe" if space.has_branches:
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                return TPESampler(seed=drawn, n_startup_trials=startup, multivariate=True, group=True)
        case "tpe":
            return TPESampler(seed=drawn, n_startup_trials=startup)
        case "cmaes":
            complete = [trial for trial in taken_over if trial.state == TrialState.COMPLETE]
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                return CmaEsSampler(
                    seed=drawn,
                    n_startup_trials=startup,
                    warn_independent_sampling=False,
                    source_trials=complete if len(complete) >= LEAST_SOURCE else None,
                )
        case "grid" if space.has_branches or taken_over:
            return _Point(_free_point(space, seed, number, trials))
        case "grid":
            return _Grid(space.grid(), seed=seed)  # the order of points must be the same for all trials
        case _:
            return RandomSampler(seed=drawn)


def _free_point(space: Space, seed: int, number: int, trials: Sequence[FrozenTrial]) -> Mapping[str, Any]:
    """The first point of a grid, in an order that depends on the seed alone, that no other trial has."""
    others = {frozenset(trial.params.items()) for trial in trials if trial.number != number}
    own = next((trial.params.items() for trial in trials if trial.number == number), ())  # a killed command's draws
    points = (space.points[place] for place in np.random.default_rng(seed).permutation(space.num_points))
    free = (point for point in points if frozenset(point.items()) not in others and {*own} <= {*point.items()})
    return next(free, space.points[0])


def draw_value(trial: Trial, parameter: Parameter) -> Any:
    """Draw a parameter's value like study.ask(fixed_distributions=…), also for a trial that was begun before."""
    name, drawn = parameter.name, parameter.distribution
    if isinstance(drawn, CategoricalDistribution):
        return trial.suggest_categorical(name, drawn.choices)
    if isinstance(drawn, IntDistribution):
        return trial.suggest_int(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
    assert isinstance(drawn, FloatDistribution)
    return trial.suggest_float(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)


def make_pruner(settings: Mapping[str, Any]) -> BasePruner:
    """The pruner of a study. settings: its name as `pruning`, startup, warmup, reduction."""
    match settings["pruning"]:
        case "median":
            return MedianPruner(n_startup_trials=settings["startup"], n_warmup_steps=settings["warmup"])
        case "asha":
            return SuccessiveHalvingPruner(min_resource=settings["warmup"], reduction_factor=settings["reduction"])
        case "hyperband":
            return HyperbandPruner(min_resource=settings["warmup"], reduction_factor=settings["reduction"])
        case _:
            return NopPruner()
