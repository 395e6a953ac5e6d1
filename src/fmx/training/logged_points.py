"""The points of trackers: at the steps of history.csv, and kept in a file where the tracker itself forgets them."""

import json
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from fmx.config.bounded_files import read_bytes

__all__ = ["PointsFile", "as_in_history"]

MAX_BYTES = 256_000_000  # some hundred a point


def as_in_history(metrics: Mapping[str, Any], step: int | None) -> tuple[dict[str, Any], int]:
    """Metrics and their step, as history.csv counts: optimizer steps taken, and epochs from 1.

    Lightning gives the index of the last step with metrics of training, which always have `epoch`; in a test, and what
    others log, the steps are counted.
    """
    at = int(step or 0)
    if "epoch" not in metrics or any(name.startswith("test") for name in metrics):
        return dict(metrics), at
    return {**metrics, "epoch": int(metrics["epoch"]) + 1}, at + 1


class PointsFile:
    """Points as JSON lines, which survive a process that is killed: {"step": 19, "metrics": {"train/loss": 0.5}}."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Append one line, if all values are numbers."""
        plain = {key: float(value) for key, value in metrics.items() if isinstance(value, Real)}
        if len(plain) == len(metrics):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "metrics": plain}) + "\n")

    def read(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The points, oldest first, without damaged lines: the last one of a killed process may be half a line."""
        if not self.path.exists():
            return
        for line in read_bytes(self.path, at_most=MAX_BYTES).splitlines():
            try:
                point = json.loads(line)
                step, metrics = int(point["step"] or 0), {str(k): float(v) for k, v in point["metrics"].items()}
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
            yield step, metrics

    def keep_before(self, step: int) -> None:
        """Keep the points before a step alone."""
        kept = [{"step": at, "metrics": metrics} for at, metrics in self.read() if at < step]
        partial = self.path.with_suffix(".part")
        partial.write_text("".join(json.dumps(each) + "\n" for each in kept), encoding="utf-8")
        partial.replace(self.path)
