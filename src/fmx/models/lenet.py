"""LeNet-5 in its modern form."""

from collections.abc import Sequence

from torch import Tensor, nn

from fmx.config.image_size import ImageSize
from fmx.models.flatten import Flatten
from fmx.models.fully_connected import fully_connected
from fmx.models.sizes import flattened_size, positive_list

__all__ = ["LeNet"]


class LeNet(nn.Module):
    """Two convolutions and three linear layers, with ReLU and max-pooling where the original has neither.

    Maps (B, in_channels, H, W) to logits (B, num_classes); the comments give the shapes of
    conf/model/lenet.yaml at 28 x 28. ValueError: the image is too small.
    After LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied to Document Recognition, 1998.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_size: ImageSize,
        widths: Sequence[int],
        hidden_sizes: Sequence[int],
    ) -> None:
        super().__init__()
        first, second = positive_list("widths", widths, count=2)
        # ReLU and max-pooling commute; after pooling, ReLU processes a quarter of the values.
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, first, kernel_size=3, padding=2),  # (B, 6, 30, 30)
            nn.MaxPool2d(2),  # (B, 6, 15, 15)
            nn.ReLU(),
            nn.Conv2d(first, second, kernel_size=5),  # (B, 16, 11, 11)
            nn.MaxPool2d(2),  # (B, 16, 5, 5)
            nn.ReLU(),
        )
        num_features = flattened_size(self.features, in_channels, image_size, model="lenet")
        self.head = nn.Sequential(Flatten(), *fully_connected(num_features, hidden_sizes, num_classes))  # 400-120-84-10

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
