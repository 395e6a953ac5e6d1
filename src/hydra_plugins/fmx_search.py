"""What `hydra/sweeper=search` names. Hydra imports this file at every start, so it imports nothing but Hydra."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["SearchSweeper"]


class SearchSweeper(Sweeper):
    """Runs a search over the distributions of a command line; conf/hydra/sweeper/search.yaml says what it takes."""

    def __init__(self, **_: Any) -> None:
        """Take any setting: they are all checked together, in plain words, before the first trial."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search; raises ConfigError for wrong settings, TrainingError where trials failed."""
        from fmx.search.search import search

        assert self.hydra_context is not None
        assert self.config is not None
        search(self.hydra_context, self.config, self.launcher, arguments)
