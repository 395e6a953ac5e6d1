"""The SLURM launcher: thin, since Hydra imports it at every start."""

import logging
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["SlurmLauncher"]


class SlurmLauncher(Launcher):
    """hydra/launcher=slurm: the jobs of a multirun as arrays of SLURM jobs; see conf/hydra/launcher/slurm.yaml."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what launch needs; the task is run by name, on other machines."""
        self.context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs and wait for them; Refusal where one cannot run, or failed."""
        from fmx.errors import FmxError
        from fmx.exits import Refusal
        from fmx.sweep.display import validation_accuracy
        from fmx.sweep.slurm import launch

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        logging.getLogger("fmx").setLevel(logging.INFO)
        try:
            ended = launch(self.context, self.config, job_overrides, self.settings)
        except FmxError as error:
            raise Refusal(error) from error
        return [
            JobReturn(
                overrides=each.job.overrides,
                status=JobStatus.COMPLETED,
                _return_value=validation_accuracy(each.job.run_dir),
            )
            for each in ended
        ]
