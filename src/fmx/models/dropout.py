"""Dropout with fast random numbers on a CPU."""

import math

import torch
from torch import Tensor, nn

__all__ = ["Dropout"]


class Dropout(nn.Dropout):
    """torch's dropout; on a CPU, 16 random bits decide on each value instead of a random float.

    Maps any shape to the same shape. The probability is `p` to within 2^-17. torch draws its
    floats one by one, which took more than a third of a step of conf/model/dropout_cnn.yaml; these bits come from
    the same generator, four values at a time. ValueError: `p` is not in 0..1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the values, of which a share `p` is zero in training and the others are divided by 1 - `p`."""
        dropped = round(self.p * 2**16)
        as_torch = (
            x.device.type != "cpu" or torch.compiler.is_compiling()
        )  # compiled, torch's is one with its neighbours
        if not self.training or as_torch or dropped in {0, 2**16}:
            return super().forward(x)
        bits = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        # In the memory order of the values, so that the product reads both sequentially.
        keep = bits.as_strided(x.shape, torch.empty_like(x).stride()) >= dropped - 2**15
        return x * keep.to(x.dtype).div_(1 - self.p)
