"""The command lines of a search: the one that resumes it, and those that repeat a trial as a single run."""

import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fmx.config.printed_command import printed_command
from fmx.config.quoting import override
from fmx.process.distributed import start_on_machines
from fmx.runs.command_again import through_slurm
from fmx.sweeps.search.repeats import in_a_sweep
from fmx.sweeps.search.space import Space

__all__ = ["Command"]


class Command:
    """Builds the command lines of a search."""

    def __init__(
        self,
        config: DictConfig,
        fixed: list[str],
        space: Space,
        runs: Sequence[Sequence[str]],
        *,
        on_nodes: Mapping[str, Any] | None,
    ) -> None:
        """config: the composed configuration of the search; fixed: the overrides of every trial; runs: of its runs.

        on_nodes: the `trainer` node of trials that SLURM runs on several machines each.
        """
        hydra = config.hydra
        folders = [each.path for each in hydra.runtime.config_sources if each.provider == "command-line"]
        typed = [str(each) for each in hydra.overrides.hydra]
        self._sources = ["--config-name", str(hydra.job.config_name)] if hydra.job.config_name != "config" else []
        for folder in folders:
            self._sources += ["--config-dir", str(folder)]
        self._sources += [text for text in typed if text.startswith("hydra.searchpath=")]
        self._on_nodes = on_nodes
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
            sweep = ["-m", *self._sources, *self._through_slurm, *words, *in_a_sweep(self._runs)]
            return printed_command("python", "-m", "fmx.run", *sweep)
        if len(self._runs) > 1 and self._is_typed:
            return printed_command("python", "-m", "fmx.run", *self._sources, "-m", *words, *in_a_sweep(self._runs))
        mode = [] if self._is_typed else ["hydra.mode=RUN"]
        return " && ".join(self._of_run([*mode, *words, *run]) for run in self._runs)

    def _of_run(self, words: list[str]) -> str:
        start, needs_folder = start_on_machines(self._on_nodes or {}, "FIRST_HOST")
        name = f"{self._sweep_dir.name}_{zlib.crc32(' '.join(words).encode()):08x}"  # of no other run
        folder = [override("hydra.run.dir", self._sweep_dir.with_name(name))] if needs_folder else []
        return printed_command(*start, *self._sources, *words, *folder)

    @property
    def to_resume(self) -> str:
        """The command of this process, with the directory of the search."""
        typed = [each for each in sys.argv[1:] if not each.startswith("hydra.sweep.dir=")]
        return printed_command("python", "-m", "fmx.run", *typed, override("hydra.sweep.dir", self._sweep_dir))


def _has_seeds(runs: Sequence[Sequence[str]]) -> bool:
    return any(each.startswith("seed=") for each in runs[0])
