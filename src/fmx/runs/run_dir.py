"""Run directories read back: record, status, configuration and metrics, from their files alone."""

import math
import os
import socket
import sys
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
from fmx.config.printed_command import printed_command
from fmx.config.quoting import escape_interpolations
from fmx.config.renamed_targets import with_present_names
from fmx.errors import DataError
from fmx.process.lock import is_locked
from fmx.process.version import __version__
from fmx.runs.data_root import at_root, present_root

__all__ = [
    "SAVE_TIMEOUT_S",
    "Run",
    "check_latest",
    "find_runs",
    "has_run_to_resume",
    "instant",
    "open_run",
    "wait_for_process",
]

FINISHED = "completed"
WITH_JOBS = ("sweep.json", "study.journal")  # the files of a sweep and of a search
SAVE_TIMEOUT_S = 30.0  # how long a run may take to save its state after its command was killed
PAUSE_S = 0.2  # between two checks of its process
Value = TypeVar("Value")


@dataclass(frozen=True)
class Run:
    """One run directory. `status` is run.json's, or `interrupted` where that is running but its process is gone."""

    path: Path
    record: dict[str, Any]
    status: str

    @property
    def config(self) -> DictConfig:
        """The run's whole configuration as it was resolved, with everything that looks like an interpolation escaped.

        data.root is the folder where the data is now, see `present_root`.
        """
        path = self.path / ".hydra" / "resolved.yaml"
        try:
            values = with_present_names(read_yaml(path))
            values = _move_paths(values, str(values.get("run_dir") or ""), str(self.path)) | {"run_dir": str(self.path)}
            values["data"] = self._relocate_data(values.get("data"))
            config = OmegaConf.create(escape_interpolations(from_stored(values, path)))
        except (OmegaConfBaseException, ValueError) as error:
            raise DataError(f"{path} is no configuration of a run: {str(error).partition(chr(10))[0]}") from error
        assert isinstance(config, DictConfig)
        return config

    @property
    def from_environment(self) -> dict[Place, str]:
        """The places of the configuration that refer to environment variables, with these references."""
        return references(read_yaml(self.path / ".hydra" / "resolved.yaml"))

    def _relocate_data(self, data: Any) -> Any:
        """A `data` node whose root is the folder where the data is now."""
        hydra, written = (read_yaml_or_empty(self.path / ".hydra" / name) for name in ("hydra.yaml", "config.yaml"))
        started_in = get_nested(hydra, "hydra", "runtime", "cwd")
        root = present_root(data, get_nested(written, "data", "root"), started_in)
        return data if root is None else at_root(data, root)

    @property
    def other_version(self) -> str:
        """A note for an error message that another version of fmx wrote the run; empty if this one did."""
        from fmx.process.table import printable

        version = self.record.get("versions")
        version = version.get("fmx") if isinstance(version, dict) else None
        return (
            f" (fmx {printable(version)} wrote that run, this is fmx {__version__})" if version != __version__ else ""
        )

    @property
    def pruned(self) -> bool:
        """Whether a search pruned the run; run.json calls that `interrupted` too."""
        return self.status == "interrupted" and bool(self.record.get("pruned"))

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json: val, test, selected_on, validation."""
        return read_json(self.path / "metrics.json")

    def recorded(self, kind: type[Value], *keys: str) -> Value:
        """A value of run.json by its keys; DataError where it is missing or has another type."""
        value: Any = self.record
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise DataError(f"{self.path / 'run.json'} does not say {'.'.join(keys)} as it should")
        return value

    @property
    def tested(self) -> str:
        """The checkpoint that the run's metrics are of: `best` or `last`."""
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
        """Why a completed run has no checkpoints: it is an ensemble, or its sweep kept those of the best runs."""
        if (self.path / "ensemble.json").exists():
            return ": it is an ensemble, so name one of its members"
        # The sweep's newest command counts before the one that started this run.
        files = (self.path.parent / "multirun.yaml", self.path / ".hydra" / "resolved.yaml")
        counts = [get_nested(read_yaml_or_empty(file), "sweep", "keep_checkpoints") for file in files]
        count = next((each for each in counts if isinstance(each, int)), None)
        if self.status != FINISHED or count is None:
            return ""
        kept = f"those of the {count} best runs of each data set alone" if count else "none"
        return f": its sweep kept {kept} (sweep.keep_checkpoints={count}); a sweep without that keeps all"


def open_run(path: str | Path, *, finished: bool = True) -> Run:
    """Read a run directory; DataError where it is none or, with `finished`, where the run is not completed."""
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
    """DataError where a path leads through outputs/latest, and that is an old copy of a run instead of a link.

    `cp -rL outputs` and some archives make such copies. A run directory that a user has named latest is valid.
    """
    place = path.absolute()
    for folder, run in ((place, place), (place, place / "0"), (place.parent, place)):
        homes = [folder.parent / name for name in ("runs", "sweeps")]
        if folder.name != "latest" or folder.is_symlink() or not any(home.is_dir() for home in homes):
            continue
        original = read_yaml_or_empty(run / ".hydra" / "resolved.yaml").get("run_dir")
        if original is not None and Path(str(original)).parts[-2 if run != folder else -1] != "latest":
            raise DataError(
                f"{folder} is no link to the newest run, but a copy of {original}, as after `cp -rL`: name a run or "
                f"sweep in {' or '.join(str(home) for home in homes if home.is_dir())}, or remove {folder}"
            )


def instant(started: object) -> float:
    """When a run began, in seconds since 1970, from run.json's text; -inf where that is no time.

    Records of fmx 0.1 are in local time with its UTC offset, so the texts themselves do not compare.
    """
    try:
        return datetime.fromisoformat(str(started)).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        return -math.inf


def has_run_to_resume(run_dir: Path) -> bool:
    """Whether a folder has a run to resume; removes run.json where the run was killed before it saved anything else."""
    if not (run_dir / "run.json").is_file():
        return False
    if (run_dir / ".hydra" / "resolved.yaml").is_file() or (run_dir / "checkpoints").is_dir():
        return True  # never remove checkpoints; resuming reports what else is missing
    (run_dir / "run.json").unlink()  # other files may be the user's
    return False


def wait_for_process(run_dir: Path, at_most_s: float) -> None:
    """Wait for a run's process to end: after its command was killed, it saves its state."""
    end = time.monotonic() + at_most_s
    while open_run(run_dir, finished=False).status == "running" and time.monotonic() < end:
        time.sleep(PAUSE_S)


def find_runs(patterns: Iterable[str]) -> list[Path]:
    """Every run directory among and below the given folders and globs, without duplicates, in a stable order."""
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
            if any((Path(pattern) / name).is_file() for name in WITH_JOBS):
                status = printed_command("fmx", "status", pattern)
                raise DataError(f"no job of {pattern} has started yet: {status} says more")
            raise DataError(f"{pattern} holds no run directory; runs are in outputs/runs/, sweeps in outputs/sweeps/")
    return list(found)


def _status(record: dict[str, Any], run_dir: Path) -> str:
    """run.json's status; `interrupted` where that is running but the process is gone."""
    status = str(record.get("status"))
    if status != "running":
        return status
    alive = is_locked(run_dir)
    if alive is None:  # there is no lock file
        alive = record.get("host") != socket.gethostname() or _is_alive(record.get("pid"))
    return status if alive else "interrupted"


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    if sys.platform == "win32":
        return True  # os.kill would send Ctrl-C there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _move_paths(node: Any, old: str, new: str) -> Any:
    """A node in which paths in the run directory `old` are paths in `new`."""
    if isinstance(node, dict):
        return {key: _move_paths(child, old, new) for key, child in node.items()}
    if isinstance(node, list):
        return [_move_paths(child, old, new) for child in node]
    if isinstance(node, str) and old and (node == old or node.startswith(f"{old}/")):
        return new + node.removeprefix(old)
    return node
