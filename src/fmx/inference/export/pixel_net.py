"""A run's network with its normalisation: pixels in, logits out."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fmx.inference.export.onnx_model import Logits
from fmx.inference.export.signature import Signature, signature_of
from fmx.models.logits import logits_of
from fmx.runs.ensemble import is_ensemble, open_members, refuse_checkpoint
from fmx.runs.run_dir import Run, open_run
from fmx.runs.trusted_config import trusted_config
from fmx.training.restore import restore_classifier

__all__ = ["PixelNet", "open_trained", "torch_logits"]


class PixelNet(nn.Module):
    """Maps pixels (N, C, H, W) to logits (N, K)."""

    def __init__(self, normalize: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits."""
        return logits_of(self.net(self.normalize(pixels)))


def open_trained(
    run_dir: Path, *, checkpoint: str | None, allow: Iterable[str] = ()
) -> list[tuple[Signature, nn.Module]]:
    """Open a finished run on the CPU, without its data: the model's signature, and the model; of an ensemble, each.

    checkpoint: `best`, `last` or a file; None for the one that the run tested.
    """
    run = open_run(run_dir)
    if is_ensemble(run.path):
        refuse_checkpoint(run_dir, checkpoint)
        return [_open(member, None, allow) for member in open_members(run.path)]
    return [_open(run, checkpoint, allow)]


def _open(run: Run, checkpoint: str | None, allow: Iterable[str]) -> tuple[Signature, nn.Module]:
    config = trusted_config(run, allow, trains=False)
    signature = signature_of(config, normalize="inside", record=run.record)
    classifier = restore_classifier(config, run.checkpoint(checkpoint or run.tested))
    return signature, PixelNet(signature.normalization(), classifier.net).eval()


def torch_logits(module: nn.Module) -> Logits:
    """A module in eval mode as a function of arrays, from (N, C, H, W) to float32 (N, K)."""
    module.eval()

    def logits(pixels: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = module(torch.from_numpy(pixels)).float().numpy()
        return result

    return logits
