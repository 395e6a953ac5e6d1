"""How large a configuration becomes once its interpolations are resolved: some lines can stand for any length."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmx.errors import DataError

__all__ = ["ENVIRONMENT", "check_expansion"]

MAX_CHARACTERS = 10_000_000  # a configuration has some ten thousand
REFERENCE_COST = 1_000  # resolving one reference takes as long as copying so many characters
ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\\$\{")  # after an odd number of backslashes it is text
REFERENCE = re.compile(r"\$\{(\.*)(\w[\w.\[\]-]*)\}")
ENVIRONMENT = r"(?:\$\{oc\.env:[^${}]*\}|\$\{oc\.decode:\$\{oc\.env:[^${}]*\}\})"
# Neither makes more of what it is given: the others of OmegaConf can read other keys, or build lists and mappings.
RESOLVER = re.compile(rf"{ENVIRONMENT}|\$\{{(?:count|run_dir|stamp|subfolders):[^${{}}]*\}}")


def check_expansion(config: Mapping[Any, Any], group: str, source: Path) -> None:
    """DataError where a group's interpolations grow without bounds, or are others than fmx's own configuration has.

    config: plain values, not resolved. The group may come to 10 million characters, each reference counted where it
    stands, and as a thousand characters more.
    """
    try:
        _Sizes(source).size_of(config.get(group), group, (config,))
    except RecursionError:
        raise DataError(f"{source} cannot be resolved: its interpolations refer to one another too often") from None


Chain = tuple[Any, ...]  # the containers that a node is in, the whole configuration first


class _Sizes:
    """The characters that nodes come to; each node that is referred to is looked at once."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.known: dict[tuple[int, int], int] = {}  # by the node and its container: equal texts may be one object

    def size_of(self, node: Any, place: str, chain: Chain) -> int:
        if isinstance(node, Mapping | list):
            items = node.items() if isinstance(node, Mapping) else enumerate(node)
            size = 1 + sum(self.size_of(child, f"{place}.{name}", (*chain, node)) for name, child in items)
        elif isinstance(node, str):
            text = ESCAPED.sub("", node)
            if "${" in RESOLVER.sub("", REFERENCE.sub("", text)):
                raise DataError(
                    f"{self.source}: {place} is an interpolation that a run's data may not have: {node[:200]!r}"
                )
            size = 1 + len(node)
            size += sum(
                REFERENCE_COST + self._reference_size(dots, key, chain) for dots, key in REFERENCE.findall(text)
            )
        else:
            size = 1
        if size > MAX_CHARACTERS:
            raise DataError(f"{self.source} cannot be resolved: the interpolations of {place} grow beyond measure")
        return size

    def _reference_size(self, dots: str, key: str, chain: Chain) -> int:
        """What a reference comes to: one dot before the key is the container it stands in, two that one's own."""
        if len(dots) > len(chain):
            return 1  # it leads nowhere, which resolving says better
        node, chain = _select(key, chain[: len(chain) + 1 - len(dots)] if dots else chain[:1])
        where = id(node), id(chain[-1])
        if where not in self.known:
            self.known[where] = 0  # what refers to itself is refused when it is resolved
            self.known[where] = self.size_of(node, key, chain)
        return self.known[where]


def _select(key: str, chain: Chain) -> tuple[Any, Chain]:
    """What a dotted key names in the last container, None where nothing, and the containers that it is in."""
    node = chain[-1]
    chain = chain[:-1]
    for part in re.findall(r"[^.\[\]]+", key):
        chain = (*chain, node)
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None, chain
    return node, chain
