"""Divide the cores, memory and GPUs that this process may use among parallel jobs."""

import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fmx.process.cores import GPU_SHARE, memory_limit, num_cores
from fmx.sweeps.warm import in_subprocess

__all__ = ["Share", "shares"]

log = logging.getLogger(__name__)

FOR_NETWORKS = 0.9  # of a GPU's memory; the rest is for what each process's driver and libraries take
JOB_BYTES = 1 << 30  # a generous estimate for a job with a small model


@dataclass(frozen=True)
class Share:
    """The threads and GPUs of one worker."""

    threads: int
    gpus: str | None  # as CUDA_VISIBLE_DEVICES; None where all may be seen
    of_gpu: float | None = None  # of each GPU's memory; None where there is no limit

    @property
    def env(self) -> dict[str, str]:
        """Environment variables for a job's process."""
        visible = {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": self.gpus}
        return visible if self.of_gpu is None else {**visible, GPU_SHARE: f"{self.of_gpu:.4f}"}


def shares(
    workers: int | None,
    *,
    num_jobs: int | None,
    processes: int,
    uses_gpu: bool,
    threads: int | None,
    jobs_per_gpu: int = 1,
) -> list[Share]:
    """Divide the machine among workers.

    workers: number of parallel jobs; None: jobs_per_gpu for each GPU, or on the CPU as many as cores and memory allow.
    num_jobs: of the whole sweep, so that a resumed job gets as many threads as before; None: unknown. processes: of one
    distributed job. threads: per process; None: an equal share of the cores. jobs_per_gpu: more than one share a GPU's
    memory equally.
    """
    gpus = _gpus() if uses_gpu else []
    if jobs_per_gpu > 1 and not gpus:
        _say_without_effect(jobs_per_gpu)
    if workers is None:
        by_memory = _memory_bytes() // (JOB_BYTES * processes)
        by_cores = num_cores() // processes
        workers = max(
            1, len(gpus) * jobs_per_gpu // processes if gpus else min(by_cores, by_memory, num_jobs or by_cores)
        )
    threads = threads or max(1, num_cores() // (workers * processes))
    of_gpu = FOR_NETWORKS / jobs_per_gpu if gpus and jobs_per_gpu > 1 else None
    return [Share(threads, _gpus_of(worker, workers, gpus, processes), of_gpu) for worker in range(workers)]


@cache
def _say_without_effect(jobs_per_gpu: int) -> None:
    log.warning("hydra.launcher.jobs_per_gpu=%d is without effect: the jobs use no GPU", jobs_per_gpu)


def _gpus_of(worker: int, workers: int, gpus: list[str], processes: int) -> str | None:
    if not gpus or processes >= len(gpus):
        return None
    first = worker * processes
    return ",".join(gpus[(first + offset) % len(gpus)] for offset in range(processes)) if workers > 1 else None


def _memory_bytes() -> int:
    """The available memory in bytes, within the limit of this process's cgroup."""
    available = sys.maxsize  # macOS does not say
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    return min(available, memory_limit() or available)


@cache
def _gpus() -> list[str]:
    """The GPUs, as CUDA_VISIBLE_DEVICES names them."""
    count = in_subprocess(_num_gpus)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[:count] or [str(index) for index in range(count)]


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()
