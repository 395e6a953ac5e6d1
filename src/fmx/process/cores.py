"""The CPU cores and the memory that this process may use, by affinity and control groups."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["GPU_SHARE", "limit_threads", "memory_limit", "num_cores", "share_threads"]

PROCESS = Path("/proc/self")
THREADS = "OMP_NUM_THREADS"
GPU_SHARE = "FMX_GPU_SHARE"  # the part of a GPU's memory that a sweep allows its job
_ours: set[str] = set()  # values of THREADS that fmx set itself, to tell them from the user's


def num_cores(process: Path = PROCESS) -> int:
    """The number of cores that the affinity and the CPU quota of this process allow, rounded up.

    A quota is `docker run --cpus=2`, systemd's CPUQuota or a Kubernetes limit: control groups of version 1 and 2,
    parent groups included. LOKY_MAX_CPU_COUNT, which joblib reads, limits the number too.
    """
    # Here, because its import takes 0.1 s, which most commands do not need.
    from joblib import cpu_count

    cores: int = cpu_count()
    return max(1, min([cores, *_cpu_quotas(process)]))


def memory_limit(process: Path = PROCESS) -> int | None:
    """The memory limit of this process's control groups in bytes; None where there is none."""
    limits = []
    for group in _groups("memory", process):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # `max` is no limit
                limits.append(int((group / name).read_text(encoding="ascii")))
    return min(limits, default=None)


def limit_threads() -> None:
    """Limit the threads of numerical libraries, here and in child processes, to the cores of the CPU quota.

    The libraries respect the affinity by themselves, but no quota. A value that the user has set is kept.
    """
    if THREADS not in os.environ and min(_cpu_quotas(PROCESS), default=math.inf) < (os.cpu_count() or 1):
        os.environ[THREADS] = str(num_cores())
        _ours.add(os.environ[THREADS])


def share_threads(processes: int) -> int | None:
    """Divide the threads that `limit_threads` set among training processes; returns the threads of each.

    Returns None and changes nothing where it set none.
    """
    if processes == 1 or os.environ.get(THREADS) not in _ours:
        return None
    threads = max(1, int(os.environ[THREADS]) // processes)
    os.environ[THREADS] = str(threads)
    return threads


def _cpu_quotas(process: Path) -> list[int]:
    """The CPU quotas of this process's control groups in cores, rounded up; joblib reads the outermost group alone."""
    return [math.ceil(quota) for group in _groups("cpu", process) if (quota := _cpu_quota(group)) is not None]


def _cpu_quota(group: Path) -> float | None:
    with suppress(OSError, ValueError):  # version 2; `max` is no quota
        quota, period = map(int, (group / "cpu.max").read_text(encoding="ascii").split())
        return quota / period
    with suppress(OSError, ValueError):  # version 1; -1 is no quota
        quota = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        return quota / int((group / "cpu.cfs_period_us").read_text(encoding="ascii")) if quota > 0 else None
    return None


def _groups(controller: str, process: Path) -> Iterator[Path]:
    """The folders of this process's control groups that may limit `controller`, innermost first."""
    try:
        memberships = (process / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (process / "mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    paths: dict[str, str] = {}  # by controller name; "" for version 2
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for line in mounts:
        before, _, after = line.partition(" - ")
        root, top = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        name = "" if kind == "cgroup2" else controller
        if kind not in {"cgroup", "cgroup2"} or name not in paths or (name and name not in options.split(",")):
            continue
        inner = os.path.relpath(paths[name], root)  # a container sees its own group as the root, or the whole hierarchy
        folder = Path(top) if inner.startswith("..") else Path(top, inner)
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(top))
