"""The parts of a configuration, checked without any data; this module imports nothing heavy by itself."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fmx.config.check import Checked
from fmx.config.passed import Passed
from fmx.config.quoting import escape_interpolations
from fmx.process.start import resume_garbage_collection
from fmx.runs.extension import extension_of
from fmx.runs.record import config_fingerprint

__all__ = ["check_parts", "check_resolved_parts", "is_bounded", "pass_checked", "was_checked"]

_checked = set[str]()  # fingerprints of configurations whose parts another process of the sweep has checked


def check_parts(config: DictConfig, checked: Checked) -> None:
    """Import the targets, bind their signatures, and dry-run the parts that need no data, of a run on this machine.

    checked: what check_config returned.
    """
    earlier = None if checked.resolved["resume"] is None else Path(config.hydra.run.dir)
    check_resolved_parts(checked, earlier=earlier, bounded=is_bounded(config))


def is_bounded(config: DictConfig) -> bool:
    """Whether a configuration comes from untrusted files, so that its parts must not take any memory and time."""
    return bool(OmegaConf.select(config, "hydra.callbacks.check.bounded"))


def check_resolved_parts(
    checked: Checked,
    *,
    earlier: Path | None = None,
    here: bool = True,
    bounded: bool = False,
    passed: Passed | None = None,
) -> None:
    """As check_parts, without the hydra node.

    earlier: the folder of the run that is resumed, if any. here: whether it will run on this machine; another one may
    have what this one lacks. bounded: as is_bounded has it. passed: the checks that earlier configurations passed.
    """
    from fmx.config.targets import check_accelerator, check_targets
    from fmx.training.dry_run import check_data_class, dry_run_parts

    resolved, passed = checked.resolved, passed or Passed()
    for key, node in resolved.items():
        passed.once("targets", {key: node}, partial(check_targets, {key: node}))
    check_data_class(str(resolved["data"].get("_target_", "")))
    if here:
        check_accelerator(resolved["trainer"])
    if resolved.get("extend") is not None and resolved["resume"] is None:
        extension_of(checked.stored)
    resume_garbage_collection()  # objects made by the dry run are garbage from here on
    if bounded and earlier is not None:
        _check_fits(checked, earlier)
    dry_run_parts(resolved, earlier=earlier, here=here, bounded=bounded, passed=passed)


def pass_checked(fingerprint: str) -> None:
    """Let this process, a job of a sweep, skip the check of a configuration whose parts the sweep has just checked."""
    _checked.add(fingerprint)


def was_checked(stored: Mapping[str, Any], config: DictConfig) -> bool:
    """Whether the sweep has checked the parts of exactly this configuration; stored: what to_stored returned of it.

    False for one from an untrusted directory, which is checked within bounds, and for one that goes on with a run.
    """
    begins = stored["resume"] is None and stored.get("extend") is None
    return begins and not is_bounded(config) and config_fingerprint(stored) in _checked


def _check_fits(checked: Checked, run_dir: Path) -> None:
    """DataError where the newest checkpoint of a resumed run, if any, does not fit its network."""
    from fmx.runs.checkpoint_files import newest_checkpoint
    from fmx.training.restore import check_fits

    checkpoint, _, _ = newest_checkpoint(run_dir / "checkpoints")
    if checkpoint is not None:
        check_fits(OmegaConf.create(escape_interpolations(checked.resolved)), checkpoint)
