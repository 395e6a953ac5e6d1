"""Check a run or sweep directory before writing into it: no links out of it, no files of the wrong kind."""

import os
import re
import stat
from pathlib import Path

from fmx.errors import DataError

__all__ = ["check_own_files"]

MAX_ENTRIES = 1_000_000
# Names that fmx writes in a run or sweep directory, temporary ones included.
WRITTEN = re.compile(
    r"\d+|\.hydra|\.lock|checkpoints|conf|figures|jobs|searchers|tensorboard|multirun\.yaml|predictions\.npz|report\.txt"
    r"|run\.log|study\.(journal|lock)|(history|steps)\.csv"
    r"|(run|metrics|calibration|ensemble|sweep|search)\.json(\.tmp)?"
    r"|\.?(leaderboard|search|conf)\..*"
)
FILES = re.compile(
    r"predictions\.npz|report\.txt|run\.log|(history|steps|leaderboard)\.csv"
    r"|(run|metrics|calibration|ensemble|sweep|search)\.json"
    r"|(leaderboard|search)\.(md|html)"
)
FOLDERS = {".hydra", "checkpoints", "figures", "tensorboard"}
# Optuna's lock is a symlink, which a killed command leaves behind; nothing is written through it.
OPTUNAS_LOCK = "study.journal.lock"


def check_own_files(folder: Path, *, all_names: bool = True) -> None:
    """DataError where writing in a folder would go elsewhere or fail: links out of it, pipes, devices, wrong kinds.

    A missing folder passes. all_names: False checks only names that fmx writes, in a folder that may hold the user's
    other files.
    """
    home = os.path.realpath(folder)
    waiting, seen = [home], 0
    while waiting:
        place = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # writing there gives the error
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
    """DataError where a folder has the name of a file to write, a file that of a folder, or one is not writable."""
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
