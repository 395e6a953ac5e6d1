"""Which commands work on a study: a file with a heartbeat for each, and a lock that they share."""

import logging
import os
import re
import secrets
import socket
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Self

from fmx.process import lock

__all__ = ["Searcher", "exclusive", "living"]

log = logging.getLogger(__name__)

LOCK = "study.lock"
FOLDER = "searchers"
NAME = re.compile(r"\w[\w.-]*")
BEAT_S = 5.0
DEAD_AFTER_S = 60.0  # without a heartbeat; only for commands on other machines, whose locks cannot be tested


def exclusive(sweep_dir: Path) -> AbstractContextManager[None]:
    """Hold the lock that all commands of a sweep directory share; the system releases it when the process ends."""
    return lock.exclusive(sweep_dir / LOCK)


class Searcher:
    """One command at work on a study, which the others know by a file that it keeps locked and fresh.

    Jobs are forked from the fork server, which does not inherit the file, so the lock ends with this process.
    """

    def __init__(self, sweep_dir: Path) -> None:
        self._folder = sweep_dir / FOLDER
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._file: IO[str] | None = None
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self._create_file()
        threading.Thread(target=self._keep_fresh, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        assert self._file is not None
        (self._folder / self.name).unlink(missing_ok=True)
        self._file.close()

    def _create_file(self) -> None:
        """Create and lock this command's file, unless it exists."""
        path = self._folder / self.name
        if self._file is not None and path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        lock.try_lock(file.fileno())
        if self._file is not None:
            self._file.close()
        self._file = file

    def _keep_fresh(self) -> None:
        """Keep the file fresh: without it, others would take this command for dead, and its trials over."""
        failing = False
        while not self._done.wait(BEAT_S):
            try:
                self._touch()
            except Exception as error:  # noqa: BLE001 - a full or missing disk may recover; a dead thread does not
                if not failing:
                    log.warning("cannot tell other commands that this one is alive (%s); trying again", error)
                failing = True
            else:
                failing = False

    def _touch(self) -> float:
        """Update the file's time and return it, since the clock of a shared disk may differ from this machine's."""
        self._create_file()
        os.utime(self._folder / self.name)
        return (self._folder / self.name).stat().st_mtime

    def is_alive(self, name: str | None, run_dir: Path | None) -> bool:
        """Whether the command of that name still works on the study.

        run_dir: of its trial. While a process holds its lock, a command whose file is lost or stale counts as alive.
        None for a SLURM job, which outlives its command.
        """
        if name == self.name:
            return True
        if name is None or not NAME.fullmatch(str(name)):  # an untrusted journal may name any path
            return False
        path = self._folder / name
        if name.rpartition("-")[0].rpartition("-")[0] == socket.gethostname() and path.exists():
            if not _can_lock(path):
                return True
            path.unlink(missing_ok=True)
            return False
        try:
            fresh = self._touch() - path.stat().st_mtime < DEAD_AFTER_S
        except FileNotFoundError:
            fresh = False
        return fresh or (run_dir is not None and bool(lock.is_locked(run_dir)))


def living(sweep_dir: Path) -> list[str]:
    """The names of the commands that work on a study, without writing: each begins with its machine's name."""
    folder, now = sweep_dir / FOLDER, time.time()
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file.name for file in files if NAME.fullmatch(file.name) and _is_living(file, now)]


def _is_living(path: Path, now: float) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | lock.NO_LINKS)
    except OSError:
        return False
    try:
        if not lock.try_lock(descriptor):
            return True
        here = path.name.rpartition("-")[0].rpartition("-")[0] == socket.gethostname()
        return not here and now - os.fstat(descriptor).st_mtime < DEAD_AFTER_S
    except OSError:  # no locks here
        return now - os.fstat(descriptor).st_mtime < DEAD_AFTER_S
    finally:
        os.close(descriptor)


def _can_lock(path: Path) -> bool:
    try:
        with path.open("a") as file:
            return lock.try_lock(file.fileno())
    except FileNotFoundError:
        return True
    except OSError:  # unknown
        return False
