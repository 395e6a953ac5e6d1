"""Output files at a path of the user's choice: never overwritten without --force, never half written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmx.errors import ConfigError, DataError

__all__ = ["new_file", "refuse_existing"]


def refuse_existing(path: Path, *, force: bool) -> None:
    """ConfigError where `path` exists without `force`, or its folder is missing; call this before any work."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} for {path.name}; make it first, or name another one")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; replace it with --force, or name another file")


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary name beside `path`, which is renamed to `path` when the block succeeds.

    Raises ConfigError as refuse_existing does, and DataError where the file cannot be written.
    """
    refuse_existing(path, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        _rename(temporary, path, force=force)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _rename(temporary: Path, path: Path, *, force: bool) -> None:
    """Rename the file; without `force`, ConfigError where `path` was created meanwhile."""
    if not force:
        try:
            os.link(temporary, path)
        except FileExistsError:
            refuse_existing(path, force=False)
        except OSError:  # a file system without links
            pass
        else:
            return
    temporary.replace(path)
