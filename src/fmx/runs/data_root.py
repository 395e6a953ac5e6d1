"""data.root, the folder of a run's data: it may change, and is not part of the run's identity."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmx.errors import ConfigError

__all__ = ["KEY", "VARIABLE", "at_root", "parse_root", "present_root", "without_root"]

KEY = "data.root"
VARIABLE = "FMX_DATA_ROOT"
ROOT = "${data.root}"


def without_root(config: Mapping[str, Any]) -> dict[str, Any]:
    """A plain configuration without data.root; paths below it begin with `${data.root}`."""
    data = config.get("data")
    root = data.get("root") if isinstance(data, Mapping) else None
    if not isinstance(root, str) or not root:
        return dict(config)
    moved: dict[str, Any] = _move_root(config, root, ROOT)
    return {**moved, "data": {key: node for key, node in moved["data"].items() if key != "root"}}


def at_root(data: Any, root: str) -> Any:
    """A plain `data` node whose root, and the paths below it, are moved to `root`."""
    old = data.get("root") if isinstance(data, Mapping) else None
    return {**_move_root(data, old, root), "root": root} if isinstance(old, str) and old else data


def parse_root(override: str) -> str:
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
    """The folder where the files of a plain `data` node are now; None where it is the recorded one, or unknown.

    written: data.root before it was resolved. started_in: the folder that a relative root was relative to.
    FMX_DATA_ROOT is tried first where the run took its root from it, otherwise last.
    """
    root = data.get("root") if isinstance(data, Mapping) else None
    if not isinstance(root, str) or not root:
        return None
    from_environment = os.environ.get(VARIABLE) or None
    from_start = (
        str(Path(str(started_in), root)) if isinstance(started_in, str) and not Path(root).is_absolute() else None
    )
    from_variable = isinstance(written, str) and VARIABLE in written
    candidates = [from_environment, from_start, root] if from_variable else [from_start, root, from_environment]
    found = (each for each in candidates if each is not None and _has_data(data, root, each))
    present = next(found, None)
    return None if present is None or Path(present).absolute() == Path(root).absolute() else present


def _has_data(data: Mapping[str, Any], old: str, new: str) -> bool:
    """Whether any of the paths below a root that a `data` node names exists below `new`."""
    below = [text for text in [*_texts(data), *_named_files(data, old)] if text.startswith(f"{old}/")]
    return any(Path(new + text.removeprefix(old)).exists() for text in below) if below else Path(new).is_dir()


def _named_files(data: Mapping[str, Any], root: str) -> list[str]:
    """The paths of files that sources look for below the root: relative values of file, test_file and so on."""
    sources = [node for node in data.values() if isinstance(node, Mapping) and node.get("root") == root]
    named = [value for node in sources for key, value in node.items() if key.endswith("file")]
    return [f"{root}/{value}" for value in named if isinstance(value, str) and not Path(value).is_absolute()]


def _texts(node: Any) -> list[str]:
    if isinstance(node, Mapping | list):
        return [text for child in (node.values() if isinstance(node, Mapping) else node) for text in _texts(child)]
    return [node] if isinstance(node, str) else []


def _move_root(node: Any, old: str, new: str, key: str = "") -> Any:
    """A node in which the root and the paths below it are moved; a class of the same name stays."""
    if isinstance(node, Mapping):
        return {name: _move_root(child, old, new, str(name)) for name, child in node.items()}
    if isinstance(node, list):
        return [_move_root(child, old, new) for child in node]
    below = isinstance(node, str) and (node.startswith(f"{old}/") or (node == old and key in {"root", "folder"}))
    return new + node.removeprefix(old) if below else node
