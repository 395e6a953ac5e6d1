"""Run directories read back: what a command needs to know of a run, from its files alone."""

import math
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from glob import glob
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmx.config.bounded_files import get_nested, read_json, read_yaml, read_yaml_or_empty
from fmx.config.from_environment import Place, from_stored, references
from fmx.config.quoting import escape_interpolations
from fmx.config.renamed_targets import with_present_names
from fmx.errors import DataError
from fmx.process.lock import is_locked
from fmx.process.version import __version__
from fmx.runs.data_root import at_root, present_root

__all__ = [
    "LAST_WORDS_S",
    "Run",
    "check_latest",
    "find_runs",
    "instant",
    "is_under_way",
    "open_run",
    "wait_for_process",
]

FINISHED = "completed"
LAST_WORDS_S = 30.0  # that a run whose command was killed may take to save its state
PAUSE_S = 0.2  # between two looks at its process
Value = TypeVar("Value")


@dataclass(frozen=True)
class Run:
    """One run directory. `status` is run.json's, but `interrupted` where it says running and its process is gone."""

    path: Path
    record: dict[str, Any]
    status: str

    @property
    def config(self) -> DictConfig:
        """The run's whole configuration as it was resolved then: what looks like an interpolation is text.

        Its data is where it lies by now: where FMX_DATA_ROOT says, and seen from this folder.
        """
        path = self.path / ".hydra" / "resolved.yaml"
        try:
            values = with_present_names(read_yaml(path))
            values = _moved(values, str(values.get("run_dir") or ""), str(self.path)) | {"run_dir": str(self.path)}
            values["data"] = self._found_from_here(values.get("data"))
            config = OmegaConf.create(escape_interpolations(from_stored(values, path)))
        except (OmegaConfBaseException, ValueError) as error:
            raise DataError(f"{path} is no configuration of a run: {str(error).partition(chr(10))[0]}") from error
        assert isinstance(config, DictConfig)
        return config

    @property
    def from_environment(self) -> dict[Place, str]:
        """What the run has of the environment: the places in its configuration, and the references there."""
        return references(read_yaml(self.path / ".hydra" / "resolved.yaml"))

    def _found_from_here(self, data: Any) -> Any:
        """A `data` node whose root is where the data lies by now, seen from where this process is."""
        hydra, written = (read_yaml_or_empty(self.path / ".hydra" / name) for name in ("hydra.yaml", "config.yaml"))
        started_in = get_nested(hydra, "hydra", "runtime", "cwd")
        root = present_root(data, get_nested(written, "data", "root"), started_in)
        return data if root is None else at_root(data, root)

    @property
    def other_version(self) -> str:
        """A note for a refusal where another version of fmx wrote the run; empty where this one did."""
        from fmx.process.table import printable

        then = self.record.get("versions")
        then = then.get("fmx") if isinstance(then, dict) else None
        return f" (fmx {printable(then)} wrote that run, this is fmx {__version__})" if then != __version__ else ""

    @property
    def pruned(self) -> bool:
        """Whether a search ended the run before its time; run.json calls that `interrupted` too."""
        return self.status == "interrupted" and bool(self.record.get("pruned"))

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json: val, test, selected_on, validation."""
        return read_json(self.path / "metrics.json")

    def recorded(self, kind: type[Value], *keys: str) -> Value:
        """A value of run.json by its keys; DataError where the record lacks it, or has another type."""
        value: Any = self.record
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise DataError(f"{self.path / 'run.json'} does not say {'.'.join(keys)} as it should")
        return value

    @property
    def tested(self) -> str:
        """The checkpoint that the run's figures are of: `best` or `last`."""
        name = Path(self.recorded(str, "best", "checkpoint")).stem
        if name not in {"best", "last"}:  # any other would be a file somewhere else
            raise DataError(f"{self.path / 'run.json'} does not say best.checkpoint as it should")
        return name

    def checkpoint(self, name: str) -> Path:
        """The path of a checkpoint: `best`, `last`, or a file's own path."""
        path = self.path / "checkpoints" / f"{name}.ckpt" if name in {"best", "last"} else Path(name)
        if not path.is_file():
            there = sorted(p.stem for p in (self.path / "checkpoints").glob("*.ckpt"))
            raise DataError(
                f"there is no checkpoint {path}; {self.path} has {', '.join(there) or f'none{self._why_none}'}"
            )
        return path

    @property
    def _why_none(self) -> str:
        """Why a completed run has no checkpoints, where its sweep keeps those of the best runs alone."""
        told = (self.path.parent / "multirun.yaml", self.path / ".hydra" / "resolved.yaml")  # the newest command first
        counts = [get_nested(read_yaml_or_empty(path), "sweep", "keep_checkpoints") for path in told]
        count = next((each for each in counts if isinstance(each, int)), None)
        if self.status != FINISHED or count is None:
            return ""
        kept = f"those of the {count} best runs of each data set alone" if count else "none"
        return f": its sweep kept {kept} (sweep.keep_checkpoints={count}); a sweep without that keeps all"


def open_run(path: str | Path, *, finished: bool = True) -> Run:
    """Read a run directory; DataError where it is none, or, with `finished`, where the run did not complete."""
    path = Path(path)
    if not (path / "run.json").is_file():
        jobs = sorted(path.glob("[0-9]*/run.json"), key=lambda file: (len(file.parent.name), file.parent.name))
        if jobs:
            raise DataError(f"{path} is a sweep, not one run: name one of its {len(jobs)}, such as {jobs[0].parent}")
        what = "does not exist" if not path.exists() else "has no run.json"
        raise DataError(
            f"{path} is not a run directory: it {what}. Runs are in outputs/runs/ and outputs/sweeps/DIR/; "
            "outputs/latest is the newest run or sweep"
        )
    check_latest(path)
    record = read_json(path / "run.json")
    run = Run(path=path.resolve(), record=record, status=_status(record, path))
    if finished and run.status != FINISHED:
        reason = f": {record['error']}" if record.get("error") else ""
        if run.pruned:
            raise DataError(f"{path} is not finished: a search ended it early{reason}")
        raise DataError(f"{path} is not finished: its status is {run.status}{reason}")
    return run


def check_latest(path: Path) -> None:
    """DataError where a path leads through what was a link to the newest run once, and is an old copy of one now.

    `cp -rL outputs` makes such a copy, as archives of some kinds do. A folder that a user has called latest is a run's
    own place.
    """
    place = path.absolute()
    for folder, run in ((place, place), (place, place / "0"), (place.parent, place)):
        homes = [folder.parent / name for name in ("runs", "sweeps")]
        if folder.name != "latest" or folder.is_symlink() or not any(home.is_dir() for home in homes):
            continue
        then = read_yaml_or_empty(run / ".hydra" / "resolved.yaml").get("run_dir")
        if then is not None and Path(str(then)).parts[-2 if run != folder else -1] != "latest":
            raise DataError(
                f"{folder} is no link to the newest run, but a copy of {then}, as after `cp -rL`: name a run or sweep "
                f"in {' or '.join(str(home) for home in homes if home.is_dir())}, or remove {folder}"
            )


def instant(started: object) -> float:
    """When a run began, in seconds since 1970, from run.json's text; -inf where that says no time.

    Records of fmx 0.1 have the offset of the clock that they were written by: as texts they do not compare.
    """
    try:
        return datetime.fromisoformat(str(started)).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        return -math.inf


def is_under_way(run_dir: Path) -> bool:
    """Whether there is something of a run to go on with; takes back run.json where one was killed before there was."""
    if not (run_dir / "run.json").is_file():
        return False
    if (run_dir / ".hydra" / "resolved.yaml").is_file() or (run_dir / "checkpoints").is_dir():
        return True  # of the latter the run itself says what is amiss: what was trained is never removed
    (run_dir / "run.json").unlink()  # alone: what else is there may be the user's
    return False


def wait_for_process(run_dir: Path, at_most_s: float) -> None:
    """Let a run's process come to its end: one whose command was killed saves its state before that."""
    end = time.monotonic() + at_most_s
    while open_run(run_dir, finished=False).status == "running" and time.monotonic() < end:
        time.sleep(PAUSE_S)


def find_runs(patterns: Iterable[str]) -> list[Path]:
    """Every run directory among and below the given folders and globs, each once, in a stable order."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        named = os.path.lexists(pattern)  # a folder's own name may look like a glob
        folders = [pattern] if named else sorted(glob(pattern)) or [pattern]  # noqa: PTH207
        before = len(found)
        for folder in map(Path, folders):
            for record in (
                [folder / "run.json"] if (folder / "run.json").is_file() else sorted(folder.rglob("run.json"))
            ):
                found[record.parent] = None
        if len(found) == before and not any((Path(f) / "run.json").is_file() for f in folders):
            raise DataError(f"{pattern} holds no run directory; runs are in outputs/runs/, sweeps in outputs/sweeps/")
    return list(found)


def _status(record: dict[str, Any], run_dir: Path) -> str:
    """run.json's status; a run that says it is running but has no process was interrupted."""
    status = str(record.get("status"))
    if status != "running":
        return status
    alive = is_locked(run_dir)
    if alive is None:  # no lock to ask
        alive = record.get("host") != socket.gethostname() or _is_alive(record.get("pid"))
    return status if alive else "interrupted"


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _moved(node: Any, then: str, now: str) -> Any:
    """A node in which what was in the run directory `then` is in `now`."""
    if isinstance(node, dict):
        return {key: _moved(child, then, now) for key, child in node.items()}
    if isinstance(node, list):
        return [_moved(child, then, now) for child in node]
    if isinstance(node, str) and then and (node == then or node.startswith(f"{then}/")):
        return now + node.removeprefix(then)
    return node
