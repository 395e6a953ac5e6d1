"""Flattening that keeps the memory order of channels_last."""

from torch import Tensor, nn

__all__ = ["Flatten"]


class Flatten(nn.Module):
    """Flattens pixel by pixel, the memory order of channels_last.

    Maps (B, C, H, W) to (B, H * W * C). torch's Flatten orders by channel: it copies a channels_last tensor, and the
    gradient has another memory format than the tensor, for which torch has no fast kernels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, H * W * C)."""
        return x.permute(0, 2, 3, 1).flatten(1)
