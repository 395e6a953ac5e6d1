"""A fixed stem, then two convolutions: high accuracy in a few seconds."""

from collections.abc import Sequence

from torch import Tensor, nn

from fmx.config.image_size import ImageSize
from fmx.models.cosine_stem import CosineStem
from fmx.models.flatten import Flatten
from fmx.models.sizes import flattened_size, positive_list

__all__ = ["CosineCNN"]


class CosineCNN(nn.Module):
    """A cosine stem, two convolutions with batch normalisation and ReLU, max-pooling, and one linear layer.

    Maps (B, in_channels, H, W) to logits (B, num_classes); the comments give the shapes of
    conf/model/cosine_cnn.yaml at 28 x 28. ValueError: the image is too small.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_size: ImageSize,
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
            nn.MaxPool2d(2),  # (B, 96, 3, 3); before the next two layers, for which it leaves a quarter of the values
            nn.BatchNorm2d(second),
            nn.ReLU(),
        )
        num_features = flattened_size(self.features, in_channels, image_size, model="cosine_cnn")
        self.head = nn.Sequential(Flatten(), nn.Linear(num_features, num_classes))  # 864-10

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
