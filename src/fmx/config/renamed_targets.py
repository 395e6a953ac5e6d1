"""Old and present names of `_target_`s, and later keys, so that configurations of earlier runs stay readable."""

from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, open_dict

__all__ = [
    "LATER_ROOT_KEYS",
    "later_keys",
    "present_name",
    "with_first_names",
    "with_later_keys",
    "with_later_root_keys",
    "with_present_names",
]

# Old name: present name, of a module with all its contents or of one object; the longest match counts.
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
# Present name: the target that it replaced. Runs of the old target are resumed with the present one, which therefore
# reads the old one's state from checkpoints.
FIRST_NAMES = {"fmx.training.callbacks.ema.EMA": "pytorch_lightning.callbacks.EMAWeightAveraging"}
BACK = {new: old for old, new in MOVED.items()}
# Keys of `data` that earlier versions lacked, with the values that mean what these did.
LATER_KEYS = {"folds": None, "fold": None, "sampler": "uniform", "value_range": "auto", "val": None}
# Root keys that earlier versions lacked, likewise.
LATER_ROOT_KEYS: Mapping[str, Any] = {
    "classifier": {"_target_": "fmx.training.classifier.Classifier"},
    "extend": None,
    "init": None,
    "init_strict": False,
}
# Likewise keys of `optim` and `trainer`; fmx takes their absence for null and false.
LATER_OPTIM_KEYS = {"groups": None, "no_decay": None, "layer_decay": None}
LATER_TRAINER_KEYS = {"compile": False}
DATA_MODULE = "fmx.data.module.ImageDataModule"


def present_name(target: str) -> str:
    """The present name of a target."""
    return _replaced(target, MOVED)


def later_keys(target: object) -> Mapping[str, Any]:
    """The keys of a target, by its present name, that earlier versions lacked, and what these did by them."""
    return LATER_KEYS if target == DATA_MODULE else {}


def with_later_keys(config: DictConfig) -> DictConfig:
    """A composed configuration with the root keys that it lacks, as one whose main file is a user's own may."""
    if all(key in config for key in LATER_ROOT_KEYS):
        return config
    completed = config.copy()
    with open_dict(completed):
        for key, value in LATER_ROOT_KEYS.items():
            if key not in completed:
                completed[key] = value
    return completed


def with_later_root_keys(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A plain configuration with the root keys that it lacks, likewise."""
    return {**LATER_ROOT_KEYS, **plain}


def with_present_names(node: Any) -> Any:
    """A plain configuration with every target renamed to its present name, and the later keys that it lacks."""
    renamed = _with_names(node, present_name)
    data = renamed.get("data") if isinstance(renamed, dict) else None
    if isinstance(data, dict):
        later = later_keys(data.get("_target_"))
        renamed["data"] = {**data, **{key: value for key, value in later.items() if key not in data}}
        renamed |= {key: value for key, value in LATER_ROOT_KEYS.items() if key not in renamed}
    return renamed


def with_first_names(node: Any) -> Any:
    """A plain configuration with the first names of all targets, so that runs of all versions compare equal.

    Later keys are left out where they mean what earlier versions did.
    """
    renamed = _with_names(node, lambda target: FIRST_NAMES.get(target) or _replaced(target, BACK))
    for group, later in (("data", LATER_KEYS), ("optim", LATER_OPTIM_KEYS), ("trainer", LATER_TRAINER_KEYS)):
        if isinstance(renamed, dict) and isinstance(values := renamed.get(group), dict):
            renamed[group] = {k: v for k, v in values.items() if k not in later or v != later[k]}
    if isinstance(renamed, dict) and "data" in renamed:
        renamed = {k: v for k, v in renamed.items() if k not in LATER_ROOT_KEYS or v != LATER_ROOT_KEYS[k]}
    return renamed


def _replaced(target: str, names: Mapping[str, str]) -> str:
    """A dotted name with its longest prefix in `names` replaced."""
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
