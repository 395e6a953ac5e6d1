"""What jobs do at the moment: their states, where they run, and an estimate of the time that they will take."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmx.config.bounded_files import get_nested, read_yaml_or_empty
from fmx.process.table import printable
from fmx.runs.run_dir import Run, instant
from fmx.sweeps.slurm_queue import Place

__all__ = ["STATES", "JobStatus", "Status", "estimate", "run_state"]

STATES = ("running", "queued", "completed", "pruned", "failed", "interrupted", "unreadable", "not started")
ENDED = {"completed", "pruned", "failed"}
TIMES = ("startup_s", "data_s", "fit_s", "test_s")  # of run.json's timing: together about the seconds of a run
LAST_BYTES = 4096  # of history.csv
LARGEST = 1e9


@dataclass(frozen=True)
class JobStatus:
    """One job.

    state: one of STATES. what: the overrides that tell it from the others. seconds: that it took, or has run so far.
    values: of an ended job by metric. epoch: the last one that was validated. place: on a SLURM cluster.
    """

    name: str
    state: str
    what: str = ""
    error: str | None = None
    seconds: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    epoch: float | None = None
    epochs: int | None = None
    host: str | None = None
    slurm_job: str | None = None
    place: Place | None = None

    def plain(self) -> dict[str, Any]:
        """Everything as plain values, for a JSON file."""
        at = self.place
        where = {} if at is None else {"state": at.state, "node": at.node, "reason": at.reason}
        slurm = {"job": self.slurm_job, **where} if self.slurm_job else None
        names = ("name", "state", "what", "error", "seconds", "values", "epoch", "epochs", "host")
        return {name: getattr(self, name) for name in names} | {"slurm": slurm}


@dataclass(frozen=True)
class Status:
    """A sweep, a search or a single run.

    kind: `sweep`, `search`, `run` or `folder`. is_alive: whether a command is at work on it; None if that is unknown.
    best: the best job so far, in words. best_jobs: its name, or the names of those on the Pareto front. left_s: an
    estimate of the seconds that are left, None if there is none. left_from: what it is estimated from, or why there is
    none. notes: what else a person should know. go_on: the line that goes on.
    """

    path: Path
    kind: str
    title: str
    jobs: Sequence[JobStatus]
    is_alive: bool | None = None
    best: str = ""
    best_jobs: Sequence[str] = ()
    left_s: float | None = None
    left_from: str = ""
    notes: Sequence[str] = ()
    go_on: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The number of jobs in each state that occurs."""
        found = Counter(job.state for job in self.jobs)
        return {state: found[state] for state in STATES if found[state]}

    @property
    def headline(self) -> str:
        """The numbers of jobs in one line."""
        return " · ".join(f"{number} {state}" for state, number in self.counts.items()) or "no job"

    def plain(self) -> dict[str, Any]:
        """Everything as plain values, for a JSON file."""
        names = ("kind", "title", "is_alive", "counts", "best", "left_s", "left_from", "go_on")
        facts = {name: getattr(self, name) for name in names}
        lists = {"best_jobs": [*self.best_jobs], "notes": [*self.notes], "jobs": [job.plain() for job in self.jobs]}
        return {"path": str(self.path), **facts, **lists}


def run_state(run: Run, name: str, what: str, **more: Any) -> JobStatus:
    """The state of a run from its directory; `more` takes precedence."""
    state = "pruned" if run.pruned else run.status if run.status in STATES else "unreadable"
    facts: dict[str, Any] = {
        "name": name,
        "state": state,
        "what": what,
        "error": None if not run.record.get("error") else printable(run.record["error"]),
        "host": printable(run.record.get("host") or "") or None,
        "seconds": _seconds(run),
    }
    if more.get("state", state) == "running":
        facts |= {
            "seconds": max(0.0, min(LARGEST, time.time() - instant(run.record.get("started")))),
            "epoch": _last_epoch(run.path / "history.csv"),
            "epochs": _epochs(run.path),
        }
    return JobStatus(**{**facts, **more})


def _seconds(run: Run) -> float | None:
    timing = run.record.get("timing")
    seconds = [timing.get(name) for name in TIMES] if isinstance(timing, dict) else []
    known = [each for each in seconds if isinstance(each, int | float) and 0 <= each < LARGEST]
    return round(sum(known), 3) if known else None


def _last_epoch(history: Path) -> float | None:
    """The epoch in the last complete row of history.csv; None before the first."""
    try:
        with history.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LAST_BYTES))
            rows = file.read(LAST_BYTES).split(b"\n")[:-1]
        epoch = float(rows[-1].partition(b",")[0])
    except (OSError, ValueError, IndexError):
        return None
    return epoch if 0 < epoch < LARGEST else None


def _epochs(run_dir: Path) -> int | None:
    epochs = get_nested(read_yaml_or_empty(run_dir / ".hydra" / "resolved.yaml"), "trainer", "max_epochs")
    return epochs if type(epochs) is int and 0 < epochs < LARGEST else None


def estimate(jobs: Iterable[JobStatus], *, num_parallel: int, num_more: int = 0) -> tuple[float | None, str]:
    """The seconds until all jobs have ended, and what they are estimated from; None and why not, or an empty text.

    num_parallel: jobs at a time. num_more: jobs that do not exist yet, as of a search.
    """
    jobs = [*jobs]
    running = [job for job in jobs if job.state == "running"]
    waiting = sum(job.state == "queued" for job in jobs) + num_more
    if not running and not waiting:
        return None, ""
    times = [job.seconds for job in jobs if job.state in {"completed", "pruned"} and job.seconds is not None]
    if times:
        source = f"{len(times)} ended job{'s' if len(times) > 1 else ''} of"
    else:
        times = [job.seconds * job.epochs / job.epoch for job in running if job.seconds and job.epochs and job.epoch]
        source = "the epochs so far, which make"
    if not times:
        return None, "unknown before the first epoch" if running else "unknown while no job runs"
    mean = sum(times) / len(times)
    rests = [max(0.0, mean - (job.seconds or 0)) for job in running]
    at_once = max(1, num_parallel)
    seconds = max([*rests, (sum(rests) + waiting * mean) / at_once])
    return seconds, f"from {source} {in_time(mean)} each, {at_once} at a time"


def in_time(seconds: float) -> str:
    """Seconds in words: `40 s`, `3 min`, `2.5 h`."""
    minute, hour = 60, 3600
    if seconds < 2 * minute:
        return f"{seconds:.0f} s"
    return f"{seconds / minute:.0f} min" if seconds < 2 * hour else f"{seconds / hour:.1f} h"
