"""Jobs side by side: pulled whenever a worker is free, ended whatever happens, told apart by how they ended."""

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

GRACE_S = 15.0  # between asking a job to stop and ending it
UNKNOWN = 255  # what multiprocessing says where the process is gone that would know
STOPPED = {128 + signum for signum in STOPPING}  # exit codes
PAUSE_S = 0.5  # between two looks at the clock
Cause = Literal["completed", "raised", "killed", "timeout", "interrupted", "pruned", "refused"]


@dataclass(frozen=True)
class Started:
    """A job that has begun."""

    job: Job


@dataclass(frozen=True)
class Ended:
    """A job that has ended, and how; `refused` is one that ended before it began, `pruned` one that a search ended."""

    job: Job
    cause: Cause
    error: str | None
    seconds: float

    @property
    def status(self) -> str:
        """As in run.json, which calls what is `pruned` here `interrupted`."""
        return self.cause if self.cause in {"completed", "interrupted", "pruned"} else "failed"


class Workers(Protocol):
    """Something that runs jobs; see Pool for what each method has to do."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def run(self, jobs: Iterable[tuple[Job, list[str]]]) -> Iterator[Started | Ended | None]:
        """Run jobs."""

    def stop(self, signum: int) -> Iterator[Ended]:
        """Ask the running jobs to end."""


@dataclass
class _Running:
    job: Job
    share: Share
    process: BaseProcess
    lifeline: Connection
    began: float
    asked_to_stop: float | None = None  # when
    cause: Cause | None = None  # why it was asked


class Pool:
    """Runs jobs in processes of their own, as many at once as there are shares of the machine.

    A context manager: however it is left, no job outlives it.
    job_timeout_s: after which a job is ended; None: never.
    """

    def __init__(self, shares: Sequence[Share], *, job_timeout_s: float | None) -> None:
        self._free = list(shares)
        self._timeout_s = job_timeout_s
        self._running: list[_Running] = []
        self._context = context()

    def run(self, jobs: Iterable[tuple[Job, list[str]]]) -> Iterator[Started | Ended | None]:
        """Run jobs, each with more arguments of its own; yield each start and end, and None whenever time has passed.

        `jobs` is asked for the next one only when a worker is free.
        """
        waiting = iter(jobs)
        while True:
            while self._free and (following := next(waiting, None)) is not None:
                yield self._start(*following)
            if not self._running:
                return
            connection.wait([running.process.sentinel for running in self._running], timeout=PAUSE_S)
            yield from self._ended()
            self._watch_the_clock()
            yield None
            if (signum := last_signal()) is not None:  # what it raised was lost
                raise Interrupted(signum)

    def stop(self, signum: int) -> Iterator[Ended]:
        """Ask every running job to save its state and end, wait for all, and yield how they ended."""
        for running in self._running:
            self._ask(running, "interrupted", signum)
        while self._running:
            connection.wait([running.process.sentinel for running in self._running], timeout=PAUSE_S)
            yield from self._ended()
            self._watch_the_clock()

    def _start(self, job: Job, arguments: list[str]) -> Started:
        share = self._free.pop(0)
        theirs, ours = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=work, args=([*job.arguments, *arguments], job.log, share.threads, share.env, theirs), daemon=False
        )
        with without_main():
            process.start()
        theirs.close()
        self._running.append(_Running(job, share, process, ours, time.monotonic()))
        return Started(job)

    def _ended(self) -> Iterator[Ended]:
        for running in [each for each in self._running if each.process.exitcode is not None]:
            self._running.remove(running)
            self._free.append(running.share)
            running.lifeline.close()
            _kill_group(running)  # what it started, if it was killed itself
            code, pid = running.process.exitcode, running.process.pid
            running.process.close()
            yield _ended(running, pid, code if code is not None else 1)

    def _watch_the_clock(self) -> None:
        now = time.monotonic()
        for running in self._running:
            if running.asked_to_stop is not None:
                if now - running.asked_to_stop > GRACE_S:
                    _kill_group(running)
            elif self._timeout_s is not None and now - running.began > self._timeout_s:
                self._ask(running, "timeout", signal.SIGTERM)

    @staticmethod
    def _ask(running: _Running, cause: Cause, signum: int) -> None:
        running.asked_to_stop, running.cause = time.monotonic(), cause
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
    """How a job ended, from its exit code and its own record; the record is completed where the job could not."""
    job, seconds = running.job, time.monotonic() - running.began
    pruned = False
    try:
        run = open_run(job.run_dir, finished=False)
        record, pruned = run.record, run.pruned
    except DataError:
        record = {}
    status = record.get("status")
    if status == "completed" and (code == 0 or record.get("pid") == pid):  # killed while it left
        return Ended(job, "completed", None, seconds)
    cause: Cause = running.cause or ("raised" if code > 0 else "killed")
    if record and record.get("pid") != pid and cause == "raised" and code not in STOPPED:
        # It ended before it wrote there: what is on record is of an earlier run, which may still be gone on with.
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
    """Write into run.json what a job that was killed could not write itself."""
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
