"""Rules for the values of well-known keys, checked without heavy imports."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from fmx.config.image_size import EXPECTED, is_image_size
from fmx.errors import ConfigError

__all__ = ["Rule", "above", "check_values", "is_number_list", "is_own", "one_of", "whole"]


SHARDING = ("fsdp", "deepspeed", "modelparallel")  # strategies, in lower case


class Rule:
    """A predicate for a value, and its description in error messages."""

    def __init__(self, expected: str, holds: Callable[[Any], bool]) -> None:
        self.expected = expected
        self.holds = holds


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(at_least: int, at_most: float = math.inf, *, or_none: bool = False) -> Rule:
    """A whole number from `at_least` to `at_most`."""
    reach = f"of at least {at_least}" if math.isinf(at_most) else f"from {at_least} to {at_most}"
    return Rule(
        f"a whole number {reach}{' or null' if or_none else ''}",
        lambda value: (
            (or_none and value is None)
            or (isinstance(value, int) and not isinstance(value, bool) and at_least <= value <= at_most)
        ),
    )


def above(bound: float, *, or_none: bool = False) -> Rule:
    """A number greater than `bound`."""
    return Rule(
        f"a number greater than {bound:g}{' or null' if or_none else ''}",
        lambda value: (or_none and value is None) or (_is_number(value) and value > bound),
    )


def between(low: float, high: float, *, below: bool = False) -> Rule:
    """A number from `low` to `high`, the upper end left out if `below`."""
    return Rule(
        f"a number from {low:g} to {'below ' if below else ''}{high:g}"
        if math.isfinite(high)
        else f"a number of at least {low:g}",
        lambda value: _is_number(value) and low <= value and (value < high if below else value <= high),
    )


def one_of(*choices: Any) -> Rule:
    """One of the given values."""
    return Rule(
        f"one of {', '.join(choice if isinstance(choice, str) else json.dumps(choice) for choice in choices)}",
        lambda value: any(value == c and type(value) is type(c) for c in choices),
    )


def _validation(value: Any) -> bool:
    if isinstance(value, str):
        return value in {"test", "none"}
    return whole(1).holds(value) or (isinstance(value, float) and 0 < value < 1)


def _copies_network(strategy: Any) -> bool:
    """Whether each process of a strategy, a name or a node, holds the whole network."""
    name = str(strategy.get("_target_", "")) if isinstance(strategy, Mapping) else str(strategy)
    return not any(each in name.lower().replace("_", "") for each in SHARDING)


def _step_limit(value: Any) -> bool:
    return whole(1).holds(value) or (type(value) is int and value == -1)


def _share_or_count(value: Any) -> bool:
    return whole(1).holds(value) or (isinstance(value, float) and 0 < value <= 1)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_number_list(value: Any) -> bool:
    """Whether a value is a list of at least one finite number."""
    return isinstance(value, list) and len(value) > 0 and all(map(_is_number, value))


def _normalize(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str) and value in {"dataset", "unit"}
    return len(value) == 2 and all(_is_number(each) or is_number_list(each) for each in value)  # noqa: PLR2004


def _source(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and "_target_" in value)


def _value_range(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str) and value == "auto"
    return len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]  # noqa: PLR2004


def _names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _class_weights(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(_is_number(weight) and weight >= 0 for weight in value) and any(value)
    )


def _groups(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(group, dict) for group in value.values())


def _patterns(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return bool(listed) and all(isinstance(pattern, str) and pattern for pattern in listed)


def _check_groups(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """ConfigError for a group of parameters that lacks something, or whose rate is no rate."""
    for name, group in groups.items():
        key = f"optim.groups.{name}"
        if not _patterns(group.get("params")):
            raise ConfigError(
                f"{key}.params must be a pattern, or a list of them, for names of parameters or layers, as in "
                f"features.* or head, got {group.get('params')!r}"
            )
        if not group.keys() - {"params"}:
            raise ConfigError(f"{key} would be without effect: give it an lr_factor, or an option of the optimizer")
        if {"lr", "lr_factor"} <= group.keys():
            raise ConfigError(f"{key} has both lr and lr_factor: leave one of them out")
        for option, rule in (("lr", above(0)), ("lr_factor", above(0))):
            if option in group and not rule.holds(group[option]):
                raise ConfigError(f"{key}.{option} must be {rule.expected}, got {group[option]!r}")


def _devices(value: Any) -> bool:
    return (
        value == "auto" or whole(1).holds(value) or (isinstance(value, list) and all(whole(0).holds(v) for v in value))
    )


LENGTH = whole(1, or_none=True)
FLAG = one_of(True, False)  # noqa: FBT003
SHARE_OR_COUNT = Rule("a share of the batches (0 < share <= 1, with a decimal point) or a count", _share_or_count)
RULES: Mapping[str, Rule] = {
    "seed": whole(0, 2**32 - 1),  # NumPy takes no larger one
    "select": one_of("best", "last"),
    "resume": Rule("null, auto or a run directory", lambda value: value is None or isinstance(value, str)),
    "extend": Rule("null or the directory of a finished run", lambda value: value is None or _is_path(value)),
    "init": Rule("null, a run directory or a file of weights", lambda value: value is None or _is_path(value)),
    "init_strict": FLAG,
    "sweep.keep_checkpoints": whole(0, or_none=True),
    "memory_format": one_of("channels_last", "contiguous"),
    "data.root": Rule(
        "a folder, in quotes where YAML takes it for a number (data.root=DIR or FMX_DATA_ROOT=DIR, unset if empty)",
        lambda value: isinstance(value, str) and bool(value.strip()),
    ),
    "data.batch_size": whole(1),
    "data.eval_batch_size": whole(1),
    "data.num_workers": whole(0),
    "data.split_seed": whole(0),
    "data.folds": Rule(
        "a whole number of at least 2, or null (data.validation holds out images once)", whole(2, or_none=True).holds
    ),
    "data.fold": whole(0, or_none=True),
    "data.num_classes": whole(2),
    "data.class_names": Rule(
        "a language, or a list of texts: in quotes where YAML takes them for something else", _names
    ),
    "data.in_channels": whole(1),
    "data.image_size": Rule(EXPECTED, is_image_size),
    "data.resize": one_of("stretch", "pad", "crop"),
    "data.shuffle": FLAG,
    "data.sampler": Rule(
        "uniform, balanced, or a list of numbers of at least 0, one per class and not all 0",
        lambda value: value in ("uniform", "balanced") or (isinstance(value, list) and _class_weights(value)),
    ),
    "data.drop_last": FLAG,
    "data.split": one_of("stratified", "tail"),
    "data.validation": Rule("a count of images, a fraction between 0 and 1, 'test' or 'none'", _validation),
    "data.normalize": Rule("dataset, unit or [mean, std]: numbers, or lists of one per channel", _normalize),
    "data.val": Rule("null, or a source of validation images like data.train: a mapping with a _target_", _source),
    "data.value_range": Rule("auto or [low, high], the values of black and white", _value_range),
    "model.name": Rule("a text", lambda value: isinstance(value, str) and bool(value)),
    "optim.lr": above(0),
    "optim.weight_decay": between(0, math.inf),
    "optim.momentum": between(0, 1, below=True),
    "optim.groups": Rule(
        "null, or groups by a name of yours, each with params (a pattern or a list of them: names of parameters or "
        "layers, * ? [ab] as of file names) and with lr_factor or an option of the optimizer, as in "
        "{head: {params: head.*, lr_factor: 10}}",
        lambda value: value is None or _groups(value),
    ),
    "optim.no_decay": Rule(
        "null or norm_and_bias (other parameters: optim.groups, with weight_decay: 0)",
        lambda value: value is None or value == "norm_and_bias",
    ),
    "optim.layer_decay": Rule(
        "null, or a number greater than 0 and at most 1: the rate of a layer divided by that of the one after it",
        lambda value: value is None or (_is_number(value) and 0 < value <= 1),
    ),
    "schedule.interval": one_of("step", "epoch"),
    "schedule.warmup_epochs": between(0, math.inf),
    "schedule.warmup_steps": whole(0),
    "schedule.scheduler.T_max": LENGTH,
    "schedule.scheduler.total_steps": LENGTH,
    "schedule.scheduler.total_iters": whole(0, or_none=True),
    "schedule.scheduler.step_size": whole(1),
    "schedule.scheduler.eta_min": between(0, math.inf),
    "schedule.scheduler.pct_start": between(0, 1, below=True),
    "loss.weight": Rule(
        "a list of numbers of at least 0, one per class and not all 0, balanced, or null",
        lambda value: value == "balanced" or _class_weights(value),
    ),
    "loss.label_smoothing": between(0, 1, below=True),
    "trainer.max_epochs": whole(1),
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": Rule("a count, a list of indices or 'auto'", _devices),
    "trainer.num_nodes": whole(1),
    "trainer.precision": one_of("auto", "32-true", "bf16-mixed", "16-mixed"),
    "trainer.strategy": Rule(
        "auto, ddp or a kind of it (a network that one device holds needs no sharding, and what fmx writes are whole "
        "networks)",
        _copies_network,
    ),
    "trainer.deterministic": one_of(True, False, "warn"),  # noqa: FBT003
    "trainer.check_val_every_n_epoch": whole(1, or_none=True),
    "trainer.val_check_interval": SHARE_OR_COUNT,
    "trainer.limit_train_batches": SHARE_OR_COUNT,
    "trainer.limit_val_batches": SHARE_OR_COUNT,
    "trainer.limit_test_batches": SHARE_OR_COUNT,
    "trainer.gradient_clip_val": above(0, or_none=True),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.checkpoint_every_s": above(0),
    "trainer.compile": one_of(True, False),  # noqa: FBT003
    "trainer.log_every_n_steps": whole(0, or_none=True),
    "callbacks.last.every_s": above(0),
    "callbacks.lean_steps.at_most_s": between(0, math.inf),
    "callbacks.early_stopping.patience": whole(0),
    "callbacks.swa.start": between(0, 1, below=True),
    "callbacks.swa.lr_factor": above(0),
    "callbacks.unfreeze.epoch": whole(2, or_none=True),
    "callbacks.unfreeze.params": Rule(
        "null (all but the last layer), or a pattern or a list of them, as in optim.groups",
        lambda value: value is None or _patterns(value),
    ),
    "callbacks.unfreeze.lr_factor": above(0),
    "callbacks.ema.decay": between(0, 1),
    "callbacks.ema.update_every_n_steps": whole(1),
    "trainer.max_steps": Rule("a whole number of at least 1, or -1 for max_epochs alone", _step_limit),
    "logger.tensorboard.default_hp_metric": Rule(
        "false (the HParams tab shows the metrics of the run, never Lightning's placeholder)",
        lambda value: value is False,
    ),
    # Lightning's own quick modes skip the run directory, or the loaders.
    "trainer.use_distributed_sampler": Rule(
        "false (the loaders divide the images among processes themselves)", lambda value: value is False
    ),
    "trainer.fast_dev_run": Rule("false (trainer=smoke is the quick look)", lambda value: value is False),
    "trainer.overfit_batches": Rule(
        "0 (trainer.limit_train_batches=N data.shuffle=false augment=none trains on the same N batches)",
        lambda value: _is_number(value) and value == 0,
    ),
}


OF_KNOWN_PARTS = ("fmx.", "torch.", "torchvision.", "pytorch_lightning.")
OF_FMX_ALONE = {"optim.groups", "optim.no_decay", "optim.layer_decay"}  # their targets never see them


def is_own(node: object) -> bool:
    """Whether a node's target is a part of the user's own, whose keys mean what it says."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    return target is not None and not str(target).startswith(OF_KNOWN_PARTS)


def check_values(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first well-known key whose value is of the wrong type or out of range.

    A key of a part of the user's own is none, whatever its name; but `data` and `trainer` always make the same kinds.
    """
    for key, rule in RULES.items():
        node: Any = config
        own = False
        for part in key.split("."):
            own = own or (is_own(node) and not key.startswith(("data.", "trainer.")))
            node = node.get(part, rule) if isinstance(node, Mapping) else rule
        if node is rule or (own and key not in OF_FMX_ALONE):  # a custom optimizer may have no momentum
            continue
        if not rule.holds(node):
            raise ConfigError(f"{key} must be {rule.expected}, got {'null' if node is None else repr(node)}")
    _check_groups(config.get("optim", {}).get("groups") or {})  # `fmx data` has no optimizer
    num_classes = config["data"]["num_classes"]
    for group, key in (("loss", "weight"), ("data", "sampler")):
        weights = None if group == "loss" and is_own(config[group]) else config[group].get(key)
        if isinstance(weights, list) and len(weights) != num_classes:
            raise ConfigError(
                f"{group}.{key} must have one number for each of the {num_classes} classes, got {len(weights)}"
            )
