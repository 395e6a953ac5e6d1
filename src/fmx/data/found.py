"""What a source's files say of themselves, so that the model's values are known when a configuration is composed."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict

from fmx.config.suggest import nearest
from fmx.errors import ConfigError, DataError

__all__ = ["Found", "found", "numbered"]

# What describes the files of a target, with the keys of its node that this takes.
DESCRIBED_BY: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "fmx.data.npz.load_npz": ("fmx.data.npz", "describe_npz", ("root", "file", "test_file", "images", "labels")),
    "fmx.data.torchvision_sets.load_torchvision": (
        "fmx.data.torchvision_sets", "describe_torchvision", ("root", "dataset", "options", "split", "mirrors")
    ),
    "fmx.data.parquet.load_parquet": (
        "fmx.data.parquet", "describe_parquet", ("root", "train_file", "test_file", "image", "label")
    ),
    "fmx.data.pixel_table.load_pixel_table": (
        "fmx.data.pixel_table", "describe_pixel_table", ("root", "train_file", "test_file", "label", "drop")
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
    target = source["_target_"]
    if target not in DESCRIBED_BY:
        raise ConfigError(f"{target} cannot tell data.{key} from its files: write data.{key}=… down")
    given = {name: _plain(source[name]) for name in DESCRIBED_BY[target][2]}
    facts: Mapping[str, Any] = _described(target, json.dumps(given), _state(given))
    if key not in facts:
        raise ConfigError(f"nothing finds {key!r} in files{nearest(key, facts)} Keys: {', '.join(facts)}")
    if strange := [name for name in facts["class_names"] if not name.isprintable()]:
        raise DataError(f"the files name a class {strange[0]!r}, which cannot be printed: rename it")
    if isinstance(facts[key], str):
        raise ConfigError(facts[key])
    return facts[key]


@lru_cache(MANY)
def _described(target: str, given: str, state: object) -> Found:  # noqa: ARG001 - part of the key
    """Describe files once for each state that they are in."""
    module, name, _ = DESCRIBED_BY[target]
    describe: Callable[..., Found] = getattr(import_module(module), name)
    return describe(**json.loads(given))


def _state(given: Mapping[str, Any]) -> tuple[tuple[int, int] | None, ...]:
    """Size and time of change of the files that are named."""
    files = [Path(str(given.get("root", ".")), str(value)) for name, value in given.items() if name.endswith("file")]
    return tuple((file.stat().st_size, file.stat().st_mtime_ns) if file.exists() else None for file in files)


def _plain(value: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def numbered(low: float, high: float) -> list[str]:
    """Names for classes that have none: their labels, from 1 if the lowest is 1, else from 0."""
    return [str(label) for label in range(1 if low == 1 else 0, int(high) + 1)]
