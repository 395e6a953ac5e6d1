"""Reading a checkpoint: tensors and plain values only, never code."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmx.errors import DataError

__all__ = ["load_checkpoint", "load_weights"]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint onto the CPU; DataError where it is missing, damaged, or holds more than tensors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are no checkpoint; what matters raises
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"there is no checkpoint {path}") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise DataError(f"{path} is not a checkpoint of fmx: it holds no state_dict")
    return state


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a checkpoint's weights into a module; DataError names the first weights that do not fit."""
    state = load_checkpoint(path)["state_dict"]
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise DataError(f"{path} does not fit this model: it has no weights {name!r}")
        if state[name].shape != tensor.shape:
            raise DataError(
                f"{path} does not fit this model: {name} has shape {tuple(state[name].shape)} there and "
                f"{tuple(tensor.shape)} here"
            )
    extra = next((name for name in state if name not in own), None)
    if extra is not None:
        raise DataError(f"{path} does not fit this model: it has weights {extra!r} that the model lacks")
    module.load_state_dict(state)
