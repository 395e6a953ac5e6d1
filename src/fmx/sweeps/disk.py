"""How much disk runs will take: an estimate, from their networks and optimizers."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal

from fmx.runs.composition import register_resolvers
from fmx.sweeps.warm import in_subprocess

__all__ = ["checkpoint_bytes", "disk_needed", "in_words"]

REST_BYTES = (
    3_000_000  # figures, predictions, curves and records of a run: 1.5 MB of the digits, 3.0 MB of Fashion-MNIST
)


def disk_needed(configs: Sequence[DictConfig], *, keep: int | None = None) -> int:
    """The bytes that the runs of composed configurations leave; keep: how many of them keep their checkpoints."""
    checkpoints = sorted(in_subprocess(_of_all, list(configs)), reverse=True)
    return sum(checkpoints[:keep]) + REST_BYTES * len(configs)


def in_words(size: int, folder: Path) -> str:
    """What a size means for the disk on which a folder is, or will be."""
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    free = shutil.disk_usage(there).free
    return f"about {decimal(size)} of disk, of which {'only ' if free < size else ''}{decimal(free)} are free"


def checkpoint_bytes(config: DictConfig) -> int:
    """The bytes of best.ckpt and last.ckpt together: weights, and what the optimizer keeps of each.

    Without those of a network that looks at values while it is built.
    """
    import torch

    from fmx.training.build import make, meta_network

    try:
        net: Any = meta_network(OmegaConf.to_container(config.model.net, resolve=True))  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - the check has passed it, so it can be built in earnest
        return 0
    weights = sum(each.numel() * each.element_size() for each in net.state_dict().values())
    trained = sum(each.numel() * each.element_size() for each in net.parameters() if each.requires_grad)
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    optimizer: Any = make(config.optim)([weight])
    try:
        optimizer.step()
    except TypeError:  # one that asks for a closure
        optimizer.step(weight.sum)
    kept = sum(
        isinstance(each, torch.Tensor) and each.shape == weight.shape for each in optimizer.state[weight].values()
    )
    averaged = any("WeightAveraging" in str(each.get("_target_")) for each in config.callbacks.values())
    return 2 * int(weights * (2 if averaged else 1) + kept * trained)


def _of_all(configs: Sequence[DictConfig]) -> list[int]:
    register_resolvers()
    known: dict[str, int] = {}
    sizes = []
    for config in configs:
        key = repr([OmegaConf.to_container(config[part], resolve=True) for part in ("model", "optim", "callbacks")])
        if key not in known:
            known[key] = checkpoint_bytes(config)
        sizes.append(known[key])
    return sizes
