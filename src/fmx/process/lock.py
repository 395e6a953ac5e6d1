"""Locks of a directory and of a file, which the system releases when their process ends."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmx.errors import ConfigError
from fmx.process.own_files import check_own_files

__all__ = ["is_locked", "lock_folder", "one_at_a_time", "release_locks"]

LOCK = ".lock"
ATTEMPTS, PAUSE_S = 5, 0.05  # `is_locked` in another process holds the lock for an instant
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP}  # from file systems without locks
_held: dict[Path, int] = {}


def lock_folder(folder: Path, *, key: str = "hydra.run.dir") -> None:
    """Create and lock the directory of a run or a sweep until this process ends; ConfigError where it is locked.

    DataError where a link in it leads out of it. key: the override that names another folder, for the message.
    """
    named, folder = folder, folder.resolve()
    if folder in _held:
        return
    check_own_files(folder, all_names=False)
    named.mkdir(parents=True, exist_ok=True)  # errors name the folder as typed
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    for _ in range(ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            return
        else:
            _held[folder] = descriptor
            return
    os.close(descriptor)
    raise ConfigError(
        f"another process is at work in {folder}: wait for it, stop it, or name another folder with {key}=DIR"
    )


@contextmanager
def release_locks() -> Iterator[None]:
    """Release the locks that were taken in the block, where the process lives on."""
    before = {*_held}
    try:
        yield
    finally:
        for folder in _held.keys() - before:
            os.close(_held.pop(folder))


def is_locked(run_dir: Path) -> bool | None:
    """Whether a process has locked a run directory; None where that is unknown."""
    if run_dir.resolve() in _held:
        return True
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold an exclusive lock while a file is read and rewritten."""
    with path.with_name(f".{path.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield  # closing the file releases the lock
