"""The state of a search: its best configurations, and every trial."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from fmx.process.table import print_metrics, printable
from fmx.reporting.intervals import Interval
from fmx.runs.settings import show
from fmx.sweeps.search.options import Options
from fmx.sweeps.search.repeats import interval, mean
from fmx.sweeps.search.space import by_key, key_of
from fmx.sweeps.search.study import ERROR, is_own, origin, run_values

__all__ = ["Commands", "Summary", "summarize"]

BEST = 10  # rows of the table at the end
STATES = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


class Commands(Protocol):
    """The interface of Command, which documents the methods."""

    def for_trial(self, values: Mapping[str, Any]) -> str:
        """The command for the values of a trial."""

    @property
    def to_resume(self) -> str:
        """The command that resumes the search."""


@dataclass(frozen=True)
class Summary:
    """The state of a study. best: one trial, or with several metrics the Pareto front."""

    sweep_dir: Path
    study: Study
    options: Options
    trials: Sequence[FrozenTrial]
    best: Sequence[FrozenTrial]
    command: Commands
    wanted: int | None = None  # trials in all; None if only a time limit ends the search

    def count(self, state: TrialState) -> int:
        """How many trials of the search itself are in a state."""
        return sum(trial.state == state and is_own(trial) for trial in self.trials)

    def run_dir(self, trial: FrozenTrial) -> Path:
        """The run directory of a trial; of one that was taken over, that of the earlier study."""
        return self.sweep_dir / str(trial.number * self.options.runs_per_trial) if is_own(trial) else origin(trial)

    @property
    def num_taken_over(self) -> int:
        """How many trials are of an earlier study."""
        return sum(not is_own(trial) for trial in self.trials)

    @property
    def completed(self) -> list[FrozenTrial]:
        """The completed trials."""
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @property
    def counts(self) -> dict[str, int]:
        """The number of trials by state."""
        return {name: self.count(state) for state, name in STATES.items() if state != TrialState.WAITING}

    def by_metric(self, values: Sequence[float] | None) -> dict[str, float]:
        """A trial's values by metric."""
        return {each.metric: value for each, value in zip(self.options.objectives, values or [], strict=False)}

    def plain(self) -> dict[str, Any]:
        """Everything as plain values, for search.json."""
        options = self.options
        return {
            "metric": [each.metric for each in options.objectives],
            "direction": [each.direction for each in options.objectives],
            "sampler": options.sampler,
            "pruning": options.pruning,
            "rank": options.rank,
            "command": self.command.to_resume,
            "wanted": self.wanted,
            "trials": {"begun": len(self.trials) - self.num_taken_over, **self.counts},
            "taken_over": self.num_taken_over,
            "best": [
                {
                    "trial": trial.number,
                    "run_dir": str(self.run_dir(trial)),
                    "runs": self._runs(trial),
                    "values": self.by_metric(trial.values),
                    "params": by_key(trial.params),
                    "command": self.command.for_trial(trial.params),
                }
                for trial in self.best
            ],
            "history": [self._plain(trial) for trial in self.trials],
        }

    def _plain(self, trial: FrozenTrial) -> dict[str, Any]:
        return {
            "trial": trial.number,
            "state": STATES[trial.state],
            "values": self.by_metric(self._values(trial)),
            "runs": self._runs(trial),
            "params": by_key(trial.params),
            "reports": {str(step): value for step, value in trial.intermediate_values.items()},
            "seconds": round(trial.duration.total_seconds(), 3) if trial.duration else None,
            "error": trial.user_attrs.get(ERROR),
        } | ({} if is_own(trial) else {"from": str(origin(trial))})

    def completed_runs(self, trial: FrozenTrial) -> list[Path]:
        """The directories of a trial's completed runs."""
        if self.options.runs_per_trial == 1:  # earlier versions recorded the values of the trial alone
            return [self.run_dir(trial)] if trial.state == TrialState.COMPLETE else []
        return [self.sweep_dir / str(trial.number * self.options.runs_per_trial + index) for index in run_values(trial)]

    def _runs(self, trial: FrozenTrial) -> dict[str, dict[str, float]]:
        """The values by metric of each completed run, by the name of its directory."""
        if self.options.runs_per_trial == 1:
            return {run_dir.name: self.by_metric(trial.values) for run_dir in self.completed_runs(trial)}
        each = zip(self.completed_runs(trial), run_values(trial).values(), strict=True)
        return {run_dir.name: self.by_metric(values) for run_dir, values in each}

    def _values(self, trial: FrozenTrial) -> Sequence[float] | None:
        """A trial's values; of one that got no further run, the mean so far."""
        of_runs = run_values(trial) if trial.state == TrialState.PRUNED else {}
        return mean([*of_runs.values()]) if of_runs else trial.values

    def interval(self, trial: FrozenTrial) -> Interval | None:
        """The 95 % interval of a completed trial's mean in the first metric; None for a single run."""
        values = [each[0] for each in run_values(trial).values()]
        if trial.state != TrialState.COMPLETE or len(values) < max(2, self.options.runs_per_trial):
            return None
        return interval(values, self.options)

    def spread(self, trial: FrozenTrial) -> str:
        """What follows a trial's values in a line: of how many runs they are the mean, and the interval."""
        ends = self.interval(trial)
        count = self.options.runs_per_trial
        return f", the mean of {count} runs (95 % interval {ends.low:.6g} to {ends.high:.6g})" if ends else ""

    def ranked(self) -> list[FrozenTrial]:
        """The completed trials, best in the first metric first, then the others in the order of their numbers.

        By their means, or by the worse ends of the means' intervals.
        """
        others = [trial for trial in self.trials if trial.state != TrialState.COMPLETE]
        return sorted(self.completed, key=self._badness) + others

    def _badness(self, trial: FrozenTrial) -> float:
        maximize = self.options.objectives[0].direction == "maximize"
        value: float = (trial.values or [0.0])[0]
        ends = self.interval(trial)
        if self.options.rank == "confidence_bound" and ends is not None:
            value = ends.low if maximize else ends.high
        return -value if maximize else value

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows: number, state, values, parameters and error of each trial."""
        metrics = [each.metric for each in self.options.objectives]
        keys = list(dict.fromkeys(key_of(name) for trial in self.trials for name in trial.params))
        several = self.options.runs_per_trial > 1
        rows = []
        for trial in self.ranked():
            values = self.by_metric(self._values(trial))
            cells = [str(trial.number), STATES[trial.state]]
            cells += [f"{values[metric]:.6g}" if values else "" for metric in metrics]
            if several:
                cells += self._interval_cell(trial)
                cells.append(" ".join(run_dir.name for run_dir in self.completed_runs(trial)))
            params = by_key(trial.params)
            cells += [show(params[key]) if key in params else "" for key in keys]
            rows.append([*cells, printable(self._note(trial))])
        return ["trial", "state", *metrics, *self._interval_head, *(["runs"] if several else []), *keys, "note"], rows

    @property
    def _interval_head(self) -> list[str]:
        return ["95 % interval"] if self.options.runs_per_trial > 1 else []

    def _interval_cell(self, trial: FrozenTrial) -> list[str]:
        ends = self.interval(trial)
        return [f"{ends.low:.6g} to {ends.high:.6g}" if ends else "" for _ in self._interval_head]

    def _note(self, trial: FrozenTrial) -> str:
        """Where a trial is from, or why it has no values."""
        if not is_own(trial):
            return f"taken over from {origin(trial)}"
        if trial.state == TrialState.PRUNED and (values := run_values(trial)):
            so_far = mean([*values.values()])[0]
            of = self.options.runs_per_trial
            return f"after {len(values)} of {of} runs: {self.options.objectives[0].metric} {so_far:.6g}"
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            step = max(trial.intermediate_values)
            name = self.options.objectives[0].metric
            return f"after validation {step}: {name} {trial.intermediate_values[step]:.6g}"
        return str(trial.user_attrs.get(ERROR, ""))

    def headline(self) -> str:
        """The numbers of trials, in one line."""
        counts = [f"{number} {name}" for name, number in self.counts.items() if number]
        number = len(self.trials) - self.num_taken_over
        earlier = f" · {self.num_taken_over} taken over" if self.num_taken_over else ""
        return f"{number} {'trial' if number == 1 else 'trials'}: {', '.join(counts) or 'none'}{earlier}"

    def print_best(self) -> None:
        """Print the best completed trials in the first metric: their values and what was chosen."""
        completed = [trial for trial in self.ranked() if trial.state == TrialState.COMPLETE]
        if len(completed) < 2:  # noqa: PLR2004 - the best one is named anyway
            return
        metrics = [each.metric for each in self.options.objectives]
        rows = []
        for trial in completed[:BEST]:
            chosen = " ".join(f"{key}={show(value)}" for key, value in by_key(trial.params).items())
            values = [f"{value:.6g}" for value in self.by_metric(trial.values).values()]
            rows.append([str(trial.number), *values, *self._interval_cell(trial), chosen])
        print()
        print_metrics(["trial", *metrics, *self._interval_head, "chosen"], rows)
        print()
        sys.stdout.flush()

    def lines(self) -> Iterator[str]:
        """The lines that are printed at the end."""
        yield f"{self.headline()} · {self.options.goal}"
        if not self.best:
            yield f"no trial has been completed; {self.sweep_dir / 'search.md'} lists what became of them"
            return
        if len(self.options.objectives) > 1:
            yield f"{len(self.best)} of them are best: no other trial beats one in every metric"
        for trial in self.best:
            values = "  ".join(f"{name} {value:.6g}" for name, value in self.by_metric(trial.values).items())
            from_there = "" if is_own(trial) else f" (taken over from {origin(trial)})"
            yield f"trial {trial.number}: {values}{self.spread(trial)}{from_there}"
            yield f"  {self.command.for_trial(trial.params)}"
        yield f"{self.sweep_dir / 'search.html'}"


def summarize(
    study: Study, sweep_dir: Path, options: Options, command: Commands, *, wanted: int | None = None
) -> Summary:
    """Read the trials of a study. wanted: their number in the end."""
    trials = study.get_trials(deepcopy=False)
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    summary = Summary(sweep_dir, study, options, trials, [], command, wanted)
    if not completed:
        return summary
    several = len(options.objectives) > 1
    best = sorted(study.best_trials, key=lambda trial: trial.values) if several else summary.ranked()[:1]
    return replace(summary, best=best)
