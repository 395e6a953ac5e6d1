"""The avgpool network with dilated convolutions."""

from collections.abc import Sequence

from torch import Tensor, nn

from fmx.config.image_size import ImageSize
from fmx.models.average_pooled import average_pooled
from fmx.models.flatten import Flatten
from fmx.models.fully_connected import fully_connected
from fmx.models.sizes import flattened_size

__all__ = ["Dilated"]


class Dilated(nn.Module):
    """The layers of avgpool with dilated kernels: a larger receptive field at the same cost.

    Maps (B, in_channels, H, W) to logits (B, num_classes).
    ValueError: the image is too small.
    Dilated convolutions: Yu and Koltun, Multi-Scale Context Aggregation by Dilated Convolutions, 2016.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_size: ImageSize,
        widths: Sequence[int],
        dilation: int,
        hidden_sizes: Sequence[int],
    ) -> None:
        super().__init__()
        self.features = average_pooled(in_channels, widths, dilation=dilation)  # (B, 32, 4, 4)
        num_features = flattened_size(self.features, in_channels, image_size, model="dilated")
        self.head = nn.Sequential(
            Flatten(), *fully_connected(num_features, hidden_sizes, num_classes)
        )  # 512-256-128-10

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
