"""Who works on a study: commands that live, and one at a time where they must not meet."""

import fcntl
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

__all__ = ["Searcher", "exclusive"]

LOCK = "study.lock"
NAME = re.compile(r"\w[\w.-]*")
BEAT_S = 5.0
DEAD_AFTER_S = 60.0  # without a beat; only for commands on other machines, whose processes cannot be looked up


@contextmanager
def exclusive(sweep_dir: Path) -> Iterator[None]:
    """Hold the lock that all commands of a sweep directory share; the system frees it when a process ends, however."""
    with (sweep_dir / LOCK).open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield  # closing the file frees the lock


class Searcher:
    """One command at work on a study, known to the others by a file that it keeps locked and fresh.

    Record locks are not inherited by child processes, so the lock ends with this process and no other.
    """

    def __init__(self, sweep_dir: Path) -> None:
        self._folder = sweep_dir / "searchers"
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._file: IO[str] | None = None
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = (self._folder / self.name).open("w")
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        assert self._file is not None
        (self._folder / self.name).unlink(missing_ok=True)
        self._file.close()

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            if (self._folder / self.name).exists():
                os.utime(self._folder / self.name)

    def is_alive(self, name: str | None) -> bool:
        """Whether the command of that name still works on the study."""
        if name == self.name:
            return True
        if name is None or not NAME.fullmatch(str(name)):  # a journal from elsewhere may name any path
            return False
        path = self._folder / str(name)
        if not path.exists():
            return False
        if name.rpartition("-")[0].rpartition("-")[0] == socket.gethostname():
            if not _can_lock(path):
                return True
            path.unlink(missing_ok=True)
            return False
        return self._now() - path.stat().st_mtime < DEAD_AFTER_S

    def _now(self) -> float:
        """The time by the clock that stamps the files: a shared disk's clock may differ from this machine's."""
        os.utime(self._folder / self.name)
        return (self._folder / self.name).stat().st_mtime


def _can_lock(path: Path) -> bool:
    try:
        with path.open("a") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True
