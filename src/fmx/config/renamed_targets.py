"""Targets that have another name now than in the configurations of earlier runs."""

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["present_name", "with_first_names", "with_present_names"]

# What runs of 0.1 name, and where it is now: a module with all that is in it, or one of its names. The longest counts.
MOVED = {
    "fmx.augment": "fmx.data.augment",
    "fmx.callbacks": "fmx.training.callbacks",
    "fmx.callbacks.interruption.Interruption": "fmx.training.callbacks.save_on_signal.SaveOnSignal",
    "fmx.callbacks.pruning": "fmx.sweeps.search.pruning",
    "fmx.check": "fmx.commands.hydra_callback",
    "fmx.data.collected.collect": "fmx.data.in_memory.in_memory",
    "fmx.datamodule": "fmx.data.module",
    "fmx.frozen": "fmx.config.frozen",
    "fmx.losses": "fmx.training.losses",
    "fmx.schedule": "fmx.training.schedule",
    "fmx.search": "fmx.sweeps.search",
    "fmx.sweep": "fmx.sweeps",
}
# The present name of a target and the one that it took the place of. A run that was begun under the earlier name is
# gone on with under the present one, so the present one reads the earlier one's state from checkpoints.
FIRST_NAMES = {"fmx.training.callbacks.ema.EMA": "pytorch_lightning.callbacks.EMAWeightAveraging"}
BACK = {new: old for old, new in MOVED.items()}


def present_name(target: str) -> str:
    """The name that a target has now."""
    return _replaced(target, MOVED)


def with_present_names(node: Any) -> Any:
    """A plain node in which every target has the name that it has now."""
    return _with_names(node, present_name)


def with_first_names(node: Any) -> Any:
    """A plain node in which every target has the first name that it had, so that runs of any time can be compared."""
    return _with_names(node, lambda target: FIRST_NAMES.get(target) or _replaced(target, BACK))


def _replaced(target: str, names: Mapping[str, str]) -> str:
    """A dotted name with the longest beginning that `names` knows in its new form."""
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        if (new := names.get(".".join(parts[:length]))) is not None:
            return ".".join([new, *parts[length:]])
    return target


def _with_names(node: Any, name: Callable[[str], str]) -> Any:
    if isinstance(node, Mapping):
        return {
            key: name(child) if key == "_target_" and isinstance(child, str) else _with_names(child, name)
            for key, child in node.items()
        }
    if isinstance(node, list):
        return [_with_names(child, name) for child in node]
    return node
