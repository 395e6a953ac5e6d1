"""Runs as a table: a pandas DataFrame with one row per run."""

import io
from pathlib import Path
from typing import Any

import pandas as pd

from fmx.errors import DataError
from fmx.reporting.leaderboard import differing, leaderboard
from fmx.reporting.leaderboard_text import to_csv
from fmx.reporting.outcomes import Outcome, Unfinished, outcome, unfinished
from fmx.runs.run_dir import FINISHED, Run, find_runs, open_run
from fmx.runs.settings import Settings

__all__ = ["RunFrame", "open_runs"]


class RunFrame(pd.DataFrame):
    """One row per run; rows may be selected and sorted as in any DataFrame."""

    @property
    def _constructor(self) -> type["RunFrame"]:
        return RunFrame

    def leaderboard(self) -> pd.DataFrame:
        """The runs of this table grouped as `fmx report` groups them: one row per configuration, best first.

        Columns as in leaderboard.csv: rank, the settings that differ, n, seeds, folds, mean, standard deviation and
        95 % interval of each accuracy (shares of 1). Runs without metrics come last. DataError if there is no run.
        """
        if "path" not in self or self.empty:
            raise DataError("a leaderboard needs runs: rows of open_runs, with their column path")
        board = leaderboard([Path(path) for path in self["path"]])
        return pd.read_csv(io.StringIO(to_csv(board)), keep_default_na=False, na_values=[""])


def open_runs(*paths: str | Path) -> RunFrame:
    """Read the runs that paths name: runs, sweeps, folders of them, globs. DataError if there is none."""
    runs = [open_run(folder, finished=False) for folder in find_runs(map(str, paths))]
    read = [_outcome(run) for run in runs]
    keys = differing([each.settings for each in read if each.settings is not None])
    has_folds = any(each.settings is not None and each.settings.folds for each in read)
    rows = []
    for run, each in zip(runs, read, strict=True):
        settings = {} if each.settings is None else {key: _setting(each.settings, key) for key in keys}
        metrics = _metrics(each) if isinstance(each, Outcome) else {"status": each.status, "error": each.error}
        fold = {"fold": each.settings.fold if each.settings else None} if has_folds else {}
        which = {"path": str(run.path), "status": run.status, "seed": run.record.get("seed")} | fold
        rows.append(which | settings | metrics)
    return RunFrame(rows)


def _setting(settings: Settings, key: str) -> Any:
    """The choice of a group, or the value of a key."""
    return settings.choices[key] if key in settings.choices else settings.values.get(key)  # noqa: PD011 - no DataFrame


def _outcome(run: Run) -> Outcome | Unfinished:
    if run.status != FINISHED:
        return unfinished(run)
    try:
        return outcome(run, str(run.path))
    except DataError as error:
        return Unfinished(str(run.path), "unreadable", str(error), "", None)


def _metrics(each: Outcome) -> dict[str, Any]:
    names = ("data", "val_accuracy", "test_accuracy", "test_macro_f1", "params", "train_seconds", "started")
    return {name: getattr(each, name) for name in names}
