"""A state dict as torch.save writes it: tensors by name and nothing else."""

import copy
import io
from pathlib import Path

import torch
from torch import nn

from fmx.inference.export.onnx_model import Logits
from fmx.inference.export.pixel_net import PixelNet, torch_logits
from fmx.inference.export.signature import Signature
from fmx.models.tensor_file import read_tensors

__all__ = ["open_state_dict", "write_state_dict"]


def write_state_dict(net: nn.Module, path: Path) -> None:
    """Write a network's weights for torch.load(path, weights_only=True)."""
    buffer = io.BytesIO()  # so that a full disk raises an OSError
    torch.save({name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}, buffer)
    path.write_bytes(buffer.getbuffer())


def open_state_dict(net: nn.Module, signature: Signature, path: Path) -> Logits:
    """Load the weights into a copy of the network: a function from pixels (N, C, H, W) to logits (N, K)."""
    blank = copy.deepcopy(net)
    for tensor in blank.state_dict().values():
        tensor.zero_()
    blank.load_state_dict(read_tensors(path))
    return torch_logits(PixelNet(signature.normalization(), blank))
