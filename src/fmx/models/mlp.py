"""A multilayer perceptron."""

from collections.abc import Sequence

from torch import Tensor, nn

from fmx.models.fully_connected import fully_connected

__all__ = ["MLP"]


class MLP(nn.Module):
    """The pixels as one long vector, then fully connected layers with ReLU.

    Maps (B, in_channels, image_size, image_size) to logits (B, num_classes); the comments give the shapes of
    conf/model/mlp.yaml at 28 x 28, whose layers are those of A. Géron, Hands-On Machine Learning, chapter 10.
    """

    def __init__(self, *, in_channels: int, num_classes: int, image_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.features = nn.Flatten()  # (B, 784)
        self.head = fully_connected(in_channels * image_size**2, hidden_sizes, num_classes)  # 784-300-100-10

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
