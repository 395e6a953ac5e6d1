"""Two small convolutions, the smallest convolutional network here."""

from collections.abc import Sequence

from torch import Tensor, nn

from fmx.config.image_size import ImageSize
from fmx.models.flatten import Flatten
from fmx.models.fully_connected import fully_connected
from fmx.models.sizes import flattened_size, positive, positive_list

__all__ = ["TwoConv"]


class TwoConv(nn.Module):
    """Two convolutions without padding, each with ReLU and max-pooling, then linear layers.

    Maps (B, in_channels, H, W) to logits (B, num_classes); the comments give the shapes of
    conf/model/two_conv.yaml at 28 x 28. ValueError: the image is too small.
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
        first, second = positive_list("widths", widths, count=2)
        kernel = positive("kernel_size", kernel_size)
        # ReLU and max-pooling commute; after pooling, ReLU processes a quarter of the values.
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, first, kernel),  # (B, 12, 26, 26)
            nn.MaxPool2d(2),  # (B, 12, 13, 13)
            nn.ReLU(),
            nn.Conv2d(first, second, kernel),  # (B, 24, 11, 11)
            nn.MaxPool2d(2),  # (B, 24, 5, 5)
            nn.ReLU(),
        )
        num_features = flattened_size(self.features, in_channels, image_size, model="two_conv")
        self.head = nn.Sequential(Flatten(), *fully_connected(num_features, hidden_sizes, num_classes))  # 600-128-10

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
