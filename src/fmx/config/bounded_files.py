"""Read JSON and YAML files as plain values, within bounds, since run directories may come from anyone."""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import yaml

from fmx.errors import DataError

__all__ = ["MAX_YAML_BYTES", "read_bytes", "read_json", "read_yaml"]

MAX_JSON_BYTES = 4_000_000  # run.json has a few thousand, metrics.json about twenty per class
MAX_YAML_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_INTERPOLATIONS = 5_000  # OmegaConf parses each one; conf/ has a few hundred
# Terminal escapes and bidirectional marks, which YAML can write as escape sequences.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
MAX_SCALAR = 10_000  # characters of an unquoted number: YAML's base-60 integers take quadratic time
NUMBER = re.compile(r"[-+0-9_:.]+")
ENTRIES = re.compile(r"^(?=\S)", re.MULTILINE)  # where an entry of a block mapping begins
SIMPLE_KEY = re.compile(
    r"(?!(?:yes|no|on|off|true|false|null|y|n):)[A-Za-z_][\w.-]*:(?=\s|$)", re.IGNORECASE | re.ASCII
)
INDENTED = re.compile(r"(?:  [^\t\r\n\x85\u2028\u2029]+\n)+")
PARTED = 1  # levels below the first that are split too: hydra.yaml has one entry
MAX_KNOWN = 16_000  # bytes of an entry that is kept, so that all of them take little memory


def read_bytes(path: Path, *, at_most: int) -> bytes:
    """Read a whole file; DataError where it is not a regular file, or is larger than `at_most` bytes."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device might never end
            raise DataError(f"{path} cannot be read: it is no plain file")
        with path.open("rb") as file:
            contents = file.read(at_most + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(contents) > at_most:
        raise DataError(f"{path} is larger than the limit of {at_most:,} bytes")
    return contents


def read_json(path: Path, *, at_most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object of at most `at_most` bytes; DataError where the file holds no such object."""
    contents = read_bytes(path, at_most=at_most)
    try:
        values = json.loads(contents.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} does not hold a JSON object")
    return values


def read_yaml(path: Path) -> dict[Any, Any]:
    """Read a YAML mapping of plain values, interpolations left as text; DataError where the file holds no such mapping.

    Bounds: 1 MB, 40 levels, 5,000 `${`, no aliases (they can expand exponentially), no tags, plain types alone, and no
    terminal control characters.
    """
    contents = read_bytes(path, at_most=MAX_YAML_BYTES)
    if contents.count(b"${") > MAX_INTERPOLATIONS:
        raise DataError(f"{path} cannot be read as a configuration: it has more than {MAX_INTERPOLATIONS:,} '${{'")
    try:
        text = contents.decode("utf-8")
        values = _in_parts(text)
        if values is None:
            values = _plain_values(text)
    except _NotPlainError as error:
        raise DataError(f"{path} {error}") from error
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as a configuration: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is no configuration of a run")
    return values


class _NotPlainError(Exception):
    """A text is YAML that no configuration has; the message begins with a verb."""


def _plain_values(text: str) -> Any:
    """Parse YAML of plain values within the bounds of read_yaml; _NotPlainError where it holds more."""
    _check_shape(text)
    values = yaml.load(text, Loader=PlainLoader)  # noqa: S506 - a safe loader
    if not _is_plain(values):
        raise _NotPlainError("holds more than plain values")
    if found := next(filter(None, map(CONTROL_CHARACTERS.search, _texts(values))), None):
        raise _NotPlainError(f"holds the character {found[0]!a}, which no configuration has")
    return values


def _in_parts(text: str, *, depth: int = 0) -> dict[Any, Any] | None:
    """Parse a block mapping entry by entry, since the runs of a sweep have most entries in common.

    Takes a fifth of the time for many runs. None for a text that does not split into entries, each of which is a
    mapping by itself: then it is parsed as a whole, with whatever error that gives. depth: levels of indentation taken
    away.
    """
    before, *entries = ENTRIES.split(text)
    if before:
        return None
    values: dict[Any, Any] = {}
    for entry in entries:
        part = _known_entry(entry, depth) if SIMPLE_KEY.match(entry) and len(entry) <= MAX_KNOWN else None
        if part is None:
            return None
        values.update(_copied(part))
    return values or None


@lru_cache(maxsize=4096)
def _known_entry(entry: str, depth: int) -> dict[Any, Any] | None:
    """The values of one entry of a block mapping; None where it is none. The result is shared: it must not change."""
    head, _, below = entry.partition("\n")
    if depth < PARTED and SIMPLE_KEY.fullmatch(head) and INDENTED.fullmatch(below):
        inner = _in_parts(below.replace("\n  ", "\n").removeprefix("  "), depth=depth + 1)
        if inner is not None:
            return {head[:-1]: inner}
    try:
        values = _plain_values(entry)
    except (_NotPlainError, ValueError, OverflowError, RecursionError, yaml.YAMLError):
        return None
    return values if isinstance(values, dict) else None


def _copied(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _copied(child) for key, child in node.items()}
    return [_copied(child) for child in node] if isinstance(node, list) else node


def read_yaml_or_empty(path: Path) -> dict[Any, Any]:
    """Read a file of .hydra/; empty where it is missing or truncated, since Hydra rewrites it at each start."""
    try:
        return read_yaml(path)
    except DataError:
        return {}


def get_nested(node: Any, *keys: str) -> Any:
    """The value at a path of keys in a plain node; None where the path does not exist."""
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _is_plain(node: Any) -> bool:
    """Whether a node holds mappings, lists and plain values alone: YAML also has sets, pairs and bytes."""
    if isinstance(node, dict):
        return all(_is_plain(key) and _is_plain(child) for key, child in node.items())
    if isinstance(node, list):
        return all(map(_is_plain, node))
    return node is None or isinstance(node, str | int | float)


def _texts(node: Any) -> Iterator[str]:
    """Every string in a plain node, keys included."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _texts(key)
            yield from _texts(child)
    elif isinstance(node, list):
        for child in node:
            yield from _texts(child)
    elif isinstance(node, str):
        yield node


BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class PlainLoader(BASE):  # type: ignore[misc]
    """The safe loader with OmegaConf's scalars: 1e-3 is a number, and a date is text."""

    yaml_implicit_resolvers: ClassVar[Any] = {
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
        for first, pairs in BASE.yaml_implicit_resolvers.items()
    }


PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _check_shape(text: str) -> None:
    """_NotPlainError for deep nesting, which overflows the C loader's stack, and for aliases, tags and huge numbers."""
    depth = 0
    for event in yaml.parse(text, Loader=PlainLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise _NotPlainError("cannot be read as a configuration: it is nested too deeply, or has aliases")
        if getattr(event, "tag", None) is not None:  # a wrong tag can raise any exception
            raise _NotPlainError(f"cannot be read as a configuration: {event.tag!r} is a tag")
        plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        if plain and len(event.value) > MAX_SCALAR and NUMBER.fullmatch(event.value):
            raise _NotPlainError(f"cannot be read as a configuration: a number has {len(event.value):,} digits")
