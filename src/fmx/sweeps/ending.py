"""Hydra's on_multirun_end after every end of a sweep: Hydra itself calls it only where no job failed."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from fmx.errors import ConfigError, DataError
from fmx.process import detach, dry_run
from fmx.sweeps.ledger import Ledger

__all__ = ["call_callbacks_after_errors", "call_recorded_callbacks", "end_unfinished"]

log = logging.getLogger(__name__)


@contextmanager
def call_callbacks_after_errors(context: HydraContext, config: DictConfig) -> Iterator[None]:
    """Call on_multirun_end where the block, in which jobs run, raises: after failed jobs, Ctrl-C and SIGTERM."""
    try:
        yield
    except ConfigError:  # no job has begun
        raise
    except BaseException:
        context.callbacks.on_multirun_end(config=config, config_name=config.hydra.job.config_name)
        raise


@contextmanager
def call_recorded_callbacks(ledger: Ledger, allow: Collection[str]) -> Iterator[None]:
    """Call on_multirun_end of the callbacks that an earlier sweep has recorded at the end of the block.

    allow: packages that the user trusts; callbacks of any other are named in the log, and not made.
    """
    try:
        yield
    finally:
        if not detach.is_asked():
            _call_recorded(ledger, allow)


def _call_recorded(ledger: Ledger, allow: Collection[str]) -> None:
    from fmx.sweeps.gate import recorded_callbacks

    try:
        callbacks, plain = recorded_callbacks(ledger.job(next(iter(ledger.entries.values()))), allow)
    except (DataError, StopIteration) as error:
        log.info("on_multirun_end is called of no callback: %s", error)
        return
    if not callbacks:
        return
    from fmx.training.build import make

    hydra = {"callbacks": callbacks, "sweep": {"dir": str(ledger.sweep_dir)}, "job": {"config_name": "config"}}
    config = OmegaConf.create({**plain, "hydra": hydra})
    for name in callbacks:
        try:
            callback: Any = make(config.hydra.callbacks[name])
            callback.on_multirun_end(config=config, config_name="config")
        except Exception as error:  # noqa: BLE001 - of a user's class, which must not cost the sweep
            log.warning("hydra.callbacks.%s failed at the end of the sweep: %s: %s", name, type(error).__name__, error)


def end_unfinished() -> None:
    """End the process with code 0 where nothing has ended that on_multirun_end would be of."""
    if dry_run.is_asked() or detach.is_asked():
        raise SystemExit(0)
