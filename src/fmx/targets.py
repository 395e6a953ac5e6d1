"""The `_target_`s of a configuration: they exist, take the keys that are given, and fit this machine and each other."""

import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Any

from fmx.errors import ConfigError
from fmx.hydra_errors import nearest

__all__ = ["check_keys", "check_targets", "locate"]

HYDRA_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}
# What build hands to a target itself; any other required parameter must stand in the YAML.
FROM_BUILD = {"data": {"augment", "seed"}}
MANY = 20  # parameters; more are not listed in a message
SCALARS = (int, float, bool, str)


def locate(path: str, key: str) -> Callable[..., Any]:
    """The callable that a dotted path names; ConfigError with the nearest name where there is none."""
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{key}: _target_ must be a dotted path like torch.optim.Adam, got {path!r}")
    found: Any = None
    for length in range(len(parts)):
        try:
            found = (
                getattr(found, parts[length])
                if length and hasattr(found, parts[length])
                else importlib.import_module(".".join(parts[: length + 1]))
            )
        except ImportError as error:
            head = ".".join(parts[:length]) or "Python's path"
            reason = "" if getattr(error, "name", None) == ".".join(parts[: length + 1]) else f" ({error})"
            raise ConfigError(
                f"{key}: cannot import _target_ {path!r}: {head} has no {parts[length]!r}{reason}"
                + (nearest(parts[length], dir(found)) if length else "; is the folder that holds it on PYTHONPATH?")
            ) from None
    if not callable(found):
        raise ConfigError(f"{key}: _target_ {path!r} is {type(found).__name__}, not a class or a function")
    return typing.cast("Callable[..., Any]", found)


def check_keys(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a target that cannot be imported or does not take a key that it is given."""
    for key, node in _target_nodes(config, ""):
        _known_keys(_parameters(node, key), key, node)


def check_targets(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a target that cannot be imported, takes other keys, or does not fit the data or machine."""
    for key, node in _target_nodes(config, ""):
        parameters = _parameters(node, key)
        _known_keys(parameters, key, node)
        _bind(parameters, key, node)
    _check_accelerator(config["trainer"])
    _check_model(config["model"])


def _target_nodes(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a `_target_` below a node, with its dotted key, outer ones first."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        items: Any = node.items()
    else:
        items = enumerate(node) if isinstance(node, list) else ()
    for name, child in items:
        yield from _target_nodes(child, f"{key}.{name}" if key else str(name))


Parameters = Mapping[str, inspect.Parameter]


def _parameters(node: Mapping[str, Any], key: str) -> Parameters:
    """The parameters of a node's target; none where a built-in callable does not tell them."""
    target = locate(str(node["_target_"]), key)
    try:
        return inspect.signature(target).parameters
    except ValueError:
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


def _known_keys(parameters: Parameters, key: str, node: Mapping[str, Any]) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in node:
        if name not in parameters and name not in HYDRA_KEYS:
            takes = f" It takes: {', '.join(parameters)}" if len(parameters) <= MANY else ""
            raise ConfigError(f"{key}.{name}: {node['_target_']} takes no {name!r}{nearest(name, parameters)}{takes}")


def _bind(parameters: Parameters, key: str, node: Mapping[str, Any]) -> None:
    """Required parameters are there, and plain values are of the annotated type."""
    given = {name: value for name, value in node.items() if name not in HYDRA_KEYS}
    if not node.get("_partial_") and not node.get("_args_"):
        needed = {
            n for n, p in parameters.items() if p.default is p.empty and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}
        }
        missing = sorted(needed - given.keys() - FROM_BUILD.get(key, set()))
        if missing:
            raise ConfigError(f"{key}: {node['_target_']} also needs {', '.join(missing)}: add {key}.{missing[0]}")
    for name, value in given.items():
        if name in parameters:
            _check_type(f"{key}.{name}", value, parameters[name].annotation)


def _check_type(key: str, value: Any, annotation: Any) -> None:
    """Compare a plain value with a plain annotation (int, float, bool, str, or a union of them); leave the rest alone."""
    kinds = typing.get_args(annotation) if typing.get_origin(annotation) in {typing.Union, UnionType} else (annotation,)
    if not kinds or not all(kind in {*SCALARS, NoneType} for kind in kinds) or isinstance(value, Mapping):
        return
    fits = any(type(value) is kind or (kind is float and type(value) is int) for kind in kinds)
    if not fits:
        expected = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
        raise ConfigError(f"{key} must be {expected}, got {value!r}")


def _check_accelerator(trainer: Mapping[str, Any]) -> None:
    import torch

    if trainer.get("accelerator") in {"gpu", "cuda"} and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.accelerator={trainer['accelerator']}: torch sees no GPU on this machine; use trainer=cpu, or trainer=default"
        )


def _check_model(model: Mapping[str, Any]) -> None:
    """Build the network without memory for its weights, so that a size that cannot work shows before data is loaded."""
    from fmx.build import meta_network

    if not isinstance(model.get("net"), Mapping):
        raise ConfigError("model.net must hold the network's _target_ and its arguments")
    try:
        meta_network(model["net"])
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model={model.get('name')}: {error}") from error
