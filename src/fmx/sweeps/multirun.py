"""Launch a sweep on this machine: plan, freeze and run its jobs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig

from fmx.process import dry_run
from fmx.process.exits import BEFORE_ANY_JOB, advice
from fmx.sweeps.disk import disk_needed
from fmx.sweeps.local import Sweep, earlier_ledger
from fmx.sweeps.plan import Plan
from fmx.sweeps.pool import Ended
from fmx.sweeps.settings import check_settings

__all__ = ["launch"]


def launch(
    context: HydraContext, config: DictConfig, overrides: Sequence[Sequence[str]], settings: Mapping[str, Any]
) -> list[Ended]:
    """Plan and run a multirun's jobs, except those that an earlier sweep in the same directory completed.

    ConfigError before the first job if one cannot run, FmxError at the end if one failed.
    """
    check_settings(settings)
    sweep_dir = Path(str(config.hydra.sweep.dir)).resolve()
    with advice(lambda: BEFORE_ANY_JOB):
        earlier = earlier_ledger(sweep_dir)
        known = {entry.fingerprint: entry.number for entry in earlier.entries.values()}
        plan = Plan(context, config)
        jobs = plan.jobs(overrides, known)
        earlier.settings = {**settings, "keep_checkpoints": config.sweep.keep_checkpoints}
        earlier.add([job for job in jobs if job.fingerprint not in known])
        if dry_run.is_asked():
            disk = disk_needed(plan.configs(jobs), keep=config.sweep.keep_checkpoints)
            Sweep(earlier).preview([job.number for job in jobs], num_equal=len(overrides) - len(jobs), disk=disk)
            return []
        plan.freeze(jobs)
    return Sweep(earlier).run_all([job.number for job in jobs])
