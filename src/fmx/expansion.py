"""How large a configuration becomes once its interpolations are resolved: some lines can stand for any length."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmx.errors import DataError

__all__ = ["check_expansion"]

MAX_CHARACTERS = 10_000_000  # a configuration has some ten thousand
REFERENCE = re.compile(r"\$\{(\w[\w.\[\]-]*)\}")  # from the top: what a relative one names is not looked up here
# Neither makes more of what it is given: the others of OmegaConf can read other keys, or build lists and mappings.
RESOLVER = re.compile(r"\$\{(?:count|oc\.env|run_dir|stamp|subfolders):[^${}]*\}")


def check_expansion(config: Mapping[Any, Any], group: str, source: Path) -> None:
    """DataError where a group's interpolations grow without bounds, or are others than fmx's own configuration has.

    config: plain values, not resolved. The group may come to 10 million characters, each reference counted where it
    stands.
    """
    try:
        _Sizes(config, source).of(config.get(group), group)
    except RecursionError:
        raise DataError(f"{source} cannot be resolved: its interpolations refer to one another too often") from None


class _Sizes:
    """The characters that nodes come to; each key that is referred to is looked at once."""

    def __init__(self, config: Mapping[Any, Any], source: Path) -> None:
        self.config = config
        self.source = source
        self.known: dict[str, int] = {}

    def of(self, node: Any, place: str) -> int:
        if isinstance(node, Mapping | list):
            items = node.items() if isinstance(node, Mapping) else enumerate(node)
            size = 1 + sum(self.of(child, f"{place}.{name}") for name, child in items)
        elif isinstance(node, str):
            rest = RESOLVER.sub("", REFERENCE.sub("", node))
            if "${" in rest:
                raise DataError(f"{self.source}: {place} is an interpolation that a run's data may not have: {node!r}")
            size = 1 + len(node) + sum(map(self._referred, REFERENCE.findall(node)))
        else:
            size = 1
        if size > MAX_CHARACTERS:
            raise DataError(f"{self.source} cannot be resolved: the interpolations of {place} grow beyond measure")
        return size

    def _referred(self, key: str) -> int:
        if key not in self.known:
            self.known[key] = 0  # what refers to itself is refused when it is resolved
            self.known[key] = self.of(_select(self.config, key), key)
        return self.known[key]


def _select(config: Any, key: str) -> Any:
    """What a dotted key names in plain values, None where nothing."""
    node = config
    for part in re.findall(r"[^.\[\]]+", key):
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node
