"""Estimate how much disk space runs will take, from their networks and optimizers."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from rich.filesize import decimal

from fmx.config.passed import Passed
from fmx.config.quoting import escape_interpolations

if TYPE_CHECKING:
    from fmx.sweeps.ledger import Ledger

__all__ = ["REST_BYTES", "checkpoint_bytes", "in_words", "jobs_in_words", "runs_in_words"]

REST_BYTES = 3_000_000  # of a run, besides its checkpoints: 1.5 MB for digits, 3.0 MB for Fashion-MNIST


def jobs_in_words(ledger: "Ledger", numbers: Sequence[int]) -> str | None:
    """Describe the disk space that jobs of a sweep take; None for no job, and for a sweep of an earlier version."""
    sizes = [size for number in numbers if (size := ledger.entries[number].checkpoint_bytes) is not None]
    if not sizes or len(sizes) < len(numbers):
        return None
    keep, num_data = (ledger.settings.get(key) for key in ("keep_checkpoints", "num_data_sets"))
    return runs_in_words(sizes, ledger.sweep_dir, keep=keep, of_each=num_data or 1)


def runs_in_words(checkpoints: Sequence[int], folder: Path, *, keep: int | None, of_each: int = 1) -> str:
    """Describe the disk space that runs take, at the latest before the checkpoints of all but the best are deleted.

    checkpoints: the bytes of each run's checkpoints. keep: sweep.keep_checkpoints. of_each: of how many data sets, or
    runs of a trial.
    """
    rest = REST_BYTES * len(checkpoints)
    said = in_words(sum(checkpoints) + rest, folder)
    if keep is None:
        return said
    left = sum(sorted(checkpoints, reverse=True)[: keep * of_each]) + rest
    return f"{said}; about {decimal(left)} from its end on (sweep.keep_checkpoints={keep})"


def in_words(size: int, folder: Path) -> str:
    """Describe a size in bytes, and the free space of the disk on which a folder is or will be."""
    existing = next(each for each in (folder, *folder.parents) if each.is_dir())
    free = shutil.disk_usage(existing).free
    return f"about {decimal(size)} of disk, of which {'only ' if free < size else ''}{decimal(free)} are free"


def checkpoint_bytes(resolved: Mapping[str, Any], passed: Passed | None = None) -> int:
    """Estimate the bytes of best.ckpt and last.ckpt together: weights and optimizer state.

    resolved: a checked configuration as plain values; 0 for a network that cannot be built on the meta device.
    passed: keeps what is the same for several configurations.
    """
    once = (passed or Passed()).once
    weights, trained = once("weights", resolved["model"]["net"], lambda: _weight_bytes(resolved["model"]["net"]))
    num_state_tensors = once("optimizer state", _kind(resolved["optim"]), lambda: _num_states(resolved["optim"]))
    targets = [node["_target_"] for node in resolved["callbacks"].values()]
    averaged = once("averaged weights", targets, lambda: any(map(_averages_weights, targets)))
    return 2 * int(weights * (2 if averaged else 1) + num_state_tensors * trained)


def _weight_bytes(node: Mapping[str, Any]) -> tuple[int, int]:
    """The bytes of a network's state, and of those of its weights that are trained."""
    from fmx.training.build import meta_network

    try:
        net = meta_network(node)
    except Exception:  # noqa: BLE001 - the configuration is checked, so it can be built elsewhere
        return 0, 0
    weights = sum(each.numel() * each.element_size() for each in net.state_dict().values())
    return weights, sum(each.numel() * each.element_size() for each in net.parameters() if each.requires_grad)


def _kind(node: Any) -> Any:
    """A node with its numbers replaced: only whether one is 0, as a momentum may be, determines what is kept."""
    if isinstance(node, Mapping):
        return {key: _kind(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_kind(child) for child in node]
    return bool(node) if isinstance(node, int | float) else node


def _num_states(node: Mapping[str, Any]) -> int:
    """How many tensors of a weight's shape an optimizer keeps for each weight."""
    import torch

    from fmx.training.build import make_optimizer

    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros(2, 2)
    optimizer: Any = make_optimizer(OmegaConf.create(escape_interpolations({"optim": node})).optim)([weight])
    try:
        optimizer.step()
    except TypeError:  # the optimizer needs a closure, as LBFGS does
        optimizer.step(weight.sum)
    states = optimizer.state[weight].values()
    return sum(isinstance(each, torch.Tensor) and each.shape == weight.shape for each in states)


def _averages_weights(target: str) -> bool:
    from pytorch_lightning.callbacks import WeightAveraging

    from fmx.config.targets import locate

    kind = locate(target, "callbacks")
    return isinstance(kind, type) and issubclass(kind, WeightAveraging)
