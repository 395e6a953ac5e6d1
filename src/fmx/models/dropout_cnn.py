"""Two wide convolutions with dropout."""

from collections.abc import Sequence

from torch import Tensor, nn

from fmx.config.image_size import ImageSize
from fmx.models.dropout import Dropout
from fmx.models.flatten import Flatten
from fmx.models.fully_connected import fully_connected
from fmx.models.sizes import flattened_size, positive, positive_list

__all__ = ["DropoutCNN"]


class DropoutCNN(nn.Module):
    """Two convolutions without padding, each with ReLU, max-pooling and dropout, then linear layers.

    Maps (B, in_channels, H, W) to logits (B, num_classes); the comments give the shapes of
    conf/model/dropout_cnn.yaml at 28 x 28. ValueError: the image is too small or the probability not in 0..1.
    Dropout: Srivastava et al., A Simple Way to Prevent Neural Networks from Overfitting, 2014.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_size: ImageSize,
        widths: Sequence[int],
        kernel_size: int,
        dropout_prob: float,
        hidden_sizes: Sequence[int],
    ) -> None:
        super().__init__()
        first, second = positive_list("widths", widths, count=2)
        kernel = positive("kernel_size", kernel_size)
        # ReLU and max-pooling commute; after pooling, ReLU processes a quarter of the values.
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, first, kernel),  # (B, 32, 24, 24)
            nn.MaxPool2d(2),  # (B, 32, 12, 12)
            nn.ReLU(),
            Dropout(dropout_prob),
            nn.Conv2d(first, second, kernel),  # (B, 64, 8, 8)
            nn.MaxPool2d(2),  # (B, 64, 4, 4)
            nn.ReLU(),
            Dropout(dropout_prob),
        )
        num_features = flattened_size(self.features, in_channels, image_size, model="dropout_cnn")
        self.head = nn.Sequential(Flatten(), *fully_connected(num_features, hidden_sizes, num_classes))  # 1024-512-10

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
