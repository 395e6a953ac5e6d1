"""A multirun from its command line to its jobs, on this machine or a cluster."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig

from fmx.process import dry_run
from fmx.process.exits import BEFORE_ANY_JOB, advice
from fmx.sweeps.disk import jobs_in_words
from fmx.sweeps.ending import call_callbacks_after_errors
from fmx.sweeps.local import Sweep, earlier_ledger
from fmx.sweeps.plan import Plan
from fmx.sweeps.pool import Ended

__all__ = ["run_multirun"]


def run_multirun(
    context: HydraContext,
    config: DictConfig,
    overrides: Sequence[Sequence[str]],
    settings: Mapping[str, Any],
    *,
    sweep: type[Sweep] = Sweep,
    here: bool = True,
) -> list[Ended]:
    """Plan and run a multirun's jobs, except those that an earlier sweep in the same directory completed.

    settings: of the launcher, checked; sweep.json keeps them. sweep: what runs the jobs. here: whether on this machine.
    ConfigError before the first job if one cannot run, FmxError at the end if one failed.
    """
    sweep_dir = Path(str(config.hydra.sweep.dir)).resolve()
    with advice(lambda: BEFORE_ANY_JOB):
        ledger = earlier_ledger(sweep_dir)
        known = {entry.fingerprint: entry.number for entry in ledger.entries.values()}
        plan = Plan(context, config, here=here)
        jobs = plan.jobs(overrides, known)
        keep = config.sweep.keep_checkpoints
        ledger.settings = {**settings, "keep_checkpoints": keep, "num_data_sets": plan.num_data_sets}
        ledger.add([job for job in jobs if job.fingerprint not in known])
        for job, size in zip(jobs, plan.checkpoint_sizes(jobs), strict=True):
            ledger.entries[job.number].checkpoint_bytes = size
        asked = dry_run.is_asked()
        disk = jobs_in_words(
            ledger, [job.number for job in jobs if asked or ledger.entries[job.number].status != "completed"]
        )
        if asked:
            sweep(ledger).preview([job.number for job in jobs], num_equal=len(overrides) - len(jobs), disk=disk)
            return []
        plan.freeze(jobs)
    with call_callbacks_after_errors(context, config):
        return sweep(ledger).run_all([job.number for job in jobs], disk=disk)
