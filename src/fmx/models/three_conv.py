"""Three convolutions that double in width."""

from collections.abc import Sequence

from torch import Tensor, nn

from fmx.config.image_size import ImageSize
from fmx.models.flatten import Flatten
from fmx.models.fully_connected import fully_connected
from fmx.models.sizes import flattened_size, positive, positive_list

__all__ = ["ThreeConv"]


class ThreeConv(nn.Module):
    """Three convolutions without padding, each with ReLU, max-pooled after the second and the third.

    Maps (B, in_channels, H, W) to logits (B, num_classes); the comments give the shapes of
    conf/model/three_conv.yaml at 28 x 28. ValueError: the image is too small.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_size: ImageSize,
        widths: Sequence[int],
        kernel_size: int,
        hidden_sizes: Sequence[int],
    ) -> None:
        super().__init__()
        first, second, third = positive_list("widths", widths, count=3)
        kernel = positive("kernel_size", kernel_size)
        # ReLU and max-pooling commute; after pooling, ReLU processes a quarter of the values.
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, first, kernel),  # (B, 24, 26, 26)
            nn.ReLU(),
            nn.Conv2d(first, second, kernel),  # (B, 48, 24, 24)
            nn.MaxPool2d(2),  # (B, 48, 12, 12)
            nn.ReLU(),
            nn.Conv2d(second, third, kernel),  # (B, 96, 10, 10)
            nn.MaxPool2d(2),  # (B, 96, 5, 5)
            nn.ReLU(),
        )
        num_features = flattened_size(self.features, in_channels, image_size, model="three_conv")
        self.head = nn.Sequential(Flatten(), *fully_connected(num_features, hidden_sizes, num_classes))  # 2400-400-10

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
