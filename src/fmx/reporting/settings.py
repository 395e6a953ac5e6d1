"""What a run was told: the settings of its configuration by dotted key, and the choices of its groups."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fmx.plain_files import read_yaml
from fmx.table import printable

__all__ = ["ABSENT", "Settings", "flat", "read_settings", "show"]

NOT_SETTINGS = frozenset(
    {"seed", "run_dir", "resume", "data.root", "sweep.keep_checkpoints"}
)  # they say which run, when and where
ABSENT = "–"  # how a setting is shown that a configuration does not have


@dataclass(frozen=True)
class Settings:
    """One configuration without its seed and its places on disk.

    values: each setting as it was resolved, by dotted key; a list of plain values is one setting.
    following: the keys that were written as `${another.key}`, so that they say nothing of their own.
    choices: the member that was chosen of each group.
    """

    values: Mapping[str, Any]
    following: frozenset[str]
    choices: Mapping[str, str]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what was told: equal for configurations that differ in nothing but seed and places."""
        told = {key: value for key, value in self.values.items() if key not in self.following}
        return blake2b(json.dumps(told, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()

    def told(self, key: str) -> str:
        """A setting by its dotted key, or the choice of a group by its name, as people write it."""
        if key in self.choices:
            return self.choices[key]
        return show(self.values[key]) if key in self.values else ABSENT


def read_settings(run_dir: Path) -> Settings:
    """Read .hydra/ of a run directory as plain values: nothing in it is resolved, imported or made.

    Raises DataError where resolved.yaml is missing, damaged, or larger than any configuration is.
    """
    folder = run_dir / ".hydra"
    resolved = read_yaml(folder / "resolved.yaml")
    written = read_yaml(folder / "config.yaml") if (folder / "config.yaml").is_file() else resolved
    hydra = read_yaml(folder / "hydra.yaml") if (folder / "hydra.yaml").is_file() else {}
    leaves = [leaf for leaf in _leaves(resolved, written) if leaf[0] not in NOT_SETTINGS]
    choices: Any = hydra
    for key in ("hydra", "runtime", "choices"):
        choices = choices.get(key) if isinstance(choices, Mapping) else None
    return Settings(
        values={key: value for key, value, _ in leaves},
        following=frozenset(key for key, _, follows in leaves if follows),
        choices={str(group): show(name) for group, name in choices.items()} if isinstance(choices, Mapping) else {},
    )


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a configuration by its dotted key."""
    return {key: value for key, value, _ in _leaves(config, config)}


def show(value: object) -> str:
    """A plain value on one line, as people write it."""
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    return printable(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))


def _leaves(resolved: Any, written: Any, key: str = "", *, follows: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Yield key, resolved value, and whether it was written as an interpolation.

    What comes from the environment was told from outside, so it counts as a setting.
    """
    follows = follows or (isinstance(written, str) and "${" in written and "oc.env" not in written)
    if isinstance(resolved, Mapping):
        children = [(str(name), child, name) for name, child in resolved.items()]
    elif isinstance(resolved, list) and any(isinstance(child, dict | list) for child in resolved):
        children = [(str(number), child, number) for number, child in enumerate(resolved)]
    else:
        yield key, resolved, follows
        return
    for name, child, place in children:
        try:
            source = written[place]
        except (LookupError, TypeError):
            source = None
        yield from _leaves(child, source, f"{key}.{name}" if key else name, follows=follows)
