"""A multilayer perceptron."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from fmx.config.image_size import ImageSize, height_and_width
from fmx.models.fully_connected import fully_connected

__all__ = ["MLP"]


class MLP(nn.Module):
    """The pixels as one long vector, then fully connected layers with ReLU.

    Maps (B, in_channels, H, W) to logits (B, num_classes); the comments give the shapes of
    conf/model/mlp.yaml at 28 x 28, whose layers are those of A. Géron, Hands-On Machine Learning, chapter 10.
    """

    def __init__(
        self, *, in_channels: int, num_classes: int, image_size: ImageSize, hidden_sizes: Sequence[int]
    ) -> None:
        super().__init__()
        num_pixels = in_channels * math.prod(height_and_width(image_size))
        self.features = nn.Flatten()  # (B, 784)
        self.head = fully_connected(num_pixels, hidden_sizes, num_classes)  # 784-300-100-10

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
