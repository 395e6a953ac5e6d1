"""One job of a sweep, and the command line that runs it."""

from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import filter_overrides

from fmx.config.quoting import quoted

__all__ = ["FROZEN_JOBS", "Job"]

FROZEN_JOBS = "jobs"  # folder in the sweep directory: frozen configurations and the jobs' logs


@dataclass(frozen=True)
class Job:
    """One job of a sweep. It runs from a frozen configuration, so later changes in conf/ do not affect it."""

    number: int
    overrides: list[str]
    sweep_dir: Path
    fingerprint: str  # of the resolved configuration, seed included
    processes: int = 1  # of one distributed training
    nodes: int = 1  # machines
    accelerator: str = "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether the job may use a GPU."""
        return self.accelerator != "cpu"

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self.sweep_dir / str(self.number)

    @property
    def label(self) -> str:
        """The overrides that identify the job."""
        return " ".join(filter_overrides(self.overrides)) or "(defaults)"

    @property
    def log(self) -> Path:
        """The file with the job's output."""
        return self.sweep_dir / FROZEN_JOBS / f"{self.number}.log"

    @property
    def arguments(self) -> list[str]:
        """The arguments of `python -m fmx.run` for this job, without `resume`."""
        frozen = ["--config-dir", str(self.sweep_dir / FROZEN_JOBS), "--config-name", str(self.number)]
        return [*frozen, f"hydra.run.dir={quoted(str(self.run_dir))}"]
