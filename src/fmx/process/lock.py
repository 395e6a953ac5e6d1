"""Locks of a directory and of a file, which the system releases when their process ends."""

import errno
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fmx.errors import ConfigError
from fmx.process.own_files import check_own_files

__all__ = ["exclusive", "is_locked", "lock_folder", "release_locks", "try_lock"]

LOCK = ".lock"
ATTEMPTS, PAUSE_S = 5, 0.05  # `is_locked` in another process holds the lock for an instant
PROBES = 2  # of is_locked, for the same reason
POLL_S = 0.01  # while waiting for a lock that is held for milliseconds
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}  # from file systems without locks
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag
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
    try:
        locked = try_lock(descriptor, ATTEMPTS)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return
    if locked:
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
        descriptor = _open_to_probe(run_dir / LOCK)
    except OSError:
        return None
    try:
        return not try_lock(descriptor, PROBES)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _open_to_probe(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | NO_LINKS)  # NFS locks no other descriptors
    except OSError:
        return os.open(path, os.O_RDONLY | NO_LINKS)


def try_lock(descriptor: int, attempts: int = 1) -> bool:
    """Lock an open file, unless another process or descriptor holds its lock; closing it releases the lock."""
    for attempt in range(attempts):
        if attempt:
            time.sleep(PAUSE_S)
        if _lock(descriptor, blocking=False):
            return True
    return False


@contextmanager
def exclusive(path: Path, *, needed: bool = True) -> Iterator[None]:
    """Hold the lock on a file, which is created if necessary, in the block.

    needed: False to go on without a lock on a file system that has none.
    """
    with path.open("a") as file:
        try:
            _lock(file.fileno(), poll_interval=POLL_S)
        except OSError as error:
            if needed or error.errno not in WITHOUT_LOCKS:
                raise
        yield  # closing the file releases the lock


def _lock(descriptor: int, **how: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a POSIX system has no fcntl, which ENOSYS tells as well
        from filelock import lock_descriptor  # takes 0.06 s to import, which --help does not need
    return lock_descriptor(descriptor, **how)
