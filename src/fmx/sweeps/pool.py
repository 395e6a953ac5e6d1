"""A pool of processes that run jobs in parallel; it outlives every job and reports how each one ended."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal, Protocol, Self

from fmx.errors import DataError
from fmx.process.exits import STOPPING, Interrupted, last_signal
from fmx.runs.record import write_json
from fmx.runs.run_dir import open_run
from fmx.sweeps.job import Job
from fmx.sweeps.machine import Share
from fmx.sweeps.warm import context, without_main
from fmx.sweeps.worker import work

__all__ = ["Cause", "Ended", "Pool", "Started", "Workers", "complete_record", "last_line"]

GRACE_S = 15.0  # between asking a job to stop and killing it
UNKNOWN = 255  # multiprocessing's exit code if the fork server has died
STOPPED = {128 + signum for signum in STOPPING}  # exit codes
PAUSE_S = 0.5  # between two checks for timeouts
Cause = Literal["completed", "raised", "killed", "timeout", "interrupted", "pruned", "refused"]


@dataclass(frozen=True)
class Started:
    """A job that has started."""

    job: Job


@dataclass(frozen=True)
class Ended:
    """A job that has ended, and why: `refused` if it did not start, `pruned` if a search stopped it."""

    job: Job
    cause: Cause
    error: str | None
    seconds: float

    @property
    def status(self) -> str:
        """The status as in run.json, except that pruned runs are `interrupted` there."""
        return self.cause if self.cause in {"completed", "interrupted", "pruned"} else "failed"


class Workers(Protocol):
    """The interface of Pool, which documents the methods."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def run(self, jobs: Iterable[tuple[Job, list[str]] | None]) -> Iterator[Started | Ended | None]:
        """Run jobs."""

    def outlived_by_jobs(self, signum: int) -> bool:
        """Whether the running jobs go on when a signal ends this process."""

    def stop(self, signum: int) -> Iterator[Ended]:
        """Ask the running jobs to end, unless they outlive this process. signum: SIGINT also if a job has failed."""


@dataclass
class _Running:
    job: Job
    share: Share
    process: BaseProcess
    lifeline: Connection
    began: float
    stop_requested_at: float | None = None
    cause: Cause | None = None  # of the request


class Pool:
    """Runs each job in a process of its own, as many in parallel as there are shares of the machine.

    A context manager: leaving it kills all jobs that are still running. job_timeout_s: None for no limit.
    """

    def __init__(self, shares: Sequence[Share], *, job_timeout_s: float | None) -> None:
        self._free = list(shares)
        self._timeout_s = job_timeout_s
        self._running: list[_Running] = []
        self._context = context()

    def run(self, jobs: Iterable[tuple[Job, list[str]] | None]) -> Iterator[Started | Ended | None]:
        """Run jobs, each with its extra arguments; yield each start and end, and None at every poll.

        The next job is taken from `jobs` only when a worker is free; None stands for no job at the moment.
        """
        waiting = iter(jobs)
        while True:
            while self._free and (following := next(waiting, None)) is not None:
                yield self._start(*following)
            if not self._running:
                return
            connection.wait([running.process.sentinel for running in self._running], timeout=PAUSE_S)
            yield from self._collect_ended()
            self._enforce_timeouts()
            yield None
            if (signum := last_signal()) is not None:  # its exception was lost
                raise Interrupted(signum)

    def outlived_by_jobs(self, signum: int) -> bool:  # noqa: ARG002 - no job outlives its pool
        """False."""
        return False

    def stop(self, signum: int) -> Iterator[Ended]:  # noqa: ARG002 - jobs save their states at SIGTERM
        """Send SIGTERM to every running job, wait until all have saved their states, and yield how they ended."""
        for running in self._running:
            self._request_stop(running, "interrupted", signal.SIGTERM)
        while self._running:
            connection.wait([running.process.sentinel for running in self._running], timeout=PAUSE_S)
            yield from self._collect_ended()
            self._enforce_timeouts()

    def _start(self, job: Job, arguments: list[str]) -> Started:
        share = self._free.pop(0)
        theirs, ours = self._context.Pipe(duplex=False)
        process = self._context.Process(target=work, args=(job, arguments, share, theirs), daemon=False)
        with without_main():
            process.start()
        theirs.close()
        self._running.append(_Running(job, share, process, ours, time.monotonic()))
        return Started(job)

    def _collect_ended(self) -> Iterator[Ended]:
        for running in [each for each in self._running if each.process.exitcode is not None]:
            self._running.remove(running)
            self._free.append(running.share)
            running.lifeline.close()
            _kill_group(running)  # its children, if it was killed
            code, pid = running.process.exitcode, running.process.pid
            running.process.close()
            yield _ended(running, pid, code if code is not None else 1)

    def _enforce_timeouts(self) -> None:
        now = time.monotonic()
        for running in self._running:
            if running.stop_requested_at is not None:
                if now - running.stop_requested_at > GRACE_S:
                    _kill_group(running)
            elif self._timeout_s is not None and now - running.began > self._timeout_s:
                self._request_stop(running, "timeout", signal.SIGTERM)

    @staticmethod
    def _request_stop(running: _Running, cause: Cause, signum: int) -> None:
        running.stop_requested_at, running.cause = time.monotonic(), cause
        if running.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.process.pid, signum)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running:
            _kill_group(running)
            running.process.join()
        self._running.clear()


def _kill_group(running: _Running) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.process.pid or -1, signal.SIGKILL)


def _ended(running: _Running, pid: int | None, code: int) -> Ended:
    """How a job ended, from its exit code and run.json, which is completed if the job could not do so."""
    job, seconds = running.job, time.monotonic() - running.began
    pruned = False
    try:
        run = open_run(job.run_dir, finished=False)
        record, pruned = run.record, run.pruned
    except DataError:
        record = {}
    status = record.get("status")
    if status == "completed" and (code == 0 or record.get("pid") == pid):  # killed during its exit
        return Ended(job, "completed", None, seconds)
    cause: Cause = running.cause or ("raised" if code > 0 else "killed")
    if record and record.get("pid") != pid and cause == "raised" and code not in STOPPED:
        # It ended before it wrote run.json: the record is of an earlier run, which can still be resumed.
        return Ended(job, "refused", last_line(job) or f"ended with exit code {code}", seconds)
    if pruned and code == 0:
        return Ended(job, "pruned", record.get("error"), seconds)
    if cause == "timeout":
        error: str | None = f"stopped after {seconds:.0f} s: longer than job_timeout_s"
    elif status == "interrupted" or code in STOPPED:
        cause, error = "interrupted", record.get("error")
    elif code < 0:
        error = f"killed by {signal.Signals(-code).name}"
    elif code == UNKNOWN:
        error = record.get("error") or "the process that it was forked from has ended, and it was ended with that"
    else:
        error = record.get("error") or last_line(job) or f"ended with exit code {code}"
    complete_record(job, record, "interrupted" if cause == "interrupted" else "failed", error)
    return Ended(job, cause, error, seconds)


def complete_record(job: Job, record: dict[str, Any], status: str, error: str | None) -> None:
    """Write the status and error of a job into run.json, for a job that could not write them itself."""
    if record.get("status") in {status, "completed"} and record.get("error") == error:
        return
    job.run_dir.mkdir(parents=True, exist_ok=True)
    started = {} if record else {"overrides": job.overrides, "config_fingerprint": job.fingerprint}
    write_json(job.run_dir / "run.json", {**started, **record, "status": status, "error": error})


def last_line(job: Job) -> str | None:
    """The last line that a job printed."""
    try:
        lines = job.log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
