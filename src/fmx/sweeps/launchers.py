"""Hydra's launcher plugins for `hydra/launcher=local` and `hydra/launcher=slurm`."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fmx.errors import FmxError, Refusal

if TYPE_CHECKING:
    from fmx.sweeps.pool import Ended

__all__ = ["LocalLauncher", "SlurmLauncher"]


class _SweepLauncher(Launcher):
    """Passes the jobs of a multirun to fmx.sweeps."""

    def __init__(self, mode: str | None = None, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what launch needs; jobs run in other processes, so the task function is not used."""
        self.context = hydra_context
        self.config = config

    @abstractmethod
    def run(self, job_overrides: Sequence[Sequence[str]]) -> "list[Ended]":
        """Run the jobs; FmxError if one cannot run, or failed."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; Refusal if one cannot run, or failed."""
        from fmx.sweeps.display import validation_accuracy
        from fmx.sweeps.ending import end_unfinished

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        logging.getLogger("fmx").setLevel(logging.INFO)
        try:
            ended = self.run(job_overrides)
        except FmxError as error:
            raise Refusal(error) from error
        end_unfinished()
        return [
            JobReturn(
                overrides=each.job.overrides,
                status=JobStatus.COMPLETED,
                _return_value=validation_accuracy(each.job.run_dir),
            )
            for each in ended
        ]


class LocalLauncher(_SweepLauncher):
    """hydra/launcher=local: runs jobs in parallel on this machine; see conf/hydra/launcher/local.yaml."""

    def run(self, job_overrides: Sequence[Sequence[str]]) -> "list[Ended]":
        """Run the jobs here."""
        from fmx.sweeps.warm import warm_up

        warm_up()
        from fmx.sweeps.multirun import run_multirun
        from fmx.sweeps.settings import check_settings

        check_settings(self.settings)
        return run_multirun(self.context, self.config, job_overrides, self.settings)


class SlurmLauncher(_SweepLauncher):
    """hydra/launcher=slurm: submits jobs as SLURM arrays; see conf/hydra/launcher/slurm.yaml."""

    def run(self, job_overrides: Sequence[Sequence[str]]) -> "list[Ended]":
        """Submit the jobs and wait for them."""
        from fmx.sweeps.slurm import launch

        return launch(self.context, self.config, job_overrides, self.settings)
