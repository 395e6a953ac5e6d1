"""The settings of a run's configuration by dotted key, and the options chosen of its config groups."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fmx.config.bounded_files import read_yaml
from fmx.config.renamed_targets import with_present_names
from fmx.process.table import printable

__all__ = ["ABSENT", "PRUNING", "PRUNING_TARGET", "Settings", "flat", "read_settings", "show"]

NOT_SETTINGS = frozenset(
    {"seed", "data.fold", "run_dir", "resume", "data.root", "sweep.keep_checkpoints"}
)  # which run it is, when and where
OF_ONE_RUN = re.compile(r"\$\{(?:(?:seed|data\.fold|resume|run_dir)\}|(?:run_dir|stamp|now|hydra):)")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
MAX_FOLDS = 10_000
PRUNING = "callbacks.pruning"  # a search adds it; it does not change runs that train to their end
PRUNING_TARGET = "fmx.sweeps.search.pruning.Pruning"
MEMBERS = "augment=["  # on a command line
ABSENT = "–"  # what is shown for a setting that a configuration lacks


@dataclass(frozen=True)
class Settings:
    """One configuration without its seed, its fold and its paths.

    values: each resolved setting by dotted key; a list of plain values is one setting. Values that depend on the seed,
    the fold, or on the folder, time or number of the run, are left out; a path below data.root begins with
    `${data.root}`.
    following: the interpolation that was written for a value, such as `${another.key}`.
    choices: the chosen option of each config group.
    fold: the one of `folds` that is held out; None and 0 without folds.
    """

    values: Mapping[str, Any]
    following: Mapping[str, str]
    choices: Mapping[str, str]
    fold: int | None
    folds: int

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all settings: equal for configurations that differ only in seed, fold and paths."""
        return blake2b(json.dumps(self.values, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()

    def text(self, key: str) -> str:
        """The text of a setting by its dotted key, or of a group's choice by its name."""
        if key in self.choices:
            return self.choices[key]
        return show(self.values[key]) if key in self.values else ABSENT


def read_settings(run_dir: Path) -> Settings:
    """Read .hydra/ of a run directory as plain values: nothing is resolved, imported or instantiated.

    Raises DataError where resolved.yaml is missing, damaged or too large.
    """
    folder = run_dir / ".hydra"
    resolved = with_present_names(read_yaml(folder / "resolved.yaml"))
    written = read_yaml(folder / "config.yaml") if (folder / "config.yaml").is_file() else resolved
    hydra = read_yaml(folder / "hydra.yaml") if (folder / "hydra.yaml").is_file() else {}
    leaves = [
        (key, _with_references(value, source, resolved), source)
        for key, value, source in _leaves(resolved, written)
        if key not in NOT_SETTINGS and not (source and _identifies_run(source, written))
    ]
    fold, folds = (_select(resolved, f"data.{key}") for key in ("fold", "folds"))
    is_fold = type(fold) is int and type(folds) is int and 0 <= fold < folds <= MAX_FOLDS
    # Runs of earlier versions made no choice of it.
    choices = {"classifier": "default"} | _mapping(hydra, "hydra", "runtime", "choices")
    task = _mapping(hydra, "hydra", "overrides").get("task")
    typed = [text for text in task if str(text).startswith(MEMBERS)] if isinstance(task, list) else []
    if typed and "augment" not in choices:  # Hydra leaves lists of members out
        choices = choices | {"augment": str(typed[-1]).partition("=")[2]}
    if any(key == f"{PRUNING}._target_" and value == PRUNING_TARGET for key, value, _ in leaves):
        leaves = [leaf for leaf in leaves if not leaf[0].startswith(f"{PRUNING}.")]
    return Settings(
        values={key: value for key, value, _ in leaves},
        following={key: source for key, _, source in leaves if source},
        choices={str(group): show(name) for group, name in choices.items()},
        fold=fold if is_fold else None,
        folds=folds if is_fold else 0,
    )


def _mapping(node: Any, *keys: str) -> dict[Any, Any]:
    """The mapping at a path of keys; an empty one where there is none."""
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return dict(node) if isinstance(node, Mapping) else {}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a configuration by its dotted key."""
    return {key: value for key, value, _ in _leaves(config, config)}


def show(value: object) -> str:
    """A plain value on one line; a float keeps its decimal point (a share of 1.0 is not a count of 1)."""
    if isinstance(value, float):
        short = f"{value:g}" if float(f"{value:g}") == value else repr(value)
        return f"{short}.0" if short.removeprefix("-").isdecimal() else short
    return printable(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))


def _with_references(value: Any, source: str, resolved: Mapping[str, Any]) -> Any:
    """A value in which the paths of this run and its data are replaced by references."""
    if isinstance(value, list):
        return [_with_references(each, source, resolved) for each in value]
    for key in ("run_dir", "data.root"):
        place = _select(resolved, key)
        if not isinstance(value, str) or not isinstance(place, str) or not (place.startswith("/") or key in source):
            continue  # a relative root may be a word that means something else elsewhere
        if value == place or value.startswith(f"{place}/"):
            return f"${{{key}}}{value.removeprefix(place)}"
    return value


def _identifies_run(source: str, written: Mapping[str, Any]) -> bool:
    """Whether an interpolation leads to the seed, or to the folder, time or number of a run."""
    waiting, seen = [source], set[str]()
    while waiting:
        text = waiting.pop()
        if OF_ONE_RUN.search(text):
            return True
        names = set(REFERENCE.findall(text)) - seen  # each once: references may form a cycle
        seen |= names
        waiting += [node for name in names if isinstance(node := _select(written, name), str)]
    return False


def _select(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _leaves(resolved: Any, written: Any, key: str = "", *, source: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield key, resolved value, and the interpolation that was written for it, or an empty text.

    A value from an environment variable is given from outside, so it is a setting with no interpolation.
    """
    nested = isinstance(resolved, list) and any(isinstance(child, dict | list) for child in resolved)
    text = json.dumps(written, default=str) if isinstance(written, list) and not nested else written
    if not source and isinstance(text, str) and "${" in text and "oc.env" not in text:
        source = text
    if isinstance(resolved, Mapping):
        children = [(str(name), child, name) for name, child in resolved.items()]
    elif nested:
        children = [(str(number), child, number) for number, child in enumerate(resolved)]
    else:
        yield key, resolved, source
        return
    for name, child, place in children:
        try:
            within = written[place]
        except (LookupError, TypeError):
            within = None
        yield from _leaves(child, within, f"{key}.{name}" if key else name, source=source)
