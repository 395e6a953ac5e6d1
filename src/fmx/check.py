"""The configuration's checks, made before a run directory exists and before any data is loaded."""

import json
import math
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from fmx.claim import claim
from fmx.errors import ConfigError
from fmx.exits import Refusal, expected, interruption
from fmx.hydra_errors import nearest
from fmx.ranks import check_started, is_first_process, num_processes
from fmx.resume import check_same_run

__all__ = ["Check", "check_names", "check_parts", "check_values", "is_number_list"]


class Check(Callback):
    """The Hydra callback that refuses a wrong configuration before Hydra makes the run directory."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check one run's configuration, then hold its run directory, before Hydra writes anything there."""
        _refusing(lambda: check(config, alone=True))
        if is_first_process(num_processes(config.trainer)):
            _refusing(lambda: claim(Path(config.hydra.run.dir)))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Check each job of a sweep, for which Hydra calls nothing earlier."""
        if config.hydra.mode == RunMode.MULTIRUN:
            _refusing(lambda: check(config))


def _refusing(step: Callable[[], None]) -> None:
    try:
        step()
    except Exception as error:
        if (code := interruption(error)) is not None:
            raise SystemExit(code) from error
        plain = expected(error)
        if plain is None:  # a bug of ours, or of somebody's part: Hydra would warn of it, and begin the run unchecked
            traceback.print_exc()
            raise SystemExit(1) from error
        raise Refusal(plain) from error


def check(config: DictConfig, *, alone: bool = False) -> None:
    """Raise ConfigError for the first thing that is wrong in a composed configuration.

    Names and values come first and need no heavy import; then the parts. alone: no part of a sweep, so that its folder
    is asked as well.
    """
    resolved = check_names(config)
    if alone:
        given = any(str(each).startswith("hydra.run.dir=") for each in config.hydra.overrides.hydra)
        check_started(resolved["trainer"], names_folder=given or resolved["resume"] not in {None, "auto"})
        if is_first_process(num_processes(resolved["trainer"])):
            check_same_run(resolved, Path(config.hydra.run.dir), resolved["resume"])
    check_parts(config, resolved)


def check_names(config: DictConfig) -> dict[str, Any]:
    """Check keys and values, and return the configuration, resolved, as plain values."""
    ours = _without_hydra(config)
    plain: Any = OmegaConf.to_container(ours, resolve=False)
    _check_root(plain)
    _check_metrics(plain["metrics"])
    _check_model_keys(plain["model"])
    try:
        resolved: Any = OmegaConf.to_container(ours, resolve=True)
    except InterpolationKeyError:
        from fmx.targets import check_keys

        check_keys(plain)  # a mistyped key is the likely reason why an interpolation leads nowhere
        raise
    check_values(resolved)
    for key, instead in NOT_THE_TRAINERS.items():
        if key in resolved["trainer"]:
            raise ConfigError(f"trainer.{key} would be without effect: {instead}")
    _check_validations(resolved["trainer"], resolved["data"], resolved["schedule"])
    _check_clipping(resolved["trainer"], resolved["optim"])
    return dict(resolved)


def _check_validations(trainer: Mapping[str, Any], data: Mapping[str, Any], schedule: Mapping[str, Any]) -> None:
    """Whether there will be a validation to choose a checkpoint by, and one for a schedule that looks at it."""
    every, epochs = trainer.get("check_val_every_n_epoch"), trainer.get("max_epochs")
    scheduler = schedule.get("scheduler")
    if isinstance(scheduler, dict) and str(scheduler.get("_target_")).endswith(".ReduceLROnPlateau"):
        if scheduler.get("mode", "min") != "min":
            raise ConfigError("schedule=plateau judges by the validation loss: set schedule.scheduler.mode=min")
        if every is None:
            raise ConfigError(
                "schedule=plateau judges by the validation at the end of an epoch; "
                "trainer.check_val_every_n_epoch=null counts steps instead, so set it to 1"
            )
    if every is not None and epochs is not None and every > epochs and data.get("validation") != "none":
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every} with trainer.max_epochs={epochs} leaves no validation to choose "
            "a checkpoint by; validate more often"
        )


def _check_clipping(trainer: Mapping[str, Any], optim: Mapping[str, Any]) -> None:
    """Whether gradients can be clipped: in 16-mixed they are scaled, and a fused optimizer undoes that by itself."""
    if trainer.get("precision") == "16-mixed" and trainer.get("gradient_clip_val") is not None and optim.get("fused"):
        raise ConfigError(
            "trainer.gradient_clip_val does not go with trainer.precision=16-mixed and a fused optimizer; set "
            "optim.fused=false"
        )


def check_parts(config: DictConfig, resolved: Mapping[str, Any], *, here: bool = True) -> None:
    """Import the targets, bind their signatures, and make what needs no data.

    resolved: what check_names returned. here: it will run on this machine, not on another one, which may have what this
    one lacks.
    """
    from fmx.rehearsal import rehearse
    from fmx.targets import check_accelerator, check_targets

    check_targets(resolved)
    if here:
        check_accelerator(resolved["trainer"])
    rehearse(_without_hydra(config), here=here)


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _check_root(config: Mapping[str, Any]) -> None:
    """The groups and keys that a configuration has, and no others."""
    for key in config:
        if key == "experiment":
            raise ConfigError("an experiment file needs the first line `# @package _global_`")
        if key not in ROOT_KEYS:
            raise ConfigError(
                f"the configuration has no key {key!r}{nearest(key, ROOT_KEYS)} Keys: {', '.join(ROOT_KEYS)} "
                "(values of your own go into vars: +vars.NAME=VALUE)"
            )
    if config.get("run_dir", FOLLOWS_HYDRA) != FOLLOWS_HYDRA:
        raise ConfigError("run_dir follows hydra.run.dir: type hydra.run.dir=DIR (in a sweep, hydra.sweep.dir=DIR)")
    for key in ROOT_KEYS:
        if key not in config and key not in {"sweep", "vars"}:
            raise ConfigError(f"the configuration lacks {key!r}, which no run can do without")
        if key in GROUPS and not isinstance(config[key], dict):
            raise ConfigError(f"{key} must be a mapping, as in conf/{key}/*.yaml, got {config[key]!r}")


def _check_metrics(metrics: Mapping[str, Any]) -> None:
    """What is reported of every run has its names."""
    for name in REPORTED:
        if name not in metrics:
            raise ConfigError(
                f"metrics.{name} is missing: it is reported of every run; metrics of your own stand beside it"
            )
    if "loss" in metrics:
        raise ConfigError("metrics.loss would stand in the place of the loss itself: give that metric another name")


def _check_model_keys(model: Mapping[str, Any]) -> None:
    """Nothing reads other keys, so a mistyped one would be without effect."""
    for key in model:
        if key not in MODEL_KEYS:
            raise ConfigError(f"model has no key {key!r}; what the network takes goes into model.net: model.net.{key}")
    for key in MODEL_KEYS:
        if key not in model:
            raise ConfigError(f"model.{key} is missing; a model has a name, and a net with the network's _target_")
    if not isinstance(model["net"], dict):
        raise ConfigError("model.net must hold the network's _target_ and its arguments")


GROUPS = ["data", "model", "augment", "loss", "optim", "schedule", "metrics", "trainer", "callbacks", "logger"]
ROOT_KEYS = [*GROUPS, "seed", "select", "memory_format", "resume", "run_dir", "sweep", "vars"]
MODEL_KEYS = ["name", "net"]
FOLLOWS_HYDRA = "${run_dir:}"
NOT_THE_TRAINERS = {
    "callbacks": "a run's callbacks are the members of callbacks",
    "logger": "a run's loggers are the members of logger; logger=none has none",
    "plugins": "fmx sets them",
    "default_root_dir": "hydra.run.dir=DIR says where the run is",
    "limit_predict_batches": "trainer.limit_test_batches is for the test",
}
REPORTED = ["accuracy", "macro_f1"]  # metrics of metrics.json, of every leaderboard and of the last line of a run


class Rule:
    """What a value must be: a predicate and the words for it."""

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


def _step_limit(value: Any) -> bool:
    return whole(1).holds(value) or (type(value) is int and value == -1)


def _share_or_count(value: Any) -> bool:
    return whole(1).holds(value) or (isinstance(value, float) and 0 < value <= 1)


def is_number_list(value: Any) -> bool:
    """Whether a value is a list of at least one finite number."""
    return isinstance(value, list) and len(value) > 0 and all(map(_is_number, value))


def _normalize(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str) and value in {"dataset", "unit"}
    return len(value) == 2 and all(_is_number(each) or is_number_list(each) for each in value)  # noqa: PLR2004


def _names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _class_weights(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(_is_number(weight) and weight >= 0 for weight in value))


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
    "sweep.keep_checkpoints": whole(0, or_none=True),
    "memory_format": one_of("channels_last", "contiguous"),
    "data.batch_size": whole(1),
    "data.eval_batch_size": whole(1),
    "data.num_workers": whole(0),
    "data.split_seed": whole(0),
    "data.num_classes": whole(2),
    "data.class_names": Rule(
        "a language, or a list of texts: in quotes where YAML takes them for something else", _names
    ),
    "data.in_channels": whole(1),
    "data.image_size": whole(1),
    "data.shuffle": FLAG,
    "data.drop_last": FLAG,
    "data.split": one_of("stratified", "tail"),
    "data.validation": Rule("a count of images, a fraction between 0 and 1, 'test' or 'none'", _validation),
    "data.normalize": Rule("dataset, unit or [mean, std]: numbers, or lists of one a channel", _normalize),
    "model.name": Rule("a text", lambda value: isinstance(value, str) and bool(value)),
    "optim.lr": above(0),
    "optim.weight_decay": between(0, math.inf),
    "optim.momentum": between(0, 1, below=True),
    "schedule.interval": one_of("step", "epoch"),
    "schedule.warmup_epochs": between(0, math.inf),
    "schedule.warmup_steps": whole(0),
    "schedule.scheduler.T_max": LENGTH,
    "schedule.scheduler.total_steps": LENGTH,
    "schedule.scheduler.total_iters": whole(0, or_none=True),
    "schedule.scheduler.step_size": whole(1),
    "schedule.scheduler.eta_min": between(0, math.inf),
    "schedule.scheduler.pct_start": between(0, 1, below=True),
    "loss.weight": Rule("a list of numbers of at least 0, one a class, or null", _class_weights),
    "loss.label_smoothing": between(0, 1, below=True),
    "trainer.max_epochs": whole(1),
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": Rule("a count, a list of indices or 'auto'", _devices),
    "trainer.num_nodes": whole(1),
    "trainer.precision": one_of("auto", "32-true", "bf16-mixed", "16-mixed"),
    "trainer.deterministic": one_of(True, False, "warn"),  # noqa: FBT003
    "trainer.check_val_every_n_epoch": whole(1, or_none=True),
    "trainer.val_check_interval": SHARE_OR_COUNT,
    "trainer.limit_train_batches": SHARE_OR_COUNT,
    "trainer.limit_val_batches": SHARE_OR_COUNT,
    "trainer.limit_test_batches": SHARE_OR_COUNT,
    "trainer.gradient_clip_val": above(0, or_none=True),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.checkpoint_every_s": above(0),
    "trainer.log_every_n_steps": whole(0, or_none=True),
    "callbacks.last.every_s": above(0),
    "callbacks.lean_steps.at_most_s": between(0, math.inf),
    "callbacks.early_stopping.patience": whole(0),
    "callbacks.ema.update_every_n_steps": whole(1),
    "trainer.max_steps": Rule("a whole number of at least 1, or -1 for max_epochs alone", _step_limit),
    # What Lightning has for quick looks goes without what a run leaves, or past the loaders.
    "trainer.fast_dev_run": Rule("false (trainer=smoke is the quick look)", lambda value: value is False),
    "trainer.overfit_batches": Rule(
        "0 (trainer.limit_train_batches=N data.shuffle=false augment=none trains on the same N batches)",
        lambda value: _is_number(value) and value == 0,
    ),
}


def check_values(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first well-known key whose value is of the wrong type or out of range."""
    for key, rule in RULES.items():
        node: Any = config
        for part in key.split("."):
            node = node.get(part, rule) if isinstance(node, Mapping) else rule
        if node is rule:  # a user's own optimizer need not have a momentum
            continue
        if not rule.holds(node):
            raise ConfigError(f"{key} must be {rule.expected}, got {'null' if node is None else repr(node)}")
    weights, num_classes = config["loss"].get("weight"), config["data"]["num_classes"]
    if isinstance(weights, list) and len(weights) != num_classes:
        raise ConfigError(f"loss.weight must have one number for each of the {num_classes} classes, got {len(weights)}")
