"""Check a configuration before its run directory exists and before any data is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from fmx.config.augment_members import check_augment
from fmx.config.conf_dir import CONF_DIR
from fmx.config.from_environment import resolved_and_stored
from fmx.config.hydra_errors import likely_keys
from fmx.config.hydra_values import hydra_values
from fmx.config.layout import GROUPS, MODEL_KEYS, REPORTED, ROOT_KEYS
from fmx.config.quoting import as_typed, escape_interpolations
from fmx.config.renamed_targets import LATER_ROOT_KEYS
from fmx.config.rules import check_values, is_own
from fmx.config.validation import FOLD, OWN, validation_of
from fmx.errors import ConfigError

__all__ = ["Checked", "check_config"]


class Checked(NamedTuple):
    """A configuration without its hydra node as plain values."""

    written: dict[str, Any]  # with its interpolations
    resolved: dict[str, Any]
    stored: dict[str, Any]  # as from_environment.to_stored has them


def check_config(config: DictConfig) -> Checked:
    """Check keys and values; returns the configuration as plain values."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    with hydra_values(config, plain):
        return _checked(config, {key: node for key, node in plain.items() if key != "hydra"})


def _checked(config: DictConfig, plain: dict[str, Any]) -> Checked:
    _check_root(plain)
    _check_metrics(plain["metrics"])
    check_augment(plain["augment"], config)
    _check_model_keys(plain["model"])
    try:
        resolved, stored = resolved_and_stored(config, plain)
    except InterpolationKeyError:
        from fmx.config.targets import check_keys

        check_keys(plain)  # a mistyped key is the likely cause of an interpolation without a target
        raise
    check_values(resolved)
    _check_model_name(config, resolved)
    for key, instead in NOT_TRAINER_KEYS.items():
        if key in resolved["trainer"]:
            raise ConfigError(f"trainer.{key} would be without effect: {instead}")
    _check_ineffective(resolved, as_typed(config.hydra.overrides.task) if "hydra" in config else [])
    _check_validations(resolved["trainer"], resolved["data"], resolved["schedule"])
    _check_clipping(resolved["trainer"], resolved["optim"])
    return Checked(plain, resolved, stored)


def _check_model_name(config: DictConfig, resolved: Mapping[str, Any]) -> None:
    """ConfigError where model.name=X on the command line is the name of a model that was not chosen."""
    if "hydra" not in config or resolved["resume"] is not None:
        return
    name, chosen = resolved["model"]["name"], config.hydra.runtime.choices.get("model")
    typed = any(text.lstrip("+").startswith("model.name=") for text in as_typed(config.hydra.overrides.task))
    if typed and name != chosen and (CONF_DIR / "model" / f"{name}.yaml").is_file():
        raise ConfigError(f"model.name={name} would only give {chosen} another name: model={name} chooses {name}")


def _check_ineffective(resolved: Mapping[str, Any], typed: Sequence[str]) -> None:
    """ConfigError for a value that another value makes ineffective."""
    trainer, data = resolved["trainer"], resolved["data"]
    least, most = trainer.get("min_epochs"), trainer.get("max_epochs")
    if isinstance(least, int) and isinstance(most, int) and least > most:
        raise ConfigError(f"trainer.min_epochs={least} would be without effect: trainer.max_epochs={most} ends before")
    if (profiler := trainer.get("profiler")) in ("simple", "advanced"):
        raise ConfigError(
            f"trainer.profiler={profiler} would print to nowhere: name a file, as in "
            f"'+trainer.profiler={{_target_:pytorch_lightning.profilers.{profiler.capitalize()}Profiler,"
            "dirpath:${run_dir},filename:profile}'"
        )
    init, net = resolved.get("init"), resolved["model"]["net"]
    if init is not None and resolved.get("extend") is not None:
        raise ConfigError(
            f"init={init} would be without effect: extend={resolved['extend']} goes on with all of that run; leave one "
            "of the two out"
        )
    if init is not None and net.get("weights") is not None and not is_own(net):
        raise ConfigError(
            f"model.net.weights={net['weights']} would be without effect: init={init} says where the weights start; "
            "leave one of the two out"
        )
    if init is None and resolved.get("init_strict"):
        raise ConfigError("init_strict=true would be without effect: init=RUN or init=FILE names the weights")
    _check_own_validation(data, typed)
    _check_folds(data, typed)
    if data.get("shuffle") is False and data.get("sampler") != "uniform":
        raise ConfigError(
            f"data.shuffle=false does not go with data.sampler={data['sampler']}, which draws at random: leave "
            "one of the two out"
        )
    if seed := next((each for each in typed if each.lstrip("+").startswith("data.split_seed=")), None):
        if validation_of(data) in {"test", "none"}:
            raise ConfigError(f"{seed} would be without effect: data.validation={data['validation']} draws no images")
        if data.get("split") == "tail" and validation_of(data) not in {FOLD, OWN}:
            raise ConfigError(f"{seed} would be without effect: data.split=tail takes the last images, whatever it is")


def _check_own_validation(data: Mapping[str, Any], typed: Sequence[str]) -> None:
    """ConfigError where a key says which training images are held out, though data.val has validation images."""
    if validation_of(data) != OWN:
        return
    if data.get("folds") is not None:
        raise ConfigError(
            f"data.folds={data['folds']} would be without effect: data.val holds the validation images; leave it out, "
            "or hold out training images instead: data.val=null"
        )
    for text in typed:
        if text.lstrip("+").partition("=")[0] in {"data.validation", "data.split", "data.split_seed"}:
            raise ConfigError(
                f"{text} would be without effect: data.val holds the validation images; leave it out, or hold out "
                "training images instead: data.val=null"
            )


def _check_folds(data: Mapping[str, Any], typed: Sequence[str]) -> None:
    """ConfigError for folds that do not say which one is held out, or that another key contradicts."""
    folds, fold = data.get("folds"), data.get("fold")
    if folds is None:
        if fold is not None:
            num = max(5, fold + 1)
            raise ConfigError(f"data.fold={fold} needs the number of folds: data.folds={num} data.fold={fold}")
        return
    numbers = ",".join(map(str, range(folds))) if folds <= MANY_FOLDS else f"'range({folds})'"
    if fold is None:
        raise ConfigError(
            f"data.folds={folds} needs the fold that is held out: data.fold=0, or all in turn: -m data.fold={numbers}"
        )
    if fold >= folds:
        raise ConfigError(f"data.fold={fold} is none of the {folds} folds, which are 0 to {folds - 1}")
    for key, value in (("validation", None), ("split", "tail")):
        for text in typed:
            if text.lstrip("+").startswith(f"data.{key}=") and data[key] == (value or data[key]):
                raise ConfigError(
                    f"{text} would be without effect: data.folds={folds} holds out one of {folds} stratified folds; "
                    "leave one of the two out"
                )


def _check_validations(trainer: Mapping[str, Any], data: Mapping[str, Any], schedule: Mapping[str, Any]) -> None:
    """ConfigError where no validation would choose a checkpoint, or none would drive ReduceLROnPlateau."""
    every, epochs = trainer.get("check_val_every_n_epoch"), trainer.get("max_epochs")
    scheduler = schedule.get("scheduler")
    if isinstance(scheduler, dict) and scheduler.get("_target_") == PLATEAU:
        if scheduler.get("mode", "min") != "min":
            raise ConfigError("schedule=plateau judges by the validation loss: set schedule.scheduler.mode=min")
        if every is None:
            raise ConfigError(
                "schedule=plateau judges by the validation at the end of an epoch; "
                "trainer.check_val_every_n_epoch=null counts steps instead, so set it to 1"
            )
    if every is not None and epochs is not None and every > epochs and validation_of(data) != "none":
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every} with trainer.max_epochs={epochs} leaves no validation to choose "
            "a checkpoint by; validate more often"
        )


def _check_clipping(trainer: Mapping[str, Any], optim: Mapping[str, Any]) -> None:
    """ConfigError for 16-mixed with an optimizer or with clipping that its scaling of gradients does not go with."""
    if trainer.get("precision") == "16-mixed" and str(optim.get("_target_")).endswith(".LBFGS"):
        raise ConfigError(
            "trainer.precision=16-mixed does not go with LBFGS, which evaluates the loss several times in a step; type "
            "trainer.precision=bf16-mixed or 32-true"
        )
    if (
        trainer.get("precision") == "16-mixed"
        and trainer.get("gradient_clip_val") is not None
        and optim.get("fused")
        and not is_own(optim)
    ):
        raise ConfigError(
            "trainer.gradient_clip_val does not go with trainer.precision=16-mixed and a fused optimizer; set "
            "optim.fused=false"
        )


def _check_root(config: Mapping[str, Any]) -> None:
    """ConfigError for an unknown or missing group or key at the root."""
    for key in config:
        if key == "experiment":
            raise ConfigError("an experiment file needs the first line `# @package _global_`")
        if key not in ROOT_KEYS:
            known = OmegaConf.create(
                escape_interpolations({name: child for name, child in config.items() if name in ROOT_KEYS})
            )
            likely = likely_keys(key, key, ROOT_KEYS, known)
            raise ConfigError(
                f"the configuration has no key {key!r}{likely} Keys: {', '.join(ROOT_KEYS)} "
                "(values of your own go into vars: +vars.NAME=VALUE)"
            )
    if config.get("run_dir", RUN_DIR) != RUN_DIR:
        raise ConfigError("run_dir follows hydra.run.dir: type hydra.run.dir=DIR (in a sweep, hydra.sweep.dir=DIR)")
    for key in ROOT_KEYS:
        if key not in config and key not in {"sweep", "vars", *LATER_ROOT_KEYS}:
            raise ConfigError(f"the configuration lacks {key!r}, which no run can do without")
        if key in GROUPS and not isinstance(config.get(key, {}), dict):
            raise ConfigError(f"{key} must be a mapping, as in conf/{key}/*.yaml, got {config[key]!r}")
    for name, node in config["logger"].items():
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(
                f"logger.{name} must be a mapping with a _target_, as in conf/logger/default.yaml, got {node!r}; "
                f"~logger.{name} leaves it out"
            )


def _check_metrics(metrics: Mapping[str, Any]) -> None:
    """ConfigError where a reported metric is missing, or a metric would replace the loss."""
    for name in REPORTED:
        if name not in metrics:
            raise ConfigError(
                f"metrics.{name} is missing: it is reported of every run; add your own metrics next to it"
            )
    if "loss" in metrics:
        raise ConfigError("metrics.loss would replace the loss itself: give that metric another name")


def _check_model_keys(model: Mapping[str, Any]) -> None:
    """ConfigError for any other key of `model`, which nothing would read."""
    for key in model:
        if key not in MODEL_KEYS:
            raise ConfigError(f"model has no key {key!r}; what the network takes goes into model.net: model.net.{key}")
    for key in MODEL_KEYS:
        if key not in model:
            raise ConfigError(f"model.{key} is missing; a model has a name, and a net with the network's _target_")
    if not isinstance(model["net"], dict):
        raise ConfigError("model.net must hold the network's _target_ and its arguments")


MANY_FOLDS = 10  # more are written as a range
RUN_DIR = "${run_dir:}"
PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"
NOT_TRAINER_KEYS = {
    "callbacks": "a run's callbacks are the members of callbacks",
    "logger": "a run's loggers are the members of logger; logger=none has none",
    "plugins": "fmx sets them",
    "default_root_dir": "hydra.run.dir=DIR says where the run is",
    "limit_predict_batches": "trainer.limit_test_batches is for the test",
}
