"""A fixed first layer."""

import math

import torch
from torch import Tensor, nn

from fmx.models.sizes import positive

__all__ = ["CosineStem"]


class CosineStem(nn.Module):
    """A fixed convolution with the patterns of the discrete cosine transform and their negatives, then ReLU.

    Maps (B, C, H, W) to (B, 2 C kernel_size², H', W'). A pattern with frequencies u, v is multiplied by
    (1 + √(u² + v²))^emphasis: fine patterns are weak in pictures, and all outputs should count. The layer is fast since
    it needs no gradients. Ahmed, Natarajan and Rao, Discrete Cosine
    Transform, 1974; fixed whitening stems for speed: K. Jordan, arXiv:2404.00498.
    """

    patterns: Tensor

    def __init__(self, *, in_channels: int, kernel_size: int, stride: int, emphasis: float) -> None:
        super().__init__()
        self.stride = positive("stride", stride)
        self.padding = (positive("kernel_size", kernel_size) - 1) // 2
        self.in_channels = in_channels
        place = torch.arange(kernel_size) + 0.5
        frequency = torch.arange(kernel_size)
        waves = torch.cos(math.pi / kernel_size * frequency[:, None] * place) * math.sqrt(2 / kernel_size)  # (K, K)
        waves = waves * torch.where(frequency == 0, math.sqrt(0.5), 1.0)[:, None]  # each of length one
        strength = (1 + frequency[:, None].float().hypot(frequency.float())) ** emphasis / kernel_size  # (K, K)
        patterns = torch.einsum("uv,ui,vj->uvij", strength, waves, waves)
        patterns = patterns.reshape(-1, 1, kernel_size, kernel_size)
        self.register_buffer("patterns", torch.cat([patterns, -patterns]).repeat(in_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the strength of each pattern at each position, float of at least 0."""
        x = nn.functional.conv2d(x, self.patterns, None, self.stride, self.padding, groups=self.in_channels)
        return nn.functional.relu(x)
