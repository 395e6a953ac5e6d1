"""Optuna's samplers and pruners, by their names in `hydra.sweeper`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GridSampler, RandomSampler, TPESampler

from fmx.sweeps.search.space import Space

__all__ = ["make_pruner", "make_sampler"]


class _Grid(GridSampler):
    """Optuna's grid sampler, without its call to study.stop() at the end: fmx does not use Optuna's loop."""

    def after_trial(self, *_: Any) -> None:
        pass


def make_sampler(name: str, space: Space, *, seed: int, number: int, startup: int) -> BaseSampler:
    """The sampler that draws one trial.

    number: of the trial. It is part of the seed, so that searches which are resumed, or shared by several commands, do
    not repeat draws, and a resumed search draws what an uninterrupted one would.
    """
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    match name:
        case "tpe":
            return TPESampler(seed=drawn, n_startup_trials=startup)
        case "cmaes":
            return CmaEsSampler(seed=drawn, n_startup_trials=startup, warn_independent_sampling=False)
        case "grid":
            return _Grid(space.grid(), seed=seed)  # the order of points must be the same for all trials
        case _:
            return RandomSampler(seed=drawn)


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
