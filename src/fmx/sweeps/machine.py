"""What this machine can run at once: processor cores, memory and GPUs, as this process may use them."""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fmx.process.cores import memory_limit, num_cores
from fmx.sweeps.warm import in_subprocess

__all__ = ["Share", "shares"]

JOB_BYTES = 1 << 30  # what a job of a small model needs, generously


@dataclass(frozen=True)
class Share:
    """What one worker computes with."""

    threads: int
    gpus: str | None  # as CUDA_VISIBLE_DEVICES; None where all may be seen

    @property
    def env(self) -> dict[str, str]:
        """The variables that a job's process gets."""
        return {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": self.gpus}


def shares(
    workers: int | None, *, num_jobs: int | None, processes: int, uses_gpu: bool, threads: int | None
) -> list[Share]:
    """Divide the machine among workers.

    workers: how many jobs at once; None: one a GPU, else as many as there are and cores and memory allow. num_jobs: of
    the whole sweep, whatever is left of it, so that a job that is gone on with has its threads of before; None: many.
    processes: that train together in one job. threads: of each process; None: the cores divided.
    """
    gpus = _gpus() if uses_gpu else []
    if workers is None:
        by_memory = _memory_bytes() // (JOB_BYTES * processes)
        by_cores = num_cores() // processes
        workers = max(1, len(gpus) // processes if gpus else min(by_cores, by_memory, num_jobs or by_cores))
    threads = threads or max(1, num_cores() // (workers * processes))
    return [Share(threads, _gpus_of(worker, workers, gpus, processes)) for worker in range(workers)]


def _gpus_of(worker: int, workers: int, gpus: list[str], processes: int) -> str | None:
    if not gpus or processes >= len(gpus):
        return None
    first = worker * processes
    return ",".join(gpus[(first + offset) % len(gpus)] for offset in range(processes)) if workers > 1 else None


def _memory_bytes() -> int:
    """The free memory, within the limit of this process's control group."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    return min(available, memory_limit() or available)


@cache
def _gpus() -> list[str]:
    """The GPUs by the names that CUDA_VISIBLE_DEVICES takes."""
    count = in_subprocess(_num_gpus)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[:count] or [str(index) for index in range(count)]


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()
