"""Progress of a sweep: one log line per finished job, and live lines at the bottom of a terminal."""

import sys
import time
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Self

from hydra.core.utils import filter_overrides
from rich.text import Text

from fmx.config.bounded_files import read_json
from fmx.errors import DataError
from fmx.process.live_area import LiveArea
from fmx.sweeps.job import Job
from fmx.sweeps.pool import Ended

__all__ = ["Display", "shared_overrides", "validation_accuracy"]

SHOWN = 12  # running jobs with a line of their own; the others are counted


def validation_accuracy(run_dir: Path) -> float | None:
    """The validation accuracy of a finished run; None without a validation set, or where it cannot be read."""
    try:
        value = read_json(run_dir / "metrics.json")["val"]["accuracy"]
    except (DataError, KeyError, TypeError):
        return None
    return value if isinstance(value, float) else None


def shared_overrides(jobs: Iterable[Iterable[str]]) -> set[str]:
    """The overrides that all of several jobs share; the empty set for a single job."""
    each = [set(overrides) for overrides in jobs]
    return reduce(set.__and__, each) if len(each) > 1 else set()


class Display:
    """Counts jobs and shows them.

    num_jobs: of this sweep; None where it is unknown. shared: overrides of all jobs, which are not shown.
    """

    def __init__(
        self,
        num_jobs: int | None,
        num_done: int,
        num_workers: int,
        log: Callable[[str], None],
        *,
        shared: Iterable[str] = (),
    ) -> None:
        self.num_jobs = num_jobs
        self.counts = {"completed": num_done, "failed": 0, "interrupted": 0, "pruned": 0}
        self.best: tuple[float, Job] | None = None
        self._num_workers = num_workers
        self._log = log
        self._shared = set(shared)
        self._seconds: list[float] = []
        self._running: dict[int, tuple[Job, float]] = {}
        self._area = LiveArea(self._lines, sys.stdout)

    def __enter__(self) -> Self:
        self._area.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._area.__exit__(*raised)

    def started(self, job: Job) -> None:
        """Show a job that has started."""
        self._running[job.number] = (job, time.monotonic())

    def ended(self, ended: Ended) -> None:
        """Show how a job ended."""
        self._running.pop(ended.job.number, None)
        self.counts[ended.status] += 1
        result = ended.error or ended.status
        if ended.status == "completed":
            self._seconds.append(ended.seconds)
            accuracy = validation_accuracy(ended.job.run_dir)
            result = "completed" if accuracy is None else f"val {accuracy:.2%}"
            if accuracy is not None and (self.best is None or accuracy > self.best[0]):
                self.best = (accuracy, ended.job)
        of = f"/{self.num_jobs}" if self.num_jobs else ""
        mark = {"failed": "FAILED: ", "interrupted": "interrupted: "}.get(ended.status, "")
        result = f"{mark}{result}" if result != ended.status else result
        counted = f"[{sum(self.counts.values())}{of}]"
        self._log(f"{counted} #{ended.job.number} {self.label(ended.job)}: {result} ({ended.seconds:.0f} s)")

    def label(self, job: Job) -> str:
        """The overrides that distinguish a job from the others."""
        return " ".join(each for each in filter_overrides(job.overrides) if each not in self._shared) or job.label

    def _lines(self) -> list[Text]:
        """One line per running job, cut at the terminal's edge, and the summary, wrapped there."""
        running, now = list(self._running.values()), time.monotonic()
        rows = [
            Text(f"#{job.number:<4} {now - began:>5.0f} s  {self.label(job)}", no_wrap=True, overflow="ellipsis")
            for job, began in running[:SHOWN]
        ]
        more = [Text(f"and {len(running) - SHOWN} more")] if len(running) > SHOWN else []
        return [*rows, *more, Text(self._summary(), style="bold")]

    def _summary(self) -> str:
        parts = [f"{len(self._running)} running", *(f"{count} {name}" for name, count in self.counts.items() if count)]
        if self.num_jobs:
            left = self.num_jobs - sum(self.counts.values())
            parts.append(f"{left} to go")
            if self._seconds and left:
                average = sum(self._seconds) / len(self._seconds)
                parts.append(f"about {left * average / self._num_workers / 60:.1f} min left")
        if self.best:
            parts.append(f"best so far val {self.best[0]:.2%} (#{self.best[1].number} {self.label(self.best[1])})")
        return " · ".join(parts)
