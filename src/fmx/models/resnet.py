"""The residual network of 20 layers for small images."""

from torch import Tensor, nn

from fmx.models.sizes import positive

__all__ = ["ResNet20"]


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut.

    Maps (B, in_channels, H, W) to (B, width, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = width - in_channels
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(residual + shortcut)."""
        # Option A of the paper: where the shape changes, the shortcut takes every second pixel and fills the
        # new channels with zeros. It has no parameters; a 1 x 1 convolution would be option B.
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return nn.functional.relu(self.residual(x) + shortcut)


class ResNet20(nn.Module):
    """A convolution, three stages of three residual blocks, and a linear layer on the mean over the pixels.

    Maps (B, in_channels, H, W) of any size to logits (B, num_classes). The first stage has `width` channels;
    each further one doubles them. The comments give the shapes of conf/model/resnet20.yaml at 28 x 28.
    He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, 2016, section 4.2, n = 3.
    """

    def __init__(self, *, in_channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        width = positive("width", width)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),  # (B, 16, 28, 28)
            Block(width, width, stride=1),
            Block(width, width, stride=1),
            Block(width, width, stride=1),  # (B, 16, 28, 28)
            Block(width, 2 * width, stride=2),
            Block(2 * width, 2 * width, stride=1),
            Block(2 * width, 2 * width, stride=1),  # (B, 32, 14, 14)
            Block(2 * width, 4 * width, stride=2),
            Block(4 * width, 4 * width, stride=1),
            Block(4 * width, 4 * width, stride=1),  # (B, 64, 7, 7)
        )
        self.head = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        x = self.features(x)
        x = x.mean((2, 3))  # (B, 64); adaptive pooling has no deterministic backward pass on CUDA
        logits: Tensor = self.head(x)
        return logits
