"""The command lines of a search: the one that resumes it, and those that repeat a trial as a single run."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fmx.config.printed_command import printed_command
from fmx.config.quoting import override
from fmx.sweeps.search.space import Space

__all__ = ["Command"]


class Command:
    """Builds the command lines of a search."""

    def __init__(self, config: DictConfig, fixed: list[str], space: Space) -> None:
        """config: the composed configuration of the search; fixed: the overrides of every trial."""
        hydra = config.hydra
        folders = [each.path for each in hydra.runtime.config_sources if each.provider == "command-line"]
        typed = [str(each) for each in hydra.overrides.hydra]
        self._start = ["python", "-m", "fmx.run"]
        if hydra.job.config_name != "config":
            self._start += ["--config-name", str(hydra.job.config_name)]
        for folder in folders:
            self._start += ["--config-dir", str(folder)]
        self._start += [text for text in typed if text.startswith("hydra.searchpath=")]
        if not any(text.startswith("hydra/sweeper=") for text in typed):
            self._start.append("hydra.mode=RUN")  # an experiment file selects the search sweeper
        self._fixed = [each for each in fixed if not each.startswith("sweep.")]  # they mean nothing in a single run
        self._space = space
        self._sweep_dir = Path(str(hydra.sweep.dir)).resolve()

    def for_trial(self, values: Mapping[str, Any]) -> str:
        """The command for the values of a trial, quoted for a shell."""
        return printed_command(*self._start, *self._fixed, *self._space.overrides(values))

    @property
    def to_resume(self) -> str:
        """The command of this process, with the directory of the search."""
        typed = [each for each in sys.argv[1:] if not each.startswith("hydra.sweep.dir=")]
        return printed_command("python", "-m", "fmx.run", *typed, override("hydra.sweep.dir", self._sweep_dir))
