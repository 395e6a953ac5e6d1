"""TorchScript files: a network for C++, or for Python without its source."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fmx.errors import FmxError
from fmx.exporting.onnx_model import Logits
from fmx.exporting.signature import Signature

__all__ = ["open_torchscript", "write_torchscript"]

NOTES = "fmx.json"


def write_torchscript(module: nn.Module, signature: Signature, path: Path) -> None:
    """Trace a network and save it; its signature goes along as the extra file `fmx.json`.

    The input is uint8 (N, C, H, W), or float32 where the normalisation stays outside; the output, logits (N, K).
    """
    dtype = torch.uint8 if signature.normalize == "inside" else torch.float32
    notes = "{" + ", ".join(f"{json.dumps(k)}: {v}" for k, v in signature.to_texts().items()) + "}"
    try:
        with _deprecated(), torch.no_grad():
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                module, torch.zeros(2, *signature.shape, dtype=dtype), check_trace=False
            )
            contents = traced.save_to_buffer(_extra_files={NOTES: notes})
    except Exception as error:  # whatever the network does, the tracer may stumble over
        reason = str(error).strip().partition("\n")[0]
        raise FmxError(f"{signature.model} cannot be written as TorchScript: {reason}") from error
    path.write_bytes(contents)


def open_torchscript(path: Path, signature: Signature) -> Logits:
    """Load such a file as a function from pixels uint8 (N, C, H, W) to logits float32 (N, K)."""
    with _deprecated():
        loaded = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]

    def logits(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = loaded(torch.from_numpy(signature.as_input(pixels))).float().numpy()
        return result

    return logits


@contextmanager
def _deprecated() -> Iterator[None]:
    """Pass over torch's advice to move to torch.export: who asks for TorchScript has a runtime that needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
