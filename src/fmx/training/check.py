"""The parts of a configuration, checked without any data; this module imports nothing heavy by itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fmx.config.check import without_hydra
from fmx.config.from_environment import to_stored
from fmx.config.hydra_values import hydra_values
from fmx.process.start import resume_garbage_collection
from fmx.runs.extension import extension_of
from fmx.runs.record import config_fingerprint

__all__ = ["check_parts", "pass_checked", "was_checked"]

_checked = set[str]()  # fingerprints of configurations whose parts another process of the sweep has checked


def check_parts(config: DictConfig, resolved: Mapping[str, Any], *, here: bool = True) -> None:
    """Import the targets, bind their signatures, and dry-run the parts that need no data.

    resolved: what check_names returned. here: whether it will run on this machine; another one may have what
    this one lacks.
    """
    from fmx.config.targets import check_accelerator, check_targets
    from fmx.training.dry_run import check_data_class, dry_run_parts

    check_targets(resolved)
    check_data_class(str(resolved["data"].get("_target_", "")))
    if here:
        check_accelerator(resolved["trainer"])
    if resolved.get("extend") is not None and resolved["resume"] is None:
        extension_of(to_stored(without_hydra(config)))
    resume_garbage_collection()  # objects made by the dry run are garbage from here on
    earlier = None if resolved["resume"] is None else Path(config.hydra.run.dir)
    bounded = OmegaConf.select(config, "hydra.callbacks.check.bounded")
    if bounded and earlier is not None:
        _check_fits(without_hydra(config), earlier)
    with hydra_values(config):
        dry_run_parts(without_hydra(config), earlier=earlier, here=here, bounded=bool(bounded))


def pass_checked(fingerprint: str) -> None:
    """Let this process, a job of a sweep, skip the check of a configuration whose parts the sweep has just checked."""
    _checked.add(fingerprint)


def was_checked(stored: Mapping[str, Any], config: DictConfig) -> bool:
    """Whether the sweep has checked the parts of exactly this configuration; stored: what to_stored returned of it.

    False for one from an untrusted directory, which is checked within bounds, and for one that goes on with a run.
    """
    begins = stored["resume"] is None and stored.get("extend") is None
    bounded = OmegaConf.select(config, "hydra.callbacks.check.bounded")
    return begins and not bounded and config_fingerprint(stored) in _checked


def _check_fits(config: DictConfig, run_dir: Path) -> None:
    """DataError where the newest checkpoint of a resumed run, if any, does not fit its network."""
    from fmx.runs.checkpoint_files import newest_checkpoint
    from fmx.training.restore import check_fits

    checkpoint, _, _ = newest_checkpoint(run_dir / "checkpoints")
    if checkpoint is not None:
        check_fits(config, checkpoint)
