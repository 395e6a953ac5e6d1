"""What lies in a folder that a run or a sweep goes on writing into: its own files and folders, no links out."""

import os
import re
import stat
from pathlib import Path

from fmx.errors import DataError

__all__ = ["check_own_files"]

MAX_ENTRIES = 1_000_000
# What fmx writes into the folder of a run or a sweep, and under which names until it is whole.
WRITTEN = re.compile(
    r"\d+|\.hydra|\.lock|checkpoints|conf|figures|jobs|searchers|tensorboard|multirun\.yaml|predictions\.npz|report\.txt"
    r"|run\.log|study\.(journal|lock)|(history|steps)\.csv|(run|metrics|sweep|search)\.json(\.tmp)?"
    r"|\.?(leaderboard|search|conf)\..*"
)
FILES = re.compile(
    r"predictions\.npz|report\.txt|run\.log|(history|steps|leaderboard)\.csv|(run|metrics|sweep|search)\.json"
    r"|(leaderboard|search)\.(md|html)"
)
FOLDERS = {".hydra", "checkpoints", "figures", "tensorboard"}
# Optuna's lock is a link to the journal by name, which a command that was killed leaves: nobody writes through it.
OPTUNAS_LOCK = "study.journal.lock"


def check_own_files(folder: Path, *, all_names: bool = True) -> None:
    """DataError where a link leads out of a folder, or where a pipe or a device lies in it; a missing folder is fine.

    What is written to such a name would be written elsewhere. A folder in the place of a file, or a file in that of a
    folder, would be met when all work is done. all_names: False looks only at names that fmx itself
    writes, in a folder that a user has named and may use for other things.
    """
    home = os.path.realpath(folder)
    waiting, seen = [home], 0
    while waiting:
        place = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # who wants to write there says so
        for entry in entries:
            if place == home and not all_names and not WRITTEN.fullmatch(entry.name):
                continue
            seen += 1
            if seen > MAX_ENTRIES:
                raise DataError(f"{folder} holds more than {MAX_ENTRIES:,} files, as no run or sweep does")
            _check_kind(entry, place, home)
            if entry.is_symlink():
                _check_link(Path(entry.path), home)
            elif entry.is_dir():
                waiting.append(entry.path)
            elif not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                raise DataError(f"{entry.path} is no plain file: what is written there would go elsewhere; remove it")


def _check_kind(entry: os.DirEntry[str], place: str, home: str) -> None:
    """DataError where a folder has the name of what is written as a file, or the other way round."""
    at_home = place == home
    drawn = place == os.path.join(home, "figures") and entry.name.endswith(".png")  # noqa: PTH118 - names, not paths
    file = drawn or (at_home and FILES.fullmatch(entry.name) is not None)
    if file and entry.is_dir():
        what = "is a folder, where a file of that name is written"
    elif at_home and entry.name in FOLDERS and not entry.is_dir():
        what = "is no folder, where files are written"
    elif (file or (at_home and entry.name in FOLDERS)) and not os.access(entry.path, os.W_OK):
        raise DataError(
            f"{entry.path} may not be written by this user, who may make it writable, or go on in a copy of the folder"
        )
    else:
        return
    raise DataError(f"{entry.path} {what}: remove it, or name another folder (hydra.run.dir=DIR, hydra.sweep.dir=DIR)")


def _check_link(path: Path, home: str) -> None:
    target = os.path.realpath(path)
    if not path.name.startswith(OPTUNAS_LOCK) and os.path.commonpath([target, home]) != home:
        raise DataError(
            f"{path} is a link that leads out of its folder, to {target}: what is written there would go elsewhere; "
            "put the file or folder itself in its place"
        )
