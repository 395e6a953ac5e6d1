"""Estimate how much disk space runs will take, from their networks and optimizers."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal

from fmx.config.hydra_values import hydra_values
from fmx.runs.composition import register_resolvers
from fmx.sweeps.warm import in_subprocess

__all__ = ["checkpoint_bytes", "disk_needed", "in_words"]

REST_BYTES = 3_000_000  # of a run, besides its checkpoints: 1.5 MB for digits, 3.0 MB for Fashion-MNIST


def disk_needed(configs: Sequence[DictConfig], *, keep: int | None = None) -> int:
    """Estimate the bytes that runs write; keep: how many of them keep their checkpoints, None for all."""
    checkpoints = sorted(in_subprocess(_all_checkpoint_bytes, list(configs)), reverse=True)
    return sum(checkpoints[:keep]) + REST_BYTES * len(configs)


def in_words(size: int, folder: Path) -> str:
    """Describe a size in bytes, and the free space of the disk on which a folder is or will be."""
    existing = next(each for each in (folder, *folder.parents) if each.is_dir())
    free = shutil.disk_usage(existing).free
    return f"about {decimal(size)} of disk, of which {'only ' if free < size else ''}{decimal(free)} are free"


def checkpoint_bytes(config: DictConfig) -> int:
    """Estimate the bytes of best.ckpt and last.ckpt together: weights and optimizer state.

    0 for a network that cannot be built on the meta device.
    """
    import torch
    from pytorch_lightning.callbacks import WeightAveraging

    from fmx.config.targets import locate
    from fmx.training.build import make_optimizer, meta_network

    try:
        net: Any = meta_network(OmegaConf.to_container(config.model.net, resolve=True))  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - the configuration is checked, so it can be built elsewhere
        return 0
    weights = sum(each.numel() * each.element_size() for each in net.state_dict().values())
    trained = sum(each.numel() * each.element_size() for each in net.parameters() if each.requires_grad)
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    optimizer: Any = make_optimizer(config.optim)([weight])
    try:
        optimizer.step()
    except TypeError:  # the optimizer needs a closure, as LBFGS does
        optimizer.step(weight.sum)
    num_state_tensors = sum(
        isinstance(each, torch.Tensor) and each.shape == weight.shape for each in optimizer.state[weight].values()
    )
    kinds = [locate(str(each._target_), "callbacks") for each in config.callbacks.values()]
    averaged = any(isinstance(kind, type) and issubclass(kind, WeightAveraging) for kind in kinds)
    return 2 * int(weights * (2 if averaged else 1) + num_state_tensors * trained)


def _all_checkpoint_bytes(configs: Sequence[DictConfig]) -> list[int]:
    register_resolvers()
    known: dict[str, int] = {}
    sizes = []
    for config in configs:
        with hydra_values(config):
            key = repr([OmegaConf.to_container(config[part], resolve=True) for part in ("model", "optim", "callbacks")])
            if key not in known:
                known[key] = checkpoint_bytes(config)
        sizes.append(known[key])
    return sizes
