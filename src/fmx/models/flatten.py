"""From maps to one vector of features."""

from torch import Tensor, nn

__all__ = ["Flatten"]


class Flatten(nn.Module):
    """The values of each place one after the other, as they lie in memory where a network is channels_last.

    Maps (B, C, H, W) to (B, H * W * C). torch's Flatten has the values of each channel one after the other: then all
    are moved, and what flows back through the layer before lies otherwise than what it computed, for which torch has
    no fast ways.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, H * W * C)."""
        return x.permute(0, 2, 3, 1).flatten(1)
