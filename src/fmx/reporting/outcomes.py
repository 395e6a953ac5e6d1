"""The outcomes of runs: metrics of the completed ones, status and error of the others."""

import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

from fmx.errors import DataError
from fmx.runs.calibration import CALIBRATION, read_calibration
from fmx.runs.run_dir import FINISHED, Run, instant, open_run
from fmx.runs.settings import Settings, read_settings, show

__all__ = [
    "ENOUGH_SEEDS",
    "KnownOutcomes",
    "Outcome",
    "Unfinished",
    "by_configuration",
    "environment_differences",
    "newest_of_each_seed",
    "outcome",
    "read_outcomes",
    "replicate",
    "unfinished",
]

LARGEST = 1e15
ENOUGH_SEEDS = 5  # fewer give only a rough standard deviation
ENVIRONMENT = {  # what a run's metrics depend on besides its settings, by its name in tables
    "commit": ("git", "commit"),
    "accelerator": ("device", "accelerator"),
    "device": ("device", "name"),
    "precision": ("device", "precision"),
    "threads": ("device", "threads"),
    "split": ("data", "split_fingerprint"),
}
UNKNOWN = "unknown"
FILES = ("run.json", "metrics.json", CALIBRATION, *(f".hydra/{name}.yaml" for name in ("resolved", "config", "hydra")))


@dataclass(frozen=True)
class Outcome:
    """A completed run: its settings and its metrics. Accuracies are in 0..1."""

    run: Run
    name: str  # of the run in tables
    seed: str
    settings: Settings
    data: str
    data_fingerprint: str
    val_accuracy: float | None
    test_accuracy: float
    test_macro_f1: float | None
    params: int | None
    train_seconds: float | None
    on_test: bool  # the test set was the validation set, or chose the checkpoint
    started: str

    num_val: int | None  # images that the validation accuracy is of
    environment: Mapping[str, str]  # commit, versions, device, precision, …
    test_ece: float | None  # expected calibration errors, None where they were not measured
    calibrated_test_ece: float | None

    @property
    def replicate(self) -> str:
        """Which of a configuration's runs it is: its seed, and its fold, if it has one."""
        return replicate(self.seed, self.settings)

    @property
    def is_dirty(self) -> bool:
        """Whether the code had uncommitted changes."""
        git = self.run.record.get("git")
        return isinstance(git, dict) and git.get("dirty") is True

    @property
    def configuration(self) -> tuple[str, str, str]:
        """Equal for runs that differ only in the seed and the fold."""
        return self.data, self.data_fingerprint, self.settings.fingerprint


@dataclass(frozen=True)
class Unfinished:
    """A run without metrics, or one whose metrics are left out, and the reason."""

    name: str
    status: str
    error: str
    seed: str
    settings: Settings | None

    @property
    def replicate(self) -> str:
        """Its seed, and its fold, if it has one."""
        return replicate(self.seed, self.settings)


def replicate(seed: str, settings: Settings | None) -> str:
    """A seed, with the fold that was held out, if any."""
    return seed if settings is None or settings.fold is None else f"{seed}, fold {settings.fold}"


class KnownOutcomes:
    """Outcomes of completed runs, which are read anew only where one of their files has changed.

    For one process that reads the same runs again and again. It keeps a few kilobytes per run.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, bytes]] = {}

    def read(self, path: Path, name: str) -> Outcome | Unfinished:
        """The outcome of a run directory, by its name in tables."""
        state = (name, [_identity(path / file) for file in FILES])  # before the files are read: they may change
        known = self._known.get(path)
        if known is not None and known[0] == state:
            return _from_plain(path, json.loads(zlib.decompress(known[1])))
        read = _read(path, name)
        self._known.pop(path, None)
        if isinstance(read, Outcome):
            with suppress(TypeError):  # of a value that JSON does not have, such as a date
                self._known[path] = state, zlib.compress(json.dumps(_as_plain(read)).encode(), level=1)
        return read


def _as_plain(read: Outcome) -> dict[str, Any]:
    return vars(read) | {"run": vars(read.run) | {"path": None}, "settings": asdict(read.settings)}


def _from_plain(path: Path, plain: dict[str, Any]) -> Outcome:
    run, settings = Run(**plain["run"] | {"path": path}), Settings(**plain["settings"])
    return Outcome(**plain | {"run": run, "settings": settings})


def _identity(file: Path) -> tuple[int, ...] | None:
    """What changes with a file's contents; None for a file that is not there."""
    try:
        facts = file.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def read_outcomes(
    folders: Iterable[Path], *, below: Path | None = None, known: KnownOutcomes | None = None
) -> tuple[list[Outcome], list[Unfinished]]:
    """Read run directories, each once; those that did not complete or cannot be read are returned separately.

    below: the folder that the runs' names are relative to; None: they are named by the given paths. known: outcomes of
    an earlier call.
    Of runs with the same configuration, seed and fold only the newest counts: repetitions would make the spread too
    small.
    """
    completed: list[Outcome] = []
    others: list[Unfinished] = []
    for path in {folder.resolve(): folder for folder in folders}.values():
        name = show(str(path.relative_to(below) if below else path))
        read = _read(path, name) if known is None else known.read(path, name)
        if isinstance(read, Outcome):
            completed.append(read)
        else:
            others.append(read)
    completed, repeated = newest_of_each_seed(completed)
    return completed, sorted(others + repeated, key=lambda other: _natural(other.name))


def newest_of_each_seed(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], list[Unfinished]]:
    """The newest run of each configuration, seed and fold, and the others as repetitions."""
    newest: dict[tuple[str, ...], Outcome] = {}
    for each in sorted(outcomes, key=lambda each: (instant(each.started), _natural(each.name))):
        newest[*each.configuration, each.replicate] = each
    counted = set(map(id, newest.values()))
    repeated = []
    for each in outcomes:
        if id(each) not in counted:
            newer = newest[*each.configuration, each.replicate]
            others = environment_differences([each, newer])
            fold = " and fold" if each.settings.fold is not None else ""
            but = f", but not the same {', '.join(others)}" if others else ""
            why = f"left out: {newer.name} is newer, with the same configuration and seed{fold}{but}"
            repeated.append(Unfinished(each.name, "repeated", why, each.seed, each.settings))
    return [each for each in outcomes if id(each) in counted], repeated


def environment_differences(runs: Sequence[Outcome]) -> dict[str, list[str]]:
    """The differences between runs besides their settings, by name, with the values; missing ones are `unknown`.

    Uncommitted changes in any of several runs count as a difference: the changes are not recorded.
    """
    names = dict.fromkeys(name for run in runs for name in run.environment)
    values = {name: sorted({run.environment.get(name, UNKNOWN) for run in runs}) for name in names}
    mixed = {name: different for name, different in values.items() if len(different) > 1}
    if len(runs) > 1 and any(run.is_dirty for run in runs):
        mixed["uncommitted changes"] = sorted({"yes" if run.is_dirty else "no" for run in runs})
    return mixed


def _read(path: Path, name: str) -> Outcome | Unfinished:
    try:
        run = open_run(path, finished=False)
    except DataError as error:
        return Unfinished(name, "unreadable", show(str(error)), "", None)
    if run.status != FINISHED:
        return unfinished(run, name)
    try:
        return outcome(run, name)
    except DataError as error:
        return Unfinished(name, "unreadable", show(str(error)), show(run.record.get("seed")), None)


def unfinished(run: Run, name: str | None = None) -> Unfinished:
    """The outcome of a run that did not complete. name: None for its path."""
    error = show(run.record.get("error") or "")
    status = "pruned" if run.pruned else show(run.status)
    return Unfinished(
        name or show(str(run.path)), status, error, show(run.record.get("seed")), _settings_if_any(run.path)
    )


def _settings_if_any(run_dir: Path) -> Settings | None:
    try:
        return read_settings(run_dir)
    except DataError:  # the run ended before it wrote them
        return None


def outcome(run: Run, name: str) -> Outcome:
    """The metrics of a completed run; DataError if a file lacks one, or has an invalid one."""
    metrics, data, timing = run.metrics, run.recorded(dict, "data"), run.recorded(dict, "timing")
    calibration = read_calibration(run.path)
    ece, calibrated_ece = (
        None if calibration is None else calibration.parts["test"][state].ece for state in ("trained", "calibrated")
    )
    test, val, settings = metrics.get("test"), metrics.get("val"), read_settings(run.path)
    accuracy = _share(test, "accuracy", run) if isinstance(test, dict) else None
    if accuracy is None:
        raise DataError(f"{run.path}/metrics.json has no test accuracy")
    return Outcome(
        run=run,
        name=name,
        seed=show(run.record.get("seed")),
        settings=settings,
        data=show(data.get("name")),
        data_fingerprint=show(data.get("fingerprint") or ""),
        val_accuracy=_share(val, "accuracy", run) if isinstance(val, dict) else None,
        test_accuracy=accuracy,
        test_macro_f1=_share(metrics["test"], "macro_f1", run),
        params=_count(run.record, "params", run),
        train_seconds=_number(timing, "fit_s", run),
        on_test="test" in [metrics.get("validation"), metrics.get("selected_on")],
        started=show(run.record.get("started")),
        num_val=_num_validated(run, data),
        environment=_environment(run, has_folds=settings.fold is not None),
        test_ece=ece,
        calibrated_test_ece=calibrated_ece,
    )


def by_configuration(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """Group runs that differ only in seed and fold, each group ordered by these."""
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault(each.configuration, []).append(each)
    return [sorted(group, key=lambda each: _natural(each.replicate)) for group in groups.values()]


def _num_validated(run: Run, data: dict[str, Any]) -> int | None:
    """How many images a run was validated on; None if that is not recorded."""
    sizes = data.get("sizes")
    num = sizes.get("test" if run.metrics.get("validation") == "test" else "val") if isinstance(sizes, dict) else None
    return num if isinstance(num, int) and 0 < num < LARGEST else None


def _environment(run: Run, *, has_folds: bool) -> dict[str, str]:
    """The values of ENVIRONMENT and the versions; each fold has a split of its own."""
    record = run.record
    found = {}
    for name, (part, key) in ENVIRONMENT.items():
        if name == "split" and has_folds:
            continue
        facts = record.get(part)
        if isinstance(facts, dict) and facts.get(key) is not None:
            found[name] = show(facts[key])
    versions = record.get("versions")
    if isinstance(versions, dict):
        found |= {show(package): show(version) for package, version in versions.items()}
    return found


def _number(contents: dict[str, Any], key: str, run: Run) -> float | None:
    value = contents.get(key)
    if value is None or (isinstance(value, float) and isnan(value)):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        raise DataError(f"{run.path}: {key} is {show(value)[:40]}, which is no number")
    return float(value)


def _count(contents: dict[str, Any], key: str, run: Run) -> int | None:
    value = _number(contents, key, run)
    if value is not None and not (value >= 0 and value.is_integer()):
        raise DataError(f"{run.path}: {key} is {value:g}, which is no count")
    return None if value is None else int(value)


def _share(contents: dict[str, Any], key: str, run: Run) -> float | None:
    value = _number(contents, key, run)
    if value is not None and not (isnan(value) or 0 <= value <= 1):
        raise DataError(f"{run.path}/metrics.json: {key} is {value:g}, not between 0 and 1")
    return value


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts `10` after `9`: numbers are sorted by their length first."""
    parts = re.split(r"(\d+)", name)
    return [(len(part.lstrip("0")) if part.isdecimal() else 0, part) for part in parts]
