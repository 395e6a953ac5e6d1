"""The configuration of a run directory, after everything that it names was checked."""

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmx.config.from_environment import check_resolved
from fmx.config.layout import GROUPS, ROOT_KEYS
from fmx.config.printed_command import printed_command
from fmx.config.quoting import escape_interpolations
from fmx.config.trust import check_sizes, check_trusted, without_foreign_mirrors, without_torchvision
from fmx.errors import DataError
from fmx.process.table import printable
from fmx.runs.data_root import at_root, parse_root
from fmx.runs.ensemble import is_ensemble, read_members
from fmx.runs.run_dir import Run

__all__ = ["PARTS", "checked_config", "trusted_config"]

DISTILLATION = "fmx.training.distillation.Distillation"
PARTS = ("model", "loss", "optim", "schedule", "metrics", "classifier")


OF_TRAINING = ("callbacks", "logger")  # groups that only training makes


def trusted_config(run: Run, allow: Iterable[str] = (), *, root: str | None = None, trains: bool = True) -> DictConfig:
    """The run's configuration, if each target in it is allowed in its place; DataError names the first that is not.

    allow: packages that the user trusts besides fmx (--allow mypkg). root: `data.root=DIR`, where its data lies now.
    trains: False leaves callbacks and loggers out, which commands that use a trained network never make.
    """
    config = run.config
    if not trains:
        config = config.copy()
        for group in OF_TRAINING:
            if isinstance(config.get(group), DictConfig):
                config[group] = {}
    config = checked_config(config, run, allow)
    if root is not None:
        config.data = escape_interpolations(
            at_root(OmegaConf.to_container(config.data, resolve=True), parse_root(root))
        )
    return config


def checked_config(config: DictConfig, run: Run, allow: Iterable[str] = ()) -> DictConfig:
    """A resolved configuration, checked as `trusted_config` does; its downloads come from fmx's own mirrors."""
    if is_ensemble(run.path):
        members = read_members(run.path)
        raise DataError(
            f"{run.path} is an ensemble of {len(members)} runs: name one of them, such as {printable(members[0].path)}"
        )
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"the configuration of {run.path} cannot be resolved: {reason}") from error
    for group in GROUPS:
        if not isinstance(plain.get(group), dict):
            raise DataError(f"{run.path} holds no configuration of a run: it lacks {group}{run.other_version}")
    if not isinstance(plain["model"].get("net"), dict):
        raise DataError(f"{run.path} holds no configuration of a run: model.net names no network")
    if strange := sorted(map(str, plain.keys() - {*ROOT_KEYS})):
        raise DataError(f"{run.path} holds no configuration of a run: it has the key {strange[0]!r}{run.other_version}")
    check_trusted(plain, run.path, allow)
    check_resolved(plain, run.path, (*PARTS, "data"))
    check_sizes(plain["data"], run.path)
    _check_allowed(plain["loss"], run, allow)
    config = config.copy()
    config.data = OmegaConf.create(escape_interpolations(without_torchvision(without_foreign_mirrors(plain["data"]))))
    return config


def _check_allowed(loss: Mapping[str, Any], run: Run, allow: Iterable[str]) -> None:
    """DataError where a distillation would let the run of its teacher name packages that the user does not trust."""
    if loss.get("_target_") != DISTILLATION:
        return
    packages = loss.get("allow")
    named = [str(each) for each in packages] if isinstance(packages, list) else [str(packages)]
    if strange := sorted({*named} - {*allow}):
        raise DataError(
            f"{run.path} lets the run of its teacher name code of {strange[0]!r:.80} (loss.allow). If you trust that "
            f"package, add {printed_command('--allow', strange[0])}"
        )
