"""The command lines of a search: the one that resumes it, and those that repeat a trial as a single run."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fmx.config.printed_command import printed_command
from fmx.config.quoting import override
from fmx.runs.command_again import through_slurm
from fmx.sweeps.search.repeats import in_a_sweep
from fmx.sweeps.search.space import Space

__all__ = ["Command"]


class Command:
    """Builds the command lines of a search."""

    def __init__(
        self, config: DictConfig, fixed: list[str], space: Space, runs: Sequence[Sequence[str]], *, on_nodes: bool
    ) -> None:
        """config: the composed configuration of the search; fixed: the overrides of every trial; runs: of its runs.

        on_nodes: whether SLURM runs trials on several machines each.
        """
        hydra = config.hydra
        folders = [each.path for each in hydra.runtime.config_sources if each.provider == "command-line"]
        typed = [str(each) for each in hydra.overrides.hydra]
        self._start = ["python", "-m", "fmx.run"]
        if hydra.job.config_name != "config":
            self._start += ["--config-name", str(hydra.job.config_name)]
        for folder in folders:
            self._start += ["--config-dir", str(folder)]
        self._start += [text for text in typed if text.startswith("hydra.searchpath=")]
        # Otherwise an experiment file selects the search sweeper, which leaves none for a sweep.
        self._through_slurm = through_slurm(OmegaConf.to_container(hydra, resolve=False)) if on_nodes else None  # type: ignore[arg-type]
        self._is_typed = any(text.startswith("hydra/sweeper=") for text in typed)
        self._runs = runs
        self._fixed = [each for each in fixed if not each.startswith("sweep.")]  # they mean nothing in a single run
        self._space = space
        self._sweep_dir = Path(str(hydra.sweep.dir)).resolve()

    def for_trial(self, values: Mapping[str, Any]) -> str:
        """The command that repeats a trial, quoted for a shell: a run, or a sweep over its seeds and folds."""
        fixed = [each for each in self._fixed if not each.startswith("seed=") or not _has_seeds(self._runs)]
        words = [*fixed, *self._space.overrides(values)]
        if self._through_slurm is not None:  # a single run would have to be started with srun
            return printed_command(*self._start, "-m", *self._through_slurm, *words, *in_a_sweep(self._runs))
        several = len(self._runs) > 1
        if several and not self._is_typed:
            return " && ".join(printed_command(*self._start, "hydra.mode=RUN", *words, *run) for run in self._runs)
        mode = ["-m"] if several else [] if self._is_typed else ["hydra.mode=RUN"]
        return printed_command(*self._start, *mode, *words, *in_a_sweep(self._runs))

    @property
    def to_resume(self) -> str:
        """The command of this process, with the directory of the search."""
        typed = [each for each in sys.argv[1:] if not each.startswith("hydra.sweep.dir=")]
        return printed_command("python", "-m", "fmx.run", *typed, override("hydra.sweep.dir", self._sweep_dir))


def _has_seeds(runs: Sequence[Sequence[str]]) -> bool:
    return any(each.startswith("seed=") for each in runs[0])
