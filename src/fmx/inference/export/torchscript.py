"""TorchScript files: a network for C++, or for Python without its source. torch has deprecated them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fmx.errors import FmxError
from fmx.inference.export.onnx_model import Logits
from fmx.inference.export.signature import Signature

__all__ = ["open_torchscript", "write_torchscript"]

NOTES = "fmx.json"


class _Guarded(nn.Module):
    """Checks the dtype and the shape of images, which a traced network does not.

    It is scripted, so its checks are in the file.
    """

    def __init__(self, traced: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.traced = traced
        self.dtype = getattr(torch, signature.input_dtype)
        self.channels, self.height, self.width = signature.shape
        low, high = signature.value_range
        pixels = f"{signature.dtype} pixels from {low:g} to {high:g}"
        what = pixels if signature.normalize == "inside" else "normalised float32 images"
        self.wanted = f"this model takes {what} of the shape (N, {', '.join(map(str, signature.shape))}), got "

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        if images.dtype != self.dtype:
            raise ValueError(self.wanted + "another type of numbers")
        if images.dim() != 4 or list(images.shape[1:]) != [self.channels, self.height, self.width]:  # noqa: PLR2004
            raise ValueError(self.wanted + str(images.shape))
        logits: Tensor = self.traced(images)
        return logits


def write_torchscript(module: nn.Module, signature: Signature, path: Path) -> None:
    """Trace a network and save it; its signature is stored as the extra file `fmx.json`.

    The input is (N, C, H, W) of the signature's type, float32 where the normalisation stays outside; the output,
    logits (N, K).
    """
    dtype = getattr(torch, signature.input_dtype)
    notes = signature.to_json()
    try:
        with _without_warnings(), torch.no_grad():
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                module, torch.zeros(2, *signature.shape, dtype=dtype), check_trace=False
            )
            guarded = torch.jit.script(_Guarded(traced, signature))
            contents = guarded.save_to_buffer(_extra_files={NOTES: notes})  # type: ignore[no-untyped-call]
    except Exception as error:  # the tracer may raise any exception
        reason = str(error).strip().partition("\n")[0]
        raise FmxError(f"{signature.model} cannot be written as TorchScript: {reason}") from error
    path.write_bytes(contents)


def open_torchscript(path: Path, signature: Signature) -> Logits:
    """Load the file as a function from pixels (N, C, H, W) to logits float32 (N, K)."""
    with _without_warnings():
        loaded = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]

    def logits(pixels: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = loaded(torch.from_numpy(signature.as_input(pixels))).float().numpy()
        return result

    return logits


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide torch's deprecation warnings: who asks for TorchScript has a runtime that needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
