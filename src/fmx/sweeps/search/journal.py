"""Optuna's journal of a study: a file of lines on a disk that several machines may share, and that may be untrusted."""

import os
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from fmx.errors import DataError
from fmx.process.memory_bound import SPARE_BYTES, at_most_bytes
from fmx.sweeps.ledger import JOURNAL

__all__ = ["open_journal", "remove_torn_line"]

MAX_JOURNAL_BYTES = 2**27  # a few hundred per report of a trial
COPIES = 4  # of the journal in memory, as text and as objects


def open_journal(sweep_dir: Path) -> JournalStorage:
    """Open the journal; DataError if it is invalid, or takes more memory than a journal does."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = sweep_dir / JOURNAL
    try:
        with at_most_bytes(SPARE_BYTES + COPIES * _num_bytes(journal), f"the trials of {journal}"):
            return JournalStorage(_Journal(str(journal)))
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        reason = str(error)[:200] or type(error).__name__
        raise DataError(f"{journal} cannot be read as the trials of a search: {reason}") from error


def _num_bytes(journal: Path) -> int:
    """The size of the journal, 0 if there is none; DataError if it is too large."""
    size = journal.stat().st_size if journal.exists() else 0
    if size > MAX_JOURNAL_BYTES:
        raise DataError(
            f"{journal} is larger than the {MAX_JOURNAL_BYTES:,} bytes that the trials of a search may take"
        )
    return size


class _Journal(JournalFileBackend):
    """Optuna's journal file; removes a line that a full disk cut off before it appends the next one."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._journal = Path(path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines after the last complete one."""
        remove_torn_line(self._journal)
        super().append_logs(logs)


def remove_torn_line(journal: Path) -> None:
    """Remove an incomplete last line, as a power cut leaves it: Optuna could not read beyond it."""
    _num_bytes(journal)
    if not _ends_torn(journal):
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()  # runs may append reports at the same time
    try:
        if _ends_torn(journal):
            whole = journal.read_bytes().rfind(b"\n") + 1
            os.truncate(journal, whole)
    finally:
        lock.release()


def _ends_torn(journal: Path) -> bool:
    if not journal.is_file() or not journal.stat().st_size:
        return False
    with journal.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
