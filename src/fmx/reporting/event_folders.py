"""Find the runs' TensorBoard event files, and give each run a unique name."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path

from fmx.config.bounded_files import read_json
from fmx.config.conf_dir import CONF_DIR
from fmx.config.printed_command import printed_command
from fmx.errors import DataError
from fmx.process.table import printable

__all__ = ["event_folders", "run_names"]

EVENTS = "events.out.tfevents"
WITHOUT_EVENTS = {".hydra", ".git", ".venv", "checkpoints", "figures", "jobs", "node_modules"}
LONGEST = 100  # characters of a run's name; a file's name may have 255 bytes
DIGITS = 4  # significant digits of a number in a name


def event_folders(patterns: Sequence[str]) -> dict[Path, Path]:
    """The topmost folders with event files in and below folders and globs, each with the folder that led to it.

    Links are not followed: outputs/latest would be a duplicate. DataError for a folder that does not exist.
    """
    found = dict[Path, Path]()
    for pattern in patterns:
        homes = [pattern] if os.path.lexists(pattern) else sorted(glob(pattern))  # noqa: PTH207 - a path may be a glob
        if not homes:
            raise DataError(f"there is no folder {pattern}; {_example()} shows what was trained here")
        for home in map(Path, homes):
            if not home.is_dir():
                raise DataError(f"{home} is no folder: name one with runs in it, as in {_example()}")
            for folder, below, files in os.walk(home.resolve()):
                if any(file.startswith(EVENTS) for file in files):
                    found.setdefault(Path(folder), home)
                    below.clear()
                else:
                    below[:] = sorted({*below} - WITHOUT_EVENTS)
    return found


def _example() -> str:
    return f"`{printed_command('fmx', 'tensorboard', 'outputs')}`"


def run_names(folders: Mapping[Path, Path]) -> dict[str, Path]:
    """Folders with event files by the unique names of their runs, which are relative paths.

    A run is named after its directory; a job of a sweep after the overrides that distinguish it: `mlp adam seed=1`.
    """
    runs = {folder: _run_dir(folder, home.resolve()) for folder, home in folders.items()}
    number_in_run = defaultdict[Path, int](int)
    for run in runs.values():
        number_in_run[run] += 1
    distinguishing = _distinguishing_overrides({*runs.values()})
    several = len({*folders.values()}) > 1
    names = dict[str, Path]()
    for folder, home in folders.items():
        run, top = runs[folder], home.resolve()
        above = run.parent.relative_to(top).parts if run != top else ()
        parts = [*([top.name] if several and run != top else []), *above, distinguishing.get(run) or run.name]
        if number_in_run[run] > 1:
            parts += folder.relative_to(run).parts
        name = "/".join(map(_as_file_name, parts))
        names[_unique(name, _as_file_name(run.name), names)] = folder
    return names


def _unique(name: str, hint: str, names: Iterable[str]) -> str:
    """A name like this one that is not taken, and neither above nor below another name as a path."""
    candidate, number = name, 1
    while any(f"{each}/".startswith(f"{candidate}/") or f"{candidate}/".startswith(f"{each}/") for each in names):
        candidate = f"{name} #{hint}" if number == 1 else f"{name} #{number}"
        number += 1
    return candidate


def _run_dir(folder: Path, home: Path) -> Path:
    """The run directory of event files; if there is none, their own folder."""
    for above in (folder, *folder.parents):
        if (above / "run.json").is_file():
            return above
        if above == home:
            break
    return folder.parent if folder.name == "tensorboard" and folder != home else folder


def _distinguishing_overrides(runs: Iterable[Path]) -> dict[Path, str]:
    """The overrides that distinguish each run of a sweep from the others."""
    sweeps = defaultdict[Path, dict[Path, dict[str, str]]](dict)
    for run in runs:
        if run.name.isdigit():
            sweeps[run.parent][run] = _overrides(run)
    names = dict[Path, str]()
    for sweep in sweeps.values():
        keys = list(dict.fromkeys(key for overrides in sweep.values() for key in overrides))
        differing = [key for key in keys if len({overrides.get(key) for overrides in sweep.values()}) > 1]
        for run, overrides in sweep.items():
            names[run] = " ".join(_short(key, overrides[key], differing) for key in differing if key in overrides)
    return names


def _overrides(run: Path) -> dict[str, str]:
    """The overrides in run.json by key; empty if it cannot be read."""
    with suppress(DataError):
        overrides = read_json(run / "run.json").get("overrides")
        if isinstance(overrides, list):
            return {key: value for key, _, value in (str(each).partition("=") for each in overrides)}
    return {}


def _short(key: str, value: str, differing: Sequence[str]) -> str:
    """`mlp` for the choice of a group, else `lr=0.01`; the whole key if its last part is ambiguous."""
    if (CONF_DIR / key).is_dir() and "." not in key and key:
        return value
    last = key.rpartition(".")[2]
    alike = [each for each in differing if each.rpartition(".")[2] == last]
    if re.fullmatch(r"-?\d*\.\d+(e-?\d+)?", value):
        value = f"{float(value):.{DIGITS}g}"
    return f"{last if len(alike) == 1 else key}={value}"


def _as_file_name(text: str) -> str:
    """An untrusted text as the name of one file, which cannot lead to another folder."""
    text = printable(text).replace("/", "_").replace("\\", "_").strip().lstrip(".") or "_"
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 + 1 :]}"
    while len(text.encode("utf-8")) > 2 * LONGEST:
        text = text[:-1]
    return text
