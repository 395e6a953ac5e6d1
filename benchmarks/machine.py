"""What a figure was measured on: written into the files of benchmarks/results/KIND/ and below their tables."""

import os
import platform
from importlib import metadata
from pathlib import Path

__all__ = ["describe", "has_bf16_units", "in_words", "kind"]

PACKAGES = ["torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core"]


def describe(device: str = "cpu") -> dict[str, object]:
    """Processor, cores, what it multiplies natively, memory, versions and, for cuda, the name of the GPU."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return {
        "device": device,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "amx_bf16": bool(capabilities.get("amx_bf16")),
        "avx512_bf16": bool(capabilities.get("avx512_bf16")),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "load_before": round(os.getloadavg()[0], 2),  # of others: a busy machine shows here
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }


def kind(machine: dict[str, object]) -> str:
    """Which figures can be put side by side: `gpu`, or a CPU with `amx`, `avx512_bf16` or neither (`float32`)."""
    if machine["gpu"]:
        return "gpu"
    return "amx" if machine["amx_bf16"] else "avx512_bf16" if machine["avx512_bf16"] else "float32"


def has_bf16_units(machine: dict[str, object]) -> bool:
    """Whether it multiplies bf16 natively, as the GPUs of these tables do."""
    return bool(machine["gpu"] or machine["amx_bf16"] or machine["avx512_bf16"])


def in_words(machine: dict[str, object]) -> str:
    """One clause for the caption of a table, with the `date` that result_file adds."""
    units = "AMX" if machine["amx_bf16"] else "AVX512-BF16" if machine["avx512_bf16"] else "no bf16 units"
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    versions = machine["versions"]
    assert isinstance(versions, dict)
    day = f", {machine['date']}" if "date" in machine else ""
    return f"{gpu}{machine['processor']}, {machine['cores']} cores, {units}, torch {versions['torch']}{day}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
