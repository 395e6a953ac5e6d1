"""The two convolutions that avgpool and dilated share."""

from collections.abc import Sequence

from torch import nn

from fmx.models.sizes import positive, positive_list

__all__ = ["average_pooled"]


def average_pooled(in_channels: int, widths: Sequence[int], *, dilation: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each with ReLU and average pooling; only the first one is padded.

    Maps (B, in_channels, H, W) to maps of the last width; the comments give the shapes at 28 x 28 for dilation 1 | 2.
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
    )
