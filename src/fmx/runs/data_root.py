"""Where a run's data lies: that may change from day to day, and is no part of what the run is."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmx.errors import ConfigError

__all__ = ["KEY", "VARIABLE", "at_root", "present_root", "told_root", "without_root"]

KEY = "data.root"

VARIABLE = "FMX_DATA_ROOT"
ROOT = "${data.root}"


def without_root(config: Mapping[str, Any]) -> dict[str, Any]:
    """A plain configuration without data.root; what lies below it is written from there on."""
    data = config.get("data")
    root = data.get("root") if isinstance(data, Mapping) else None
    if not isinstance(root, str) or not root:
        return dict(config)
    moved: dict[str, Any] = _rooted(config, root, ROOT)
    return {**moved, "data": {key: node for key, node in moved["data"].items() if key != "root"}}


def at_root(data: Any, root: str) -> Any:
    """A plain `data` node with its root, and what lies below it, somewhere else."""
    then = data.get("root") if isinstance(data, Mapping) else None
    return {**_rooted(data, then, root), "root": root} if isinstance(then, str) and then else data


def told_root(override: str) -> str:
    """The folder that `data.root=DIR` names; ConfigError for any other override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import OverrideParseException

    try:
        parsed = OverridesParser.create().parse_override(override)
        value = None if parsed.is_sweep_override() or parsed.type != OverrideType.CHANGE else parsed.value()
    except OverrideParseException:
        value = None
    if not override.startswith(f"{KEY}=") or not value or isinstance(value, dict | list):
        raise ConfigError(f"{override!r}: only {KEY}=DIR can be changed here, to the folder where the data lies now")
    return str(value)


def present_root(data: Any, written: object, started_in: object) -> str | None:
    """Where the files of a plain `data` node are by now; None where they are where it says, or nobody knows.

    written: data.root before it was resolved. started_in: the folder that a relative root was relative to. The variable
    counts first where the run had its root from there, and where the files have gone from the place that was typed.
    """
    root = data.get("root") if isinstance(data, Mapping) else None
    if not isinstance(root, str) or not root:
        return None
    told = os.environ.get(VARIABLE) or None
    there = str(Path(str(started_in), root)) if isinstance(started_in, str) and not Path(root).is_absolute() else None
    from_variable = isinstance(written, str) and VARIABLE in written
    candidates = [told, there, root] if from_variable else [there, root, told]
    found = (each for each in candidates if each is not None and _holds(data, root, each))
    present = next(found, None)
    return None if present is None or Path(present).absolute() == Path(root).absolute() else present


def _holds(data: Mapping[str, Any], then: str, now: str) -> bool:
    """Whether there is anything at one of the places below a root that a `data` node names."""
    below = [text for text in _texts(data) if text.startswith(f"{then}/")]
    return any(Path(now + text.removeprefix(then)).exists() for text in below) if below else Path(now).is_dir()


def _texts(node: Any) -> list[str]:
    if isinstance(node, Mapping | list):
        return [text for child in (node.values() if isinstance(node, Mapping) else node) for text in _texts(child)]
    return [node] if isinstance(node, str) else []


def _rooted(node: Any, then: str, now: str, key: str = "") -> Any:
    """A node whose root, and the places in it, are named anew; a class may have the same name."""
    if isinstance(node, Mapping):
        return {name: _rooted(child, then, now, str(name)) for name, child in node.items()}
    if isinstance(node, list):
        return [_rooted(child, then, now) for child in node]
    below = isinstance(node, str) and (node.startswith(f"{then}/") or (node == then and key in {"root", "folder"}))
    return now + node.removeprefix(then) if below else node
