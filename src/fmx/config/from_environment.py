"""Values from environment variables: a run's files store the reference, never the value.

A token or a machine's name would otherwise be in every file of a run. A digest next to the reference tells whether the
variable still has that value. The paths of a run and its data are stored in full, since run.json has them anyway.
"""

import hashlib
import json
import os
import re
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmx.config.expansion import ENVIRONMENT, check_expansion
from fmx.config.hydra_values import hydra_values
from fmx.config.quoting import escape_interpolations
from fmx.errors import DataError

__all__ = [
    "REPEATABLE",
    "Place",
    "check_resolved",
    "check_variables_set",
    "from_stored",
    "is_reference",
    "reference_of",
    "references",
    "resolved_and_stored",
    "stored_and_variables",
    "to_stored",
    "why_unresolved",
    "with_references",
]

STORED_REFERENCE = re.compile(r"(?s)(.*\$\{.*) \(digest [0-9a-f]{16}\)")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
VARIABLE = re.compile(r"oc\.env:\s*(\w+)")
REPEATABLE = re.compile(rf"(?:[^$]*(?:\$\{{[\w.]+\}}|{ENVIRONMENT}))+[^$]*")  # needs no custom resolver
OF_HYDRA = re.compile(r"hydra[.\[]")  # in a reference to a value of the hydra node
ROUNDS = 50_000  # of the digest, which makes each guess of a value expensive
SHORT = 4  # values below this length may occur in a text by chance
Place = tuple[str | int, ...]


class _RecordingEnviron(ChainMap[str, str]):
    """os.environ that records which variables are read."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> str:
        value = super().__getitem__(key)
        self.read.add(key)
        return value


@contextmanager
def _record_reads() -> Iterator[set[str]]:
    """Yield a set that receives the names of the set variables that any resolver reads in the block."""
    before = os.environ
    watched = _RecordingEnviron(before)
    os.environ = watched  # type: ignore[assignment]  # noqa: B003 - the same variables, recorded
    try:
        yield watched.read
    finally:
        os.environ = before  # noqa: B003


def to_stored(config: DictConfig) -> dict[str, Any]:
    """A configuration without its hydra node as plain values to store: resolved, except for environment variables.

    Such a value is stored as its reference, with a digest of the value.
    """
    return stored_and_variables(config)[0]


def stored_and_variables(config: DictConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """What to_stored returns, and the environment variables that the configuration reads, with their values.

    Those of its paths are left out, and short values, which may occur in a text by chance.
    """
    plain: Any = OmegaConf.to_container(config, resolve=False)
    with hydra_values(config, plain):
        _, stored, names = _resolved_and_stored(config, plain)
    return stored, {name: os.environ[name] for name in names if len(os.environ[name]) >= SHORT}


def resolved_and_stored(config: DictConfig, written: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a configuration but for its hydra node: resolved, and as to_stored has them.

    written: the configuration as OmegaConf.to_container gives it unresolved.
    """
    return _resolved_and_stored(config, written)[:2]


def _resolved_and_stored(
    config: DictConfig, written: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], set[str]]:
    """As resolved_and_stored, with the names of the environment variables that are not those of paths."""
    keys = [str(key) for key in config if key != "hydra"]
    # A copy without the hydra node takes as long as all the rest, and makes a difference to such references alone.
    if "hydra" in config and OF_HYDRA.search(str([written[key] for key in keys])):
        config = OmegaConf.masked_copy(config, keys)
    with _record_reads() as read:
        plain = {key: _resolved(config, key) for key in keys}
    stored: Any = plain
    names = read - _location_variables(config) if read else set()
    if names:
        stored = _store({key: written[key] for key in keys}, config, plain, names)
    return plain, stored, names


def _resolved(config: DictConfig, key: str) -> Any:
    """The resolved value of a root key; `???` stays."""
    if OmegaConf.is_missing(config, key):
        return MISSING
    node = config[key]
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _location_variables(config: DictConfig) -> set[str]:
    """The variables that run_dir and data.root read."""
    with _record_reads() as read:
        for key in ("run_dir", "data.root"):
            OmegaConf.select(config, key)
    return read


def _store(written: Any, node: Any, plain: Any, names: Collection[str]) -> Any:
    if isinstance(written, Mapping):
        return {key: _store_child(written, node, plain, key, names) for key in written}
    return [_store_child(written, node, plain, index, names) for index in range(len(written))]


def _store_child(written: Any, node: Any, plain: Any, key: Any, names: Collection[str]) -> Any:
    text, value = written[key], plain[key]
    if isinstance(text, Mapping | list):
        return _store(text, node[key], value, names)
    if not isinstance(text, str) or "${" not in text:
        return value
    with _record_reads() as read:
        child = node[key]
        if OmegaConf.is_config(child):
            OmegaConf.to_container(child, resolve=True)
    return f"{text} (digest {_digest(text, value)})" if read & {*names} else value


def _digest(reference: str, value: Any) -> str:
    return _slow_hash(reference, json.dumps(value, sort_keys=True, default=str))


@lru_cache(maxsize=1000)
def _slow_hash(salt: str, text: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", text.encode(), salt.encode(), ROUNDS, dklen=8).hex()


def is_reference(value: object) -> bool:
    """Whether a stored value is a reference to the environment."""
    return isinstance(value, str) and STORED_REFERENCE.fullmatch(value) is not None


def reference_of(value: str) -> str:
    """The reference without its digest; any other text unchanged."""
    found = STORED_REFERENCE.fullmatch(value)
    return found[1] if found else value


def references(stored: Any) -> dict[Place, str]:
    """The stored references of a configuration, by place."""
    return dict(_references(stored, ()))


def _references(node: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(node, Mapping | list):
        for key, child in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _references(child, (*place, key))
    elif is_reference(node):
        yield place, node


def with_references(plain: Any, stored: Mapping[Place, str]) -> Any:
    """A plain configuration with the stored references, without digests, put back in their places."""
    for place, text in stored.items():
        plain = _with(plain, place, reference_of(text))
    return plain


def from_stored(stored: dict[str, Any], source: Path) -> dict[str, Any]:
    """A stored configuration with the references resolved whose value still matches the digest; others stay references.

    The files may come from anyone, so no resolver runs but `oc.env`, or `oc.decode` of it. source: what errors name.
    """
    found = references(stored)
    live = escape_interpolations(stored)
    for place, text in found.items():
        if REPEATABLE.fullmatch(reference := reference_of(text)):
            live = _with(live, place, reference)
    if not found:
        return stored
    for key in {str(place[0]) for place in found}:
        check_expansion(live, key, source)
    config = OmegaConf.create(live)
    for place, text in found.items():
        node: Any = config
        try:
            for part in place:
                node = node[part]
            value = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        except (OmegaConfBaseException, LookupError, TypeError):
            continue
        reference = reference_of(text)
        if text == f"{reference} (digest {_digest(reference, value)})":
            stored = _with(stored, place, value)
    return stored


def _with(node: Any, place: Place, value: Any) -> Any:
    if not place:
        return value
    copy: Any = dict(node) if isinstance(node, Mapping) else list(node)
    copy[place[0]] = _with(copy[place[0]], place[1:], value)
    return copy


def check_resolved(config: Any, source: Path, groups: Iterable[str] | None = None) -> None:
    """DataError for the first reference that could not be resolved, with the variable to set.

    groups: the groups to check; None for all.
    """
    wanted = None if groups is None else {*groups}
    found = references(config)
    for place in found:
        if wanted is None or place[0] in wanted:
            raise DataError(f"{source}: {why_unresolved(place, found)}")


def check_variables_set(stored: Mapping[Place, str], source: Path) -> None:
    """DataError for the first reference whose variable is unset and has no default."""
    for place, text in stored.items():
        missing = [name for name in re.findall(r"oc\.env:\s*(\w+)\s*\}", text) if name not in os.environ]
        if missing:
            raise DataError(f"{source}: {why_unresolved(place, stored)}")


def why_unresolved(place: Place, stored: Mapping[Place, str]) -> str:
    """Why a stored reference cannot be resolved: its variable is unset, or has another value."""
    key, text = ".".join(map(str, place)), stored[place]
    names = _variables_of(text, {".".join(map(str, other)): each for other, each in stored.items()})
    if missing := [name for name in names if name not in os.environ]:
        name = missing[0]
        return f"{key} comes from the environment variable {name}, which is not set: set {name} to its earlier value"
    source = f"{key} comes from the environment ({reference_of(text)}), "
    if REPEATABLE.fullmatch(reference_of(text)):
        return f"{source}which has another value now: set {' and '.join(names) or 'it'} to its earlier value"
    return f"{source}through a custom resolver, which only the original command calls: type that command again"


def _variables_of(text: str, stored: Mapping[str, str]) -> list[str]:
    """The variables that a reference reads, directly or through other keys."""
    texts = [text]
    for each in texts:
        texts += [other for key in REFERENCE.findall(each) if (other := stored.get(key)) and other not in texts]
    return list(dict.fromkeys(name for each in texts for name in VARIABLE.findall(each)))
