"""What a person sees of a sweep: one live table on a terminal, a plain line a job elsewhere."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fmx.errors import DataError
from fmx.plain_files import read_json
from fmx.sweep.plan import Job
from fmx.sweep.pool import Ended

__all__ = ["Display", "validation_accuracy"]

SHOWN = 12  # running jobs; more are only counted


def validation_accuracy(run_dir: Path) -> float | None:
    """The accuracy that a finished run was chosen by; None where it cannot be read or nothing was held out."""
    try:
        value = read_json(run_dir / "metrics.json")["val"]["accuracy"]
    except (DataError, KeyError, TypeError):
        return None
    return value if isinstance(value, float) else None


class Display:
    """Counts jobs and shows them. num_jobs: of this sweep; None where that is not known."""

    def __init__(self, num_jobs: int | None, num_done: int, num_workers: int, say: Callable[[str], None]) -> None:
        self.num_jobs = num_jobs
        self.counts = {"completed": num_done, "failed": 0, "interrupted": 0}
        self.best: tuple[float, Job] | None = None
        self._num_workers = num_workers
        self._say = say
        self._seconds: list[float] = []
        self._running: dict[int, tuple[Job, float]] = {}
        self._live = Live(console=Console(), refresh_per_second=2, transient=True) if sys.stdout.isatty() else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def started(self, job: Job) -> None:
        """Show a job that has begun."""
        self._running[job.number] = (job, time.monotonic())
        self.refresh()

    def ended(self, ended: Ended) -> None:
        """Show how a job ended."""
        self._running.pop(ended.job.number, None)
        self.counts[ended.status] += 1
        said = ended.error or ended.status
        if ended.status == "completed":
            self._seconds.append(ended.seconds)
            accuracy = validation_accuracy(ended.job.run_dir)
            said = "completed" if accuracy is None else f"val {accuracy:.2%}"
            if accuracy is not None and (self.best is None or accuracy > self.best[0]):
                self.best = (accuracy, ended.job)
        of = f"/{self.num_jobs}" if self.num_jobs else ""
        mark = {"failed": "FAILED: ", "interrupted": "interrupted: "}.get(ended.status, "")
        said = f"{mark}{said}" if said != ended.status else said
        self._say(
            f"[{sum(self.counts.values())}{of}] #{ended.job.number} {ended.job.label}: {said} ({ended.seconds:.0f} s)"
        )
        self.refresh()

    def refresh(self) -> None:
        """Draw the table anew."""
        if self._live:
            self._live.update(Group(self._table(), Text(self._summary(), style="bold")))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("job", "running", "seconds"):
            table.add_column(heading)
        for job, began in list(self._running.values())[:SHOWN]:
            table.add_row(f"#{job.number}", job.label, f"{time.monotonic() - began:.0f}")
        return table

    def _summary(self) -> str:
        parts = [f"{len(self._running)} running", *(f"{count} {name}" for name, count in self.counts.items() if count)]
        if self.num_jobs:
            left = self.num_jobs - sum(self.counts.values())
            parts.append(f"{left} to go")
            if self._seconds and left:
                average = sum(self._seconds) / len(self._seconds)
                parts.append(f"about {left * average / self._num_workers / 60:.1f} min left")
        if self.best:
            parts.append(f"best so far val {self.best[0]:.2%} (#{self.best[1].number} {self.best[1].label})")
        return " · ".join(parts)
