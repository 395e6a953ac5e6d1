"""Check `_target_`s: they can be imported, take the given keys, and fit this machine."""

import importlib
import inspect
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from fmx.config.renamed_targets import present_name
from fmx.config.suggest import nearest
from fmx.errors import ConfigError

__all__ = ["check_accelerator", "check_keys", "check_targets", "keys_of_fmx", "locate", "target_nodes"]

HYDRA_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}
# Arguments that training.build passes; the YAML must have every other required parameter.
FROM_BUILD = {
    "classifier": {"net", "loss", "optimizer", "groups", "schedule", "metrics"},
    "data": {"augment", "seed"},
}
# Keys that fmx reads, itself or by interpolation, and removes before it calls the target.
OF_FMX = {
    "trainer": {"checkpoint_every_s", "compile"},
    "augment": {"per_image", "mix"},
    "optim": {"groups", "no_decay", "layer_decay"},
}
# Likewise keys of `data`, by the target of data.train, whose node refers to them.
OF_SOURCES = {
    "fmx.data.folder.ImageFolder": {"resize"},
    "fmx.data.npz.load_npz": {"file", "test_file"},
    "fmx.data.parquet.load_parquet": {"train_file", "test_file", "resize"},
    "fmx.data.pixel_table.load_pixel_table": {"train_file", "test_file", "label", "drop"},
    "fmx.data.torchvision_sets.load_torchvision": {"dataset", "options", "resize"},
}
GIVEN_LATER = {"params", "optimizer"}  # arguments that a partial gets later
MANY = 20  # parameters that a message lists
SCALARS = (int, float, bool, str)


def locate(path: str, key: str) -> Callable[..., Any]:
    """The callable that a dotted path names; ConfigError with the nearest name where there is none."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks a server for the newest version
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{key}: _target_ must be a dotted path like torch.optim.Adam, got {path!r}")
    if (now := present_name(path)) != path:
        raise ConfigError(f"{key}: _target_ {path!r} is now {now!r}")
    found: Any = None
    for length in range(len(parts)):
        module = ".".join(parts[: length + 1])
        if length and hasattr(found, parts[length]):
            found = getattr(found, parts[length])
            continue
        try:
            found = importlib.import_module(module)
        except Exception as error:  # importing a module may raise anything
            head = f"{'.'.join(parts[:length]) or 'PYTHONPATH'} has no {parts[length]!r}"
            near = nearest(parts[length], dir(found)) if length else _is_it_on_path(parts[0])
            if not isinstance(error, ModuleNotFoundError) or error.name not in {module, ".".join(parts[:length])}:
                head, near = f"importing {module} raised {type(error).__name__}: {error}", ""
            raise ConfigError(f"{key}: cannot import _target_ {path!r}: {head}{near}") from error
    if not callable(found):
        raise ConfigError(f"{key}: _target_ {path!r} is {type(found).__name__}, not a class or a function")
    return typing.cast("Callable[..., Any]", found)


def _is_it_on_path(package: str) -> str:
    """What to type for a package that cannot be found."""
    if Path(f"{package}.py").is_file() or Path(package).is_dir():
        return "; it is in this folder: type PYTHONPATH=. before the command"
    return "; is the folder that holds it on PYTHONPATH? PYTHONPATH=FOLDER before the command puts it there"


def check_keys(config: Mapping[str, Any]) -> None:
    """ConfigError for a target that cannot be imported or does not take a given key."""
    for key, node in target_nodes(config, ""):
        _known_keys(_parameters(node, key), key, node)


def check_targets(config: Mapping[str, Any]) -> None:
    """ConfigError for a target that cannot be imported, or whose signature does not fit the given keys and values."""
    for key, node in target_nodes(config, ""):
        parameters = _parameters(node, key)
        _known_keys(parameters, key, node)
        _bind(parameters, key, node)


def target_nodes(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a `_target_` below a node, with its dotted key, outer ones first."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        items: Any = node.items()
    else:
        items = enumerate(node) if isinstance(node, list) else ()
    for name, child in items:
        yield from target_nodes(child, f"{key}.{name}" if key else str(name))


Parameters = Mapping[str, inspect.Parameter]


def _parameters(node: Mapping[str, Any], key: str) -> Parameters:
    """The parameters of a node's target; `**kwargs` for built-in callables without a signature."""
    target = locate(str(node["_target_"]), key)
    try:
        with suppress(Exception):  # an annotation may name what only type checkers import
            return inspect.signature(target, eval_str=True).parameters
        return inspect.signature(target).parameters
    except ValueError:
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


def _known_keys(parameters: Parameters, key: str, node: Mapping[str, Any]) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in node:
        if name not in parameters and name not in HYDRA_KEYS | keys_of_fmx(key, node):
            takes = f" It takes: {', '.join(parameters)}" if len(parameters) <= MANY else ""
            raise ConfigError(f"{key}.{name}: {node['_target_']} takes no {name!r}{nearest(name, parameters)}{takes}")


def keys_of_fmx(key: str, node: Mapping[str, Any]) -> set[str]:
    """The keys of a node that other nodes refer to, and that its target does not take."""
    source = node.get("train") if key == "data" else None
    named = source.get("_target_") if isinstance(source, Mapping) else None
    return OF_FMX.get(key, set()) | OF_SOURCES.get(str(named), set())


def _bind(parameters: Parameters, key: str, node: Mapping[str, Any]) -> None:
    """ConfigError where a required parameter is missing or a plain value has the wrong type."""
    given = {name: value for name, value in node.items() if name not in HYDRA_KEYS}
    if not node.get("_partial_") and not node.get("_args_"):
        needed = {
            n for n, p in parameters.items() if p.default is p.empty and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}
        }
        missing = sorted(needed - given.keys() - FROM_BUILD.get(key, set()))
        if missing:
            later = missing[0] in GIVEN_LATER
            add = f"add `_partial_: true` to {key}, it is given later" if later else f"add {key}.{missing[0]}"
            raise ConfigError(f"{key}: {node['_target_']} also needs {', '.join(missing)}: {add}")
    for name, value in given.items():
        if name in parameters and not (value is None and node.get("_partial_")):  # null: filled in later
            _check_type(f"{key}.{name}", value, parameters[name].annotation)


def _check_type(key: str, value: Any, annotation: Any) -> None:
    """ConfigError where a value does not fit its annotation: scalars, unions, Literal and TypedDict; others pass."""
    if typing.is_typeddict(annotation) and isinstance(value, Mapping):
        _check_dict_keys(key, value, annotation)
        return
    origin, kinds = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        if value not in kinds:
            raise ConfigError(f"{key} must be one of {', '.join(map(str, kinds))}, got {value!r}")
        return
    kinds = kinds if origin in {typing.Union, UnionType} else (annotation,)
    if not all(kind in {*SCALARS, NoneType} for kind in kinds) or isinstance(value, Mapping):
        return
    fits = any(type(value) is kind or (kind is float and type(value) is int) for kind in kinds)
    if not fits:
        expected = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
        squares = key.endswith(".image_size") and isinstance(value, list)
        raise ConfigError(
            f"{key} must be {expected}, got {value!r}{': it takes squares alone, data.image_size=N' if squares else ''}"
        )


def _check_dict_keys(key: str, given: Mapping[str, Any], wanted: Any) -> None:
    """ConfigError for an unknown or missing key of a TypedDict."""
    known = wanted.__annotations__
    for name in given:
        if name not in known:
            raise ConfigError(f"{key} has no key {name!r}{nearest(name, known)} Keys: {', '.join(known)}")
    for name in known:
        if name in wanted.__required_keys__ and name not in given:
            raise ConfigError(f"{key} lacks {name!r}: add {key}.{name}")


def check_accelerator(trainer: Mapping[str, Any]) -> None:
    """ConfigError for an accelerator that this machine lacks."""
    import torch

    accelerator = trainer.get("accelerator")
    available = {
        "gpu": torch.cuda.is_available() or torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(str(accelerator), True):
        raise ConfigError(
            f"trainer.accelerator={accelerator}: torch sees no such device on this machine; "
            "use trainer=cpu, or trainer=default"
        )
