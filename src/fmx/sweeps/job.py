"""One run of a sweep, as a command line that runs exactly it."""

from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import filter_overrides

from fmx.config.quoting import quoted

__all__ = ["FROZEN_JOBS", "Job"]

FROZEN_JOBS = "jobs"  # the folder of the frozen configurations and of what the jobs print, in the sweep directory


@dataclass(frozen=True)
class Job:
    """One run of a sweep. `arguments` make `python -m fmx.run` run exactly it, whatever conf/ says by then."""

    number: int
    overrides: list[str]
    sweep_dir: Path
    fingerprint: str  # of the resolved configuration, seed included
    processes: int = 1  # that train together
    nodes: int = 1  # on how many machines
    accelerator: str = "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether it may compute on a GPU."""
        return self.accelerator != "cpu"

    @property
    def run_dir(self) -> Path:
        """Where the run is."""
        return self.sweep_dir / str(self.number)

    @property
    def label(self) -> str:
        """What tells it from the others."""
        return " ".join(filter_overrides(self.overrides)) or "(defaults)"

    @property
    def log(self) -> Path:
        """What the job prints."""
        return self.sweep_dir / FROZEN_JOBS / f"{self.number}.log"

    @property
    def arguments(self) -> list[str]:
        """The command line of this job alone, without `resume`."""
        frozen = ["--config-dir", str(self.sweep_dir / FROZEN_JOBS), "--config-name", str(self.number)]
        return [*frozen, f"hydra.run.dir={quoted(str(self.run_dir))}"]
