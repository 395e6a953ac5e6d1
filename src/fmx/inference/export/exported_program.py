"""torch.export's files (.pt2): a network's graph and weights, for Python without its source."""

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fmx.compat import assert_dtype
from fmx.errors import FmxError
from fmx.inference.export.onnx_model import Logits
from fmx.inference.export.signature import Signature

__all__ = ["open_exported_program", "write_exported_program"]

NOTES = "fmx.json"


class _Guarded(nn.Module):
    """Adds a check of the dtype to the exported graph, which checks the shape by itself."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        assert_dtype(images, self.dtype)
        logits: Tensor = self.module(images)
        return logits


def write_exported_program(module: nn.Module, signature: Signature, path: Path) -> None:
    """Export a network with a dynamic batch; its signature is stored as the extra file `fmx.json`.

    The input is (N, C, H, W) of the signature's type, float32 where the normalisation stays outside; the
    output, logits (N, K).
    FmxError if torch cannot export the network.
    """
    dtype = getattr(torch, signature.input_dtype)
    example = torch.zeros(2, *signature.shape, dtype=dtype)
    try:
        with torch.no_grad():
            # channels_last weights would be saved as views of larger tensors.
            contiguous = copy.deepcopy(module).to(memory_format=torch.contiguous_format)
            guarded = _Guarded(contiguous, dtype).eval()
            program = torch.export.export(guarded, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names folders of this machine
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={NOTES: signature.to_json()})
    except Exception as error:  # torch's exporter may raise any exception
        reason = str(error).strip().partition("\n")[0]
        raise FmxError(f"{signature.model} cannot be written by torch.export: {reason}; try --format onnx") from error
    path.write_bytes(buffer.getbuffer())


def open_exported_program(path: Path, signature: Signature) -> Logits:
    """Load the file as a function from pixels (N, C, H, W) to logits float32 (N, K)."""
    module = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def logits(pixels: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = module(torch.from_numpy(signature.as_input(pixels))).float().numpy()
        return result

    return logits
