"""The Hydra callback that refuses a wrong configuration before a run directory is created."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from fmx.config.check import check_config
from fmx.config.hydra_values import hydra_values
from fmx.config.printed_command import printed_command
from fmx.config.quoting import as_typed
from fmx.config.shadowing import print_shadowed_files
from fmx.errors import ConfigError, DataError, Refusal
from fmx.process import detach, dry_run
from fmx.process.distributed import can_agree, check_started, is_first_process
from fmx.process.exits import expected_error, interruption
from fmx.process.lock import lock_folder
from fmx.process.start import resume_garbage_collection
from fmx.runs.resume import check_same_run
from fmx.runs.run_dir import open_run
from fmx.training.check import check_parts, was_checked

__all__ = ["MULTIRUN_KEYS", "PLUGINS", "Check", "check"]


class Check(Callback):
    """The Hydra callback that refuses a wrong configuration before Hydra makes the run directory.

    bounded: the configuration is from an untrusted directory, so its objects are instantiated within bounds.
    """

    def __init__(self, *, bounded: bool = False) -> None:
        """Ignore `bounded`, which is read from the configuration, where sweeps and searches find it too."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Register fmx's launchers and sweepers; refuse a dry run with any others, which do not support it."""
        from fmx.commands.plugins import use_plugins

        use_plugins(config)
        _refuse_errors(lambda: _check_hydras_folder(config.hydra))
        _refuse_errors(lambda: _check_sweep_folder(config.hydra))
        _refuse_errors(lambda: print_shadowed_files(config))
        launches = str(config.hydra.launcher._target_).startswith("fmx.")
        searches = str(config.hydra.sweeper._target_).startswith("fmx.sweeps.search.")
        if dry_run.is_asked() and not (launches or searches):
            raise Refusal(ConfigError("--dry-run goes with hydra/launcher=local, slurm and hydra/sweeper=search alone"))
        if searches:
            _refuse_errors(lambda: detach.refuse("the trials of a search"))
        elif not str(config.hydra.launcher._target_).endswith(".SlurmLauncher"):
            _refuse_errors(lambda: detach.refuse("the jobs of this launcher"))

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check one run's configuration, then lock its run directory before Hydra writes into it."""
        _refuse_errors(lambda: _check_mode(config.hydra))
        _refuse_errors(lambda: detach.refuse("single runs"))
        _refuse_errors(lambda: check(config, alone=True))
        if is_first_process(config.trainer):
            _refuse_errors(lambda: _check_hydras_folder(config.hydra))  # the first process passes it to the others
            _refuse_errors(lambda: print_shadowed_files(config))
        if dry_run.is_asked():
            with hydra_values(config):
                _refuse_errors(lambda: _preview(config))
            raise SystemExit(0)
        if is_first_process(config.trainer):
            _refuse_errors(lambda: lock_folder(Path(config.hydra.run.dir)))
        else:
            with read_write(config.hydra):
                config.hydra.output_subdir = None  # only the first process writes .hydra/

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Check each job of a sweep; Hydra has no earlier callback for jobs."""
        if config.hydra.mode == RunMode.MULTIRUN:
            _refuse_errors(lambda: check(config))


def _preview(config: DictConfig) -> None:
    """Print what a single run would do."""
    from fmx.sweeps.disk import REST_BYTES, checkpoint_bytes, in_words

    run_dir = Path(config.hydra.run.dir).absolute()
    print(f"1 run: {config.model.name} on {config.data.name}, seed {config.seed}, {config.trainer.max_epochs} epochs")
    size = checkpoint_bytes(check_config(config).resolved) + REST_BYTES
    print(f"{in_words(size, run_dir)} · {run_dir}")
    print("dry run: nothing was started or written")
    sys.stdout.flush()


def _check_mode(hydra: DictConfig) -> None:
    """ConfigError for overrides that only a multirun uses; in a file they are allowed."""
    for_multiruns = (*MULTIRUN_KEYS, *(f"hydra/{group}=" for group in PLUGINS if "mode" in hydra[group]))
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
    written: Any = OmegaConf.to_container(hydra.run, resolve=False)  # references are checked at their own keys
    if not str(written["dir"]).strip():
        raise ConfigError("hydra.run.dir is empty: give it a folder, or leave it out")


def _check_hydras_folder(hydra: DictConfig) -> None:
    """ConfigError where .hydra/ would be elsewhere than every verb expects it."""
    if hydra.output_subdir != ".hydra":
        raise ConfigError(
            "hydra.output_subdir cannot be changed: resume, evaluate and every other verb look into .hydra"
        )


def _check_sweep_folder(hydra: DictConfig) -> None:
    """ConfigError for an empty hydra.sweep.dir or subdir, which would mean the working directory."""
    written: Any = OmegaConf.to_container(hydra.sweep, resolve=False)
    for key, value in written.items():
        if not str(value).strip():
            raise ConfigError(f"hydra.sweep.{key} is empty: give it a folder, or leave it out")


def _refuse_errors(step: Callable[[], None]) -> None:
    try:
        step()
    except Exception as error:
        if (code := interruption(error)) is not None:
            raise SystemExit(code) from error
        plain = expected_error(error)
        if plain is None:  # a bug: Hydra would only warn, and start the run unchecked
            traceback.print_exc()
            raise SystemExit(1) from error
        raise Refusal(plain) from error


def check(config: DictConfig, *, alone: bool = False) -> None:
    """Raise ConfigError for the first mistake in a composed configuration.

    Names and values are checked first, without heavy imports, then the objects are instantiated. alone: not a job of a
    sweep, so its run directory is checked too.
    """
    with _name_version(config):
        checked = check_config(config)
    resolved, stored = checked.resolved, checked.stored
    if alone:
        given = any(str(each).startswith("hydra.run.dir=") for each in config.hydra.overrides.hydra)
        resume = resolved["resume"]
        named = given or can_agree() or resume not in {None, "auto"}
        check_started(resolved["trainer"], names_folder=named, resume=resume)
        if is_first_process(resolved["trainer"]):
            check_same_run(stored, Path(config.hydra.run.dir), resolved["resume"])
    if was_checked(stored, config):
        resume_garbage_collection()
        return
    with _name_version(config):
        check_parts(config, checked)


@contextmanager
def _name_version(config: DictConfig) -> Iterator[None]:
    """Add the version of fmx to errors about resuming a run of another version."""
    try:
        yield
    except Exception as error:
        plain, version = expected_error(error), _version_of(config)
        if plain is None or not version or version in str(plain):
            raise
        raise type(plain)(f"{plain}{version}") from error


def _version_of(config: DictConfig) -> str:
    written: Any = OmegaConf.to_container(config, resolve=False)
    try:
        return open_run(str(written.get("resume")), finished=False).other_version
    except DataError:
        return ""


PLUGINS = ["launcher", "sweeper"]  # groups; a member with a `mode` is for multiruns


MULTIRUN_KEYS = ("hydra.launcher.", "hydra.sweeper.", "hydra.sweep.", "sweep.")
