"""The metric of a finished run that a search optimizes."""

import csv
from io import StringIO
from math import isfinite

from fmx.config.bounded_files import read_bytes
from fmx.errors import DataError
from fmx.runs.run_dir import Run

__all__ = ["read_metric"]

MAX_BYTES = 16_000_000  # a few hundred per validation


def read_metric(run: Run, metric: str) -> float:
    """A metric of a completed run's chosen checkpoint: of validation or training, `params`, or `seconds` of training.

    DataError if the run has no such metric, or if it is not finite.
    """
    if metric == "params":
        return float(run.recorded(int, "params"))
    if metric == "seconds":
        return float(run.recorded(float, "timing", "fit_s"))
    part, _, name = metric.partition("/")
    values = (run.metrics.get("val") or {}) if part == "val" else _row_of_checkpoint(run)
    try:
        value = float(values[name if part == "val" else metric])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{run.path} has no metric {metric}") from None
    if not isfinite(value):
        raise DataError(f"{metric} is {value}")
    return value


def _row_of_checkpoint(run: Run) -> dict[str, str]:
    """The row of history.csv that the chosen checkpoint belongs to."""
    step = run.recorded(int, "best", "step")
    path = run.path / "history.csv"
    text = read_bytes(path, at_most=MAX_BYTES).decode("utf-8", errors="replace")
    try:
        return next((row for row in csv.DictReader(StringIO(text)) if int(row["step"]) == step), {})
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
