"""Two convolutions with average pooling."""

from collections.abc import Sequence

from torch import Tensor, nn

from fmx.models.fully_connected import fully_connected
from fmx.models.sizes import flattened_size, positive, positive_list

__all__ = ["AvgPool", "average_pooled"]


def average_pooled(in_channels: int, widths: Sequence[int], *, dilation: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each with ReLU and average pooling; only the first one is padded.

    Maps (B, in_channels, H, W) to (B, num_features); the comments give the shapes at 28 x 28 for
    dilation 1 | 2.
    """
    first, second = positive_list("widths", widths, count=2)
    dilation = positive("dilation", dilation)
    return nn.Sequential(
        nn.Conv2d(in_channels, first, 3, padding=1, dilation=dilation),  # (B, 16, 28, 28) | (B, 16, 26, 26)
        nn.ReLU(),
        nn.AvgPool2d(2),  # (B, 16, 14, 14) | (B, 16, 13, 13)
        nn.Conv2d(first, second, 3, dilation=dilation),  # (B, 32, 12, 12) | (B, 32, 9, 9)
        nn.ReLU(),
        nn.AvgPool2d(2),  # (B, 32, 6, 6) | (B, 32, 4, 4)
        nn.Flatten(),  # (B, 1152) | (B, 512)
    )


class AvgPool(nn.Module):
    """Two convolutions, each with ReLU and average pooling, then linear layers.

    Maps (B, in_channels, image_size, image_size) to logits (B, num_classes).
    ValueError: the image is too small.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_size: int,
        widths: Sequence[int],
        hidden_sizes: Sequence[int],
    ) -> None:
        super().__init__()
        self.features = average_pooled(in_channels, widths, dilation=1)  # (B, 1152)
        num_features = flattened_size(self.features, in_channels, image_size, model="avgpool")
        self.head = fully_connected(num_features, hidden_sizes, num_classes)  # 1152-256-128-10

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
