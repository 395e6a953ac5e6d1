"""A file of weights for a network of torchvision or timm."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fmx.errors import DataError, first_line
from fmx.models.tensor_file import is_safetensors, read_tensors
from fmx.models.torchvision_net import adapt_kernel

__all__ = ["Fit", "load_weights_file", "read_state"]

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# Keys under which training scripts save a state dict besides other things. The first key found counts, or the only
# state dict under any key.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "model_ema", "ema")
MANY = 3  # names of each kind that an error lists
REMEDY = "write one with torch.save(model.state_dict(), FILE), or use"


@dataclass(frozen=True)
class Fit:
    """The sizes in a file of weights of the two layers that may differ from the network's.

    channels: input channels of its first convolution. classes: of its last layer. None where it has no such layer.
    """

    channels: int | None
    classes: int | None


def load_weights_file(net: nn.Module, path: Path, architecture: str, *, first: str | None, last: Sequence[str]) -> Fit:
    """Copy the tensors of a file into `net`, whose channels and classes may differ from the file's.

    The file holds a state dict: one that the library offers, one saved from a network here, or a run's
    checkpoint. A last layer with another number of classes, or none, leaves that of `net` unchanged. A `net` on the
    meta device, which has no memory for weights, is only compared with the file.

    first: the convolution that takes the image. last: the layers that make the logits.

    DataError: the file cannot be read, or belongs to another architecture than `architecture`.
    """
    own = net.state_dict()
    state = _network_part(read_state(path, without="model.net.weights=null"), first_key=next(iter(own)))

    channels = _adapt_first(state, own, first)
    sizes = [
        len(state[key]) if key in state and state[key].dim() else None for key in (f"{name}.weight" for name in last)
    ]
    if any(size != len(own[f"{name}.weight"]) for name, size in zip(last, sizes, strict=True)):
        heads = tuple(f"{name}." for name in last)
        state = {key: tensor for key, tensor in state.items() if not key.startswith(heads)}
        state |= {key: tensor for key, tensor in own.items() if key.startswith(heads)}

    problems = _differences(own, state)
    if problems:
        raise DataError(
            f"the weights in {path} do not fit '{architecture}': {'; '.join(problems)}. "
            "Use the architecture that they were saved from, or model.net.weights=null"
        )
    own.update(state)
    if not any(parameter.is_meta for parameter in net.parameters()):
        net.load_state_dict(own)
    return Fit(channels, sizes[0])


def _adapt_first(state: dict[str, Tensor], own: Mapping[str, Tensor], first: str | None) -> int | None:
    """Adapt the first convolution of a file to the network's channels; returns the file's number of channels."""
    key = f"{first}.weight"
    kernel, wanted = state.get(key), own.get(key)
    if kernel is None or wanted is None or kernel.dim() != wanted.dim() or kernel.dim() < 2 or not kernel.shape[1]:  # noqa: PLR2004
        return None
    if kernel.shape[1] != wanted.shape[1]:
        state[key] = adapt_kernel(kernel, wanted.shape[1])
    return kernel.shape[1]


def read_state(path: Path, *, without: str) -> dict[str, Tensor]:
    """The tensors of a state dict in a file of torch.save or safetensors, which may hold other values beside it.

    without: what to type to do without a file. DataError: the file cannot be read, or holds no state dict of finite
    numbers.
    """
    remedy = f"{REMEDY} {without}"
    try:
        content = _read_safetensors(path) or read_tensors(path, old_format=True)
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error
    if not _is_state(content) and isinstance(content, dict):
        named = [content[key] for key in WRAPPERS if _is_state(content.get(key))]
        found = named or [value for value in content.values() if _is_state(value)]
        content = found[0] if named or len(found) == 1 else None
    if not _is_state(content):
        raise DataError(f"{path} holds no state dict; {remedy}")
    for name, tensor in content.items():
        if not tensor.isfinite().all():
            raise DataError(f"{path} holds weights that are not finite, in {name[:120]}: training diverged; {remedy}")
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file of safetensors; None of another file, or where that package is not installed."""
    if not path.is_file() or not is_safetensors(path) or find_spec("safetensors") is None:
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {first_line(error)}") from error


def _is_state(node: Any) -> bool:
    return (
        isinstance(node, dict)
        and bool(node)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in node.items())
    )


def _network_part(state: dict[str, Tensor], first_key: str) -> dict[str, Tensor]:
    """Return the tensors of the network, which may be part of a larger module, by their present names."""
    prefixes = [key.removesuffix(first_key) for key in state if f".{key}".endswith(f".{first_key}")]
    prefix = min(prefixes, key=len, default="")
    part = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    # torchvision's files for DenseNet have norm.1 where the network has norm1.
    part = {re.sub(r"(denselayer\d+\.\w+)\.(?=\d\.)", r"\1", key): tensor for key, tensor in part.items()}
    return {key: tensor for key, tensor in part.items() if not key.startswith(AUXILIARY)}


def _differences(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """What in a file does not fit: the first few names of each kind."""
    # Files from before 2018 lack the batch counters, which no network here uses.
    lacking = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    reshaped = [
        f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    kinds = [("it lacks", lacking), ("the network has no", unknown), ("other shapes:", reshaped)]
    return [f"{what} {_first_names(names)}" for what, names in kinds if names]


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return f"{', '.join(name[:120] for name in names[:MANY])}{more}"
