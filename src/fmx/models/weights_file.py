"""A file of weights for a torchvision network."""

import re
from pathlib import Path

from torch import Tensor, nn

from fmx.errors import DataError
from fmx.models.torchvision_net import adapt_kernel, first_convolution, head
from fmx.tensor_file import read_tensors

__all__ = ["load_weights_file"]

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
REMEDY = "write one with torch.save(model.state_dict(), FILE), or use model.net.weights=null"


def load_weights_file(net: nn.Module, path: Path, architecture: str) -> None:
    """Copy the tensors of a file into `net`, whose channels and classes may be others than the file's.

    The file holds a state dict: one that torchvision offers, one saved from a network here, or a run's
    checkpoint. A last layer with another number of classes is left as it is in `net`.

    DataError: the file cannot be read, or belongs to another architecture than `architecture`.
    """
    own = net.state_dict()
    state = _network_part(_read_tensors(path), first_key=next(iter(own)))

    name, convolution = first_convolution(net)
    kernel = state.get(f"{name}.weight")
    if kernel is not None and kernel.dim() == convolution.weight.dim():
        state[f"{name}.weight"] = adapt_kernel(kernel, convolution.in_channels)
    name, last = head(net)
    if f"{name}.weight" in state and len(state[f"{name}.weight"]) != len(last.weight):
        state |= {key: tensor for key, tensor in own.items() if key.startswith(f"{name}.")}

    problems = _differences(own, state)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(
            f"the weights in {path} do not fit '{architecture}': {problems[0]}{more}; "
            "use the architecture that they were saved from, or model.net.weights=null"
        )
    own.update(state)
    net.load_state_dict(own)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        content = read_tensors(path, old_format=True)
    except DataError as error:
        raise DataError(f"{error}; {REMEDY}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]  # a checkpoint of Lightning
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path} holds no state dict; {REMEDY}")
    return content


def _network_part(state: dict[str, Tensor], first_key: str) -> dict[str, Tensor]:
    """Return the tensors of the network, which may be part of something larger, by their present names."""
    prefixes = [key.removesuffix(first_key) for key in state if f".{key}".endswith(f".{first_key}")]
    prefix = min(prefixes, key=len, default="")
    part = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    # torchvision's files for DenseNet still say norm.1 where the network says norm1.
    part = {re.sub(r"(denselayer\d+\.\w+)\.(?=\d\.)", r"\1", key): tensor for key, tensor in part.items()}
    return {key: tensor for key, tensor in part.items() if not key.startswith(AUXILIARY)}


def _differences(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    # Files from before 2018 lack the batch counters, which no network here uses.
    lacking = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    return [
        *(f"it lacks '{key}'" for key in lacking),
        *(f"the network has no '{key}'" for key in unknown),
        *(f"'{key}' is {list(state[key].shape)}, not {list(own[key].shape)}" for key in reshaped),
    ]
