"""The state of a search from its directory alone, as its own command has it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmx.errors import DataError
from fmx.runs.command_again import command_again
from fmx.runs.run_dir import open_run
from fmx.sweeps.search.options import PRUNINGS, RULES, SAMPLERS, Objective, Options
from fmx.sweeps.search.study import SETTINGS, is_own, origin, recorded_study
from fmx.sweeps.search.summary import Summary, summarize
from fmx.sweeps.search.summary_file import command_to_go_on, rank_of

__all__ = ["recorded_summary"]


def recorded_summary(sweep_dir: Path) -> Summary:
    """Read the study of a directory that may come from anyone; DataError where it is no search."""
    study = recorded_study(sweep_dir)
    settings = study.user_attrs[SETTINGS]
    directions = [each.name.lower() for each in study.directions]
    if settings.get("sampler") not in SAMPLERS or settings.get("pruning") not in PRUNINGS:
        raise DataError(f"{sweep_dir} has no valid settings of its search")
    seeds, folds = settings.get("seeds", 1), settings.get("folds")
    if not (RULES["seeds"].holds(seeds) and RULES["folds"].holds(folds)):
        raise DataError(f"{sweep_dir} has no valid settings of its search")
    options = Options(
        objectives=tuple(
            Objective(metric, "maximize" if direction == "maximize" else "minimize")
            for metric, direction in zip(settings["metric"], directions, strict=True)
        ),
        sampler=settings["sampler"],
        pruning=settings["pruning"],
        n_trials=None,
        timeout_s=None,
        seed=0,
        startup=1,
        warmup=1,
        reduction=2,
        seeds=seeds,
        folds=folds,
        rank=rank_of(sweep_dir),
    )
    command = _RecordedCommand(sweep_dir, study.get_trials(deepcopy=False), options.runs_per_trial)
    return summarize(study, sweep_dir, options, command)


class _RecordedCommand:
    """The command lines of a search, from what its runs have recorded."""

    def __init__(self, sweep_dir: Path, trials: list[Any], runs_per_trial: int) -> None:
        self._sweep_dir = sweep_dir
        self._runs_per_trial = runs_per_trial
        self._trials = trials

    def for_trial(self, values: Mapping[str, Any]) -> str:
        """The commands of the runs of the first trial with these values; empty where one has recorded none."""
        trial = next((trial for trial in self._trials if trial.params == values), None)
        if trial is None:
            return ""
        first = trial.number * self._runs_per_trial
        runs = [self._sweep_dir / str(first + index) for index in range(self._runs_per_trial)]
        try:
            return " && ".join(
                command_again(open_run(run, finished=False)) for run in (runs if is_own(trial) else [origin(trial)])
            )
        except DataError:
            return ""

    @property
    def to_resume(self) -> str:
        """The command that goes on with the search; empty where none is recorded."""
        return command_to_go_on(self._sweep_dir) or ""
