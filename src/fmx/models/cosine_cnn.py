"""A stem that is not learned, then two convolutions: much accuracy for few seconds."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fmx.models.sizes import flattened_size, positive, positive_list

__all__ = ["CosineCNN", "CosineStem"]


class CosineStem(nn.Module):
    """A fixed convolution with the patterns of the discrete cosine transform and their negatives, then ReLU.

    Maps (B, C, H, W) to (B, 2 C kernel_size², H', W'). A pattern with frequencies u, v is multiplied by
    (1 + √(u² + v²))^emphasis: in pictures fine patterns are weak, and all outputs should count. Nothing before the
    first learned layer needs a gradient, which is what makes it quick. Ahmed, Natarajan and Rao, Discrete Cosine
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
        """Return how much of each pattern is where, float of at least 0."""
        x = nn.functional.conv2d(x, self.patterns, None, self.stride, self.padding, groups=self.in_channels)
        return nn.functional.relu(x)


class CosineCNN(nn.Module):
    """A cosine stem, two convolutions with batch normalisation and ReLU, max-pooling, and one linear layer.

    Maps (B, in_channels, image_size, image_size) to logits (B, num_classes); the comments give the shapes of
    conf/model/cosine_cnn.yaml at 28 x 28. ValueError: the image is too small.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_size: int,
        kernel_size: int,
        stride: int,
        emphasis: float,
        widths: Sequence[int],
    ) -> None:
        super().__init__()
        first, second = positive_list("widths", widths, count=2)
        self.features = nn.Sequential(
            CosineStem(
                in_channels=in_channels, kernel_size=kernel_size, stride=stride, emphasis=emphasis
            ),  # (B, 32, 14, 14)
            nn.Conv2d(2 * in_channels * kernel_size**2, first, 4, stride=2, padding=1),  # (B, 48, 7, 7)
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),  # (B, 96, 7, 7)
            nn.MaxPool2d(2),  # (B, 96, 3, 3); before the next two, which then have a quarter of the values
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.Flatten(),  # (B, 864)
        )
        self.head = nn.Linear(flattened_size(self.features, in_channels, image_size, model="cosine_cnn"), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
