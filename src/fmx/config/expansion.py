"""Bound the size of a configuration after interpolation: a few nested references can expand exponentially."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmx.errors import DataError

__all__ = ["ENVIRONMENT", "check_expansion"]

MAX_CHARACTERS = 10_000_000  # a usual configuration has some ten thousand
REFERENCE_COST = 1_000  # characters whose copying takes as long as resolving one reference
ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\\$\{")  # after an odd number of backslashes it is text
REFERENCE = re.compile(r"\$\{(\.*)(\w[\w.\[\]-]*)\}")
ENVIRONMENT = r"(?:\$\{oc\.env:[^${}]*\}|\$\{oc\.decode:\$\{oc\.env:[^${}]*\}\})"
# These resolvers return short texts, or a copy of a mapping, which is counted as a reference. OmegaConf's others can
# read other keys, or build lists and mappings.
RESOLVER = re.compile(
    rf"{ENVIRONMENT}|\$\{{(?:count|folder_of_validation|found|found_validation|run_dir|stamp|subfolders):[^${{}}]*\}}"
)


def check_expansion(config: Mapping[Any, Any], group: str, source: Path) -> None:
    """DataError where a group's interpolations expand beyond 10 million characters, or use unknown resolvers.

    config: plain values, not resolved. Each reference counts as what it expands to, plus a thousand characters.
    """
    try:
        _Sizes(source).size_of(config.get(group), group, (config,))
    except RecursionError:
        raise DataError(f"{source} cannot be resolved: its interpolations refer to one another too often") from None


Chain = tuple[Any, ...]  # a node's containers, the root first


class _Sizes:
    """Sizes of nodes in characters; each referenced node is measured once."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.known: dict[tuple[int, int], int] = {}  # by node and container, since equal strings may be one object

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
        """The size of a reference's target; one leading dot is the node's container, two its parent."""
        if len(dots) > len(chain):
            return 1  # no such target: resolving gives the better error
        node, chain = _select(key, chain[: len(chain) + 1 - len(dots)] if dots else chain[:1])
        where = id(node), id(chain[-1])
        if where not in self.known:
            self.known[where] = 0  # resolving refuses cycles
            self.known[where] = self.size_of(node, key, chain)
        return self.known[where]


def _select(key: str, chain: Chain) -> tuple[Any, Chain]:
    """The node at a dotted key in the last container (None where there is none), and its containers."""
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
