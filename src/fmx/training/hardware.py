"""The device that this machine computes with, and settings that make it faster."""

import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Trainer

from fmx.process.cores import GPU_SHARE, share_threads
from fmx.process.distributed import num_processes
from fmx.process.start import is_own_process

__all__ = [
    "ask_for_gpus_once",
    "describe_device",
    "keep_freed_memory",
    "limit_gpu_memory",
    "peak_memory_mb",
    "resolve_precision",
    "set_up_process",
]

WORTH_BF16 = 12  # input channels: lenet's 6 make a step of bf16 longer, two_conv's 12 shorter (`benchmarks/steps.py`)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def set_up_process(trainer: Mapping[str, Any]) -> None:
    """Change what a run needs of the process; where the process lives on, process/process_state.py restores it.

    glibc's options cannot be restored, so only a command's own process gets them. trainer: the configuration's node.
    """
    # Lightning's advice about workers and its own deprecations do not help users.
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    # With trainer.deterministic, torch would fill new tensors, which all are written before they are read: a tenth of a
    # step for nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    ask_for_gpus_once()
    limit_gpu_memory()
    if is_own_process():
        keep_freed_memory()
    if threads := share_threads(num_processes(trainer)):
        torch.set_num_threads(threads)


def resolve_precision(precision: str, *, accelerator: str, net: torch.nn.Module) -> str:
    """Replace `auto` by the fastest precision that costs no accuracy: bf16-mixed where the hardware multiplies bf16.

    On a CPU that means AMX or AVX512-BF16, and a network with a convolution that reads several channels: one of few
    channels, or a small matrix product, does not repay the casts. Any other precision is returned unchanged.
    """
    if precision != "auto":
        return precision
    if accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    worth = any(isinstance(module, torch.nn.Conv2d) and module.in_channels >= WORTH_BF16 for module in net.modules())
    return "bf16-mixed" if accelerator in {"auto", "cpu"} and _cpu_has_bf16() and worth else "32-true"


def _cpu_has_bf16() -> bool:
    capabilities: Mapping[str, object] = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def keep_freed_memory() -> None:
    """Have glibc keep the memory that a training step frees for the next; other C libraries are left alone.

    By default large tensors are returned to the system when they are freed, and the system clears each page again when
    the next step allocates: up to a third of a small convolutional network's time on a CPU.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for threshold in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        mallopt(threshold, 2**30)


def limit_gpu_memory() -> None:
    """Allow this process its share of its GPU's memory, where a sweep runs several jobs on one."""
    share = os.environ.get(GPU_SHARE)
    if share and torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK") or 0)
        torch.cuda.set_per_process_memory_fraction(float(share), local_rank % torch.cuda.device_count())


def ask_for_gpus_once() -> None:
    """Without a GPU, undo a setting of Lightning's with which each optimizer step searches the disk for one.

    The setting makes torch query NVIDIA's management library, which is safe before a fork. If the library is missing,
    each query searches for it, and Adam and AdamW query at each step (torch 2.15), which slows small networks.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def describe_device(trainer: Trainer) -> dict[str, object]:
    """The record's `device`: accelerator, name, precision, threads, and the number of processes."""
    root = trainer.strategy.root_device
    return {
        "accelerator": root.type,
        "name": torch.cuda.get_device_name(root) if root.type == "cuda" else _cpu_name(),
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
        "processes": trainer.world_size,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory_mb() -> float | None:
    """The peak memory of this process in RAM, in MiB; None on Windows, which does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)  # bytes on macOS, KiB on Linux
