"""What a source's files say of themselves, so that the model's values are known when a configuration is composed."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict

from fmx.config.suggest import nearest
from fmx.errors import ConfigError, DataError

__all__ = ["READ_BY", "Found", "found", "found_validation", "numbered"]

# Of a target: the module that reads its files, and the keys of its node that this takes. The module's `describe` gives
# a Found, and its `validation` what the node of the validation images changes; None where the files have none.
READ_BY: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "fmx.data.npz.load_npz": ("fmx.data.npz", ("root", "file", "test_file", "images", "labels")),
    "fmx.data.torchvision_sets.load_torchvision": (
        "fmx.data.torchvision_sets", ("root", "dataset", "options", "split", "mirrors")
    ),
    "fmx.data.parquet.load_parquet": ("fmx.data.parquet", ("root", "train_file", "test_file", "image", "label")),
    "fmx.data.pixel_table.load_pixel_table": (
        "fmx.data.pixel_table", ("root", "train_file", "test_file", "label", "drop")
    ),
}  # fmt: skip
MANY = 16  # descriptions that are kept


class Found(TypedDict):
    """What is found in the files of a data set."""

    class_names: list[str]
    in_channels: int
    image_size: int | list[int] | str  # a text says why it is unknown
    mean: list[float]  # of pixels in 0..1, one for all or one per channel
    std: list[float]


def found(source: Mapping[str, Any], key: str) -> Any:
    """The resolver `${found:${data.train},KEY}`: what the files of a source say, by a key of Found.

    source: the node of data.train. Raises what reading the files raises.
    """
    facts: Mapping[str, Any] = _read("describe", source, f"data.{key}")
    if key not in facts:
        raise ConfigError(f"nothing finds {key!r} in files{nearest(key, facts)} Keys: {', '.join(facts)}")
    if strange := [name for name in facts["class_names"] if not name.isprintable()]:
        raise DataError(f"the files name a class {strange[0]!r}, which cannot be printed: rename it")
    if key == "class_names" and len(facts[key]) == 1:
        files = ", ".join(
            str(source[name]) for name in READ_BY[source["_target_"]][1] if name.endswith("file") and source[name]
        )
        raise DataError(
            f"the labels in {files or 'the files'} name one class alone, {facts[key][0]!r}; a classifier needs two"
        )
    if isinstance(facts[key], str):
        raise ConfigError(facts[key])
    return facts[key]


def found_validation(source: Mapping[str, Any]) -> dict[str, Any] | None:
    """The resolver `${found_validation:${data.train}}`: the node of the files' validation images, if any."""
    changes = _read("validation", source, "data.val")
    return None if changes is None else {**_plain(source), **changes}


def _read(what: str, source: Mapping[str, Any], key: str) -> Any:
    target = source["_target_"]
    if target not in READ_BY:
        raise ConfigError(f"{target} cannot tell {key} from its files: write {key}=… down")
    given = {name: _plain(source[name]) for name in READ_BY[target][1]}
    return _read_once(what, target, json.dumps(given), tuple(_state(given)))


@lru_cache(MANY)
def _read_once(what: str, target: str, given: str, state: object) -> Any:  # noqa: ARG001 - part of the key
    """Read files once for each state that they are in."""
    function: Callable[..., Any] = getattr(import_module(READ_BY[target][0]), what)
    return function(**json.loads(given))


def _state(given: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Size and time of change of the files that are named, and of those in folders that are named."""
    named = [Path(str(given.get("root", ".")), str(value)) for name, value in given.items() if name.endswith("file")]
    inside = [file for folder in named for kind in ("npy", "parquet") for file in folder.glob(f"**/*.{kind}")]
    found = [(str(file), file.stat()) for file in [*named, *inside] if file.exists()]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in found]


def _plain(value: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def numbered(low: float, high: float) -> list[str]:
    """Names for classes that have none: their labels, from 1 if the lowest is 1, else from 0."""
    return [str(label) for label in range(1 if low == 1 else 0, int(high) + 1)]
