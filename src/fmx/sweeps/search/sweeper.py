"""Hydra's sweeper plugin for `hydra/sweeper=search`."""

import logging
from typing import Any

from hydra.core.utils import configure_log, setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["SearchSweeper"]


class SearchSweeper(Sweeper):
    """Runs a search over the distributions of a command line; see conf/hydra/sweeper/search.yaml."""

    def __init__(self, **_: Any) -> None:
        """Accept any setting: all are checked together before the first trial."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the search needs; trials run in other processes, so the task function is not used."""
        self.context = hydra_context
        self.settings = config

    def sweep(self, arguments: list[str]) -> None:
        """Search; ConfigError for invalid settings, TrainingError if trials failed."""
        from fmx.sweeps.ending import end_unfinished
        from fmx.sweeps.search.search import search

        setup_globals()
        configure_log(self.settings.hydra.hydra_logging, self.settings.hydra.verbose)
        logging.getLogger("fmx").setLevel(logging.INFO)
        search(self.context, self.settings, arguments)
        end_unfinished()
