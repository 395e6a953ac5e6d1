"""The configuration's checks, made before a run directory exists and before any data is loaded."""

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import InterpolationKeyError

from fmx import dry_run
from fmx.claim import claim
from fmx.command import look_for_garbage
from fmx.composition import CONF_DIR, as_typed, literal
from fmx.errors import ConfigError, DataError
from fmx.exits import Refusal, expected, interruption
from fmx.from_environment import sealed
from fmx.hydra_errors import likely_keys
from fmx.own_members import say_what_is_shadowed
from fmx.printed_command import printed_command
from fmx.ranks import agrees, check_started, is_first_process
from fmx.resume import check_same_run
from fmx.rules import check_values
from fmx.run_dir import open_run

__all__ = ["Check", "check_names", "check_parts"]


class Check(Callback):
    """The Hydra callback that refuses a wrong configuration before Hydra makes the run directory.

    bounded: the configuration is from a directory that may be anybody's, so its parts are made within bounds.
    """

    def __init__(self, *, bounded: bool = False) -> None:
        """What is bounded is read from the configuration, where sweeps and searches see it too."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Bring the launchers and sweepers that conf/ names, and refuse a dry run by others, who know of none."""
        from fmx.plugins import use_plugins

        use_plugins(config)
        _refusing(lambda: _check_hydras_folder(config.hydra))
        _refusing(lambda: _check_sweep_folder(config.hydra))
        say_what_is_shadowed(config)
        launches = str(config.hydra.launcher._target_).startswith("fmx.")
        searches = str(config.hydra.sweeper._target_).startswith("fmx.search.")
        if dry_run.is_asked() and not (launches or searches):
            raise Refusal(ConfigError("--dry-run goes with hydra/launcher=local, slurm and hydra/sweeper=search alone"))

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check one run's configuration, then hold its run directory, before Hydra writes anything there."""
        _refusing(lambda: _check_mode(config.hydra))
        _refusing(lambda: check(config, alone=True))
        if is_first_process(config.trainer):
            _refusing(lambda: _check_hydras_folder(config.hydra))  # the others are told by whoever started them
            say_what_is_shadowed(config)
        if dry_run.is_asked():
            _refusing(lambda: _preview(config))
            raise SystemExit(0)
        if is_first_process(config.trainer):
            _refusing(lambda: claim(Path(config.hydra.run.dir)))
        else:
            with read_write(config.hydra):
                config.hydra.output_subdir = None  # the first process writes it

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Check each job of a sweep, for which Hydra calls nothing earlier."""
        if config.hydra.mode == RunMode.MULTIRUN:
            _refusing(lambda: check(config))


def _preview(config: DictConfig) -> None:
    """Say what a single run would do."""
    from fmx.sweep.disk import REST_BYTES, checkpoint_bytes, in_words

    run_dir = Path(config.hydra.run.dir).absolute()
    print(f"1 run: {config.model.name} on {config.data.name}, seed {config.seed}, {config.trainer.max_epochs} epochs")
    print(f"{in_words(checkpoint_bytes(config) + REST_BYTES, run_dir)} · {run_dir}")
    print("dry run: nothing was started or written")
    sys.stdout.flush()


def _check_mode(hydra: DictConfig) -> None:
    """ConfigError for words of the command line that only a multirun would obey; a file may serve both."""
    for_multiruns = (*OF_A_MULTIRUN, *(f"hydra/{group}=" for group in PLUGINS if "mode" in hydra[group]))
    overrides = as_typed(hydra.overrides.hydra) + as_typed(hydra.overrides.task)
    typed = [text for text in overrides if text.lstrip("+~").startswith(for_multiruns)]
    if typed:
        forced = "hydra.mode=RUN" in sys.argv
        how = (
            "leave out hydra.mode=RUN"
            if forced
            else f"type: {printed_command('python', '-m', 'fmx.run', '-m', *sys.argv[1:])}"
        )
        raise ConfigError(f"{typed[0]} is for a multirun, which this is not: {how}")
    written: Any = OmegaConf.to_container(hydra.run, resolve=False)  # what it refers to is checked by its own name
    if not str(written["dir"]).strip():
        raise ConfigError("hydra.run.dir is empty: give it a folder, or leave it out")


def _check_hydras_folder(hydra: DictConfig) -> None:
    """ConfigError where a run's configuration would lie elsewhere than every verb looks for it."""
    if hydra.output_subdir != ".hydra":
        raise ConfigError(
            "hydra.output_subdir cannot be changed: resume, evaluate and every other verb look into .hydra"
        )


def _check_sweep_folder(hydra: DictConfig) -> None:
    """ConfigError where the current folder would stand in for the folder of a multirun."""
    written: Any = OmegaConf.to_container(hydra.sweep, resolve=False)
    for key, value in written.items():
        if not str(value).strip():
            raise ConfigError(f"hydra.sweep.{key} is empty: give it a folder, or leave it out")


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
    with _naming_version(config):
        resolved = check_names(config)
    if alone:
        given = any(str(each).startswith("hydra.run.dir=") for each in config.hydra.overrides.hydra)
        named = given or (agrees() if resolved["resume"] is None else resolved["resume"] != "auto")
        check_started(resolved["trainer"], names_folder=named)
        if is_first_process(resolved["trainer"]):
            check_same_run(sealed(config), Path(config.hydra.run.dir), resolved["resume"])
    with _naming_version(config):
        check_parts(config, resolved)


@contextmanager
def _naming_version(config: DictConfig) -> Iterator[None]:
    """Where a run goes on that another version of fmx wrote, let a refusal name that version."""
    try:
        yield
    except Exception as error:
        plain, version = expected(error), _version_of(config)
        if plain is None or not version or version in str(plain):
            raise
        raise type(plain)(f"{plain}{version}") from error


def _version_of(config: DictConfig) -> str:
    written: Any = OmegaConf.to_container(config, resolve=False)
    try:
        return open_run(str(written.get("resume")), finished=False).other_version
    except DataError:
        return ""


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
    _check_typed_name(config, resolved)
    for key, instead in NOT_THE_TRAINERS.items():
        if key in resolved["trainer"]:
            raise ConfigError(f"trainer.{key} would be without effect: {instead}")
    _check_without_effect(resolved, as_typed(config.hydra.overrides.task) if "hydra" in config else [])
    _check_validations(resolved["trainer"], resolved["data"], resolved["schedule"])
    _check_clipping(resolved["trainer"], resolved["optim"])
    return dict(resolved)


def _check_typed_name(config: DictConfig, resolved: Mapping[str, Any]) -> None:
    """Whether a typed name calls a model what another one is called: tables would show what was never trained."""
    if "hydra" not in config or resolved["resume"] is not None:
        return
    name, chosen = resolved["model"]["name"], config.hydra.runtime.choices.get("model")
    typed = any(text.lstrip("+").startswith("model.name=") for text in as_typed(config.hydra.overrides.task))
    if typed and name != chosen and (CONF_DIR / "model" / f"{name}.yaml").is_file():
        raise ConfigError(f"model.name={name} would only give {chosen} another name: model={name} chooses {name}")


def _check_without_effect(resolved: Mapping[str, Any], typed: Sequence[str]) -> None:
    """ConfigError for a value that something else in the same configuration makes meaningless."""
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
    if seed := next((each for each in typed if each.lstrip("+").startswith("data.split_seed=")), None):
        if data.get("validation") in {"test", "none"}:
            raise ConfigError(f"{seed} would be without effect: data.validation={data['validation']} draws no images")
        if data.get("split") == "tail":
            raise ConfigError(f"{seed} would be without effect: data.split=tail takes the last images, whatever it is")


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
    look_for_garbage()  # what is rehearsed goes again
    earlier = None if resolved["resume"] is None else Path(config.hydra.run.dir)
    bounded = OmegaConf.select(config, "hydra.callbacks.check.bounded")
    if bounded and earlier is not None:
        _check_fits(_without_hydra(config), earlier)
    rehearse(_without_hydra(config), earlier=earlier, here=here, bounded=bool(bounded))


def _check_fits(config: DictConfig, run_dir: Path) -> None:
    """DataError where the weights of a run that goes on are not those of its newest checkpoint, if it has any."""
    from fmx.checkpoint import newest_checkpoint
    from fmx.restore import check_fits

    checkpoint, _, _ = newest_checkpoint(run_dir / "checkpoints")
    if checkpoint is not None:
        check_fits(config, checkpoint)


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _check_root(config: Mapping[str, Any]) -> None:
    """The groups and keys that a configuration has, and no others."""
    for key in config:
        if key == "experiment":
            raise ConfigError("an experiment file needs the first line `# @package _global_`")
        if key not in ROOT_KEYS:
            known = OmegaConf.create(literal({name: child for name, child in config.items() if name in ROOT_KEYS}))
            likely = likely_keys(key, key, ROOT_KEYS, known)
            raise ConfigError(
                f"the configuration has no key {key!r}{likely} Keys: {', '.join(ROOT_KEYS)} "
                "(values of your own go into vars: +vars.NAME=VALUE)"
            )
    if config.get("run_dir", FOLLOWS_HYDRA) != FOLLOWS_HYDRA:
        raise ConfigError("run_dir follows hydra.run.dir: type hydra.run.dir=DIR (in a sweep, hydra.sweep.dir=DIR)")
    for key in ROOT_KEYS:
        if key not in config and key not in {"sweep", "vars"}:
            raise ConfigError(f"the configuration lacks {key!r}, which no run can do without")
        if key in GROUPS and not isinstance(config[key], dict):
            raise ConfigError(f"{key} must be a mapping, as in conf/{key}/*.yaml, got {config[key]!r}")
    for name, node in config["logger"].items():
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(
                f"logger.{name} must be a mapping with a _target_, as in conf/logger/default.yaml, got {node!r}; "
                f"~logger.{name} leaves it out"
            )


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


PLUGINS = ["launcher", "sweeper"]  # one that has a `mode` is for multiruns alone
OF_A_MULTIRUN = ("hydra.launcher.", "hydra.sweeper.", "hydra.sweep.", "sweep.")
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
