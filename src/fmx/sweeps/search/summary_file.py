"""What search.json, which may come from anyone, says of the newest command of a search."""

import shlex
from pathlib import Path

from fmx.config.bounded_files import read_json
from fmx.config.printed_command import printed_command
from fmx.errors import DataError
from fmx.process.table import printable
from fmx.sweeps.search.options import RANKS

__all__ = ["command_to_go_on", "num_wanted", "rank_of"]

MAX_BYTES = 256_000_000  # of search.json: some hundred per report of a trial
STARTS = (["python", "-m", "fmx.run"], ["fmx"])
MANY = 1_000_000


def command_to_go_on(sweep_dir: Path) -> str | None:
    """The recorded command of a search, each word quoted anew; None where none is recorded, or it is none of fmx."""
    try:
        words = shlex.split(str(_read(sweep_dir, "command")))
    except ValueError:
        return None
    if not any(words[: len(start)] == start for start in STARTS):
        return None
    return printed_command(*map(printable, words))


def num_wanted(sweep_dir: Path) -> int | None:
    """How many trials the newest command wanted in all; None where that is not recorded, or only time ends it."""
    wanted = _read(sweep_dir, "wanted")
    return wanted if type(wanted) is int and 0 < wanted <= MANY else None


def rank_of(sweep_dir: Path) -> str:
    """By what the newest command ranked its trials: `hydra.sweeper.rank`."""
    rank = _read(sweep_dir, "rank")  # earlier versions record none
    return rank if isinstance(rank, str) and rank in RANKS else RANKS[0]


def _read(sweep_dir: Path, key: str) -> object:
    try:
        return read_json(sweep_dir / "search.json", at_most=MAX_BYTES)[key]
    except (DataError, KeyError, TypeError):
        return None
