"""Any of torchvision's classification networks, made to fit the channels and the classes of the data."""

from pathlib import Path
from typing import Self

from torch import Tensor, nn

from fmx.config.image_size import ImageSize, height_and_width
from fmx.errors import DataError
from fmx.models.sizes import output_shape
from fmx.models.torchvision_net import (
    adapt_first_convolution,
    adapt_head,
    fetch_weights,
    find_weights,
    head,
    smallest_image,
    torchvision_net,
)
from fmx.models.weights_file import Fit, load_weights_file

__all__ = ["Pretrained"]


class Pretrained(nn.Module):
    """A torchvision network that takes `in_channels` and gives `num_classes`.

    Maps (B, in_channels, H, W) to logits (B, num_classes).

    architecture: its name in torchvision.models, such as resnet18; auxiliary heads are left out.
    weights: None for random ones; a name that torchvision has, such as DEFAULT or IMAGENET1K_V1; or a file
        with a state dict of the architecture, from torchvision or from a run. The first convolution is
        adapted to the channels, and the last layer is replaced unless it has the right number of classes.
        On the meta device the file is compared with the network, but not loaded.
    freeze: train the last layer alone; batch norm then keeps its stored mean and variance.
    resize: the size that images are stretched to first, a number of pixels or [height, width]; or None.

    `origin` describes where the weights come from; `weights_file` is their file, if any.

    ValueError: unknown architecture or weights, or an image size that the network does not accept.
    DataError: the weights cannot be fetched or read, or do not fit.
    """

    def __init__(
        self,
        *,
        architecture: str,
        in_channels: int,
        num_classes: int,
        image_size: ImageSize,
        weights: str | None,
        freeze: bool,
        resize: ImageSize | None,
    ) -> None:
        super().__init__()
        self.freeze = freeze
        self.resize = None if resize is None else height_and_width(resize, "resize")
        named_weights = find_weights(architecture, weights)
        self.net = torchvision_net(architecture)
        adapt_first_convolution(self.net, in_channels)
        adapt_head(self.net, num_classes)
        _check_image_size(self.net, architecture, in_channels, self.resize or height_and_width(image_size))
        self.weights_file: Path | None = None
        fit: Fit | None = None
        if weights is not None:
            self.weights_file = Path(weights).expanduser() if named_weights is None else fetch_weights(named_weights)
            try:
                fit = load_weights_file(self.net, self.weights_file, architecture)
            except DataError as error:
                if named_weights is None:
                    raise
                raise DataError(
                    f"{error}. It is torch's copy of {weights}: remove it, and it is fetched anew"
                ) from error
        self.origin = _origin(architecture, weights, fit, in_channels, num_classes, freeze=freeze)
        if freeze:
            self.net.requires_grad_(requires_grad=False)
            head(self.net)[1].requires_grad_(requires_grad=True)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes)."""
        if self.resize is not None:
            shrinks = any(now > then for now, then in zip(x.shape[2:], self.resize, strict=True))
            x = nn.functional.interpolate(x, self.resize, mode="bilinear", antialias=shrinks)
        logits: Tensor = self.net(x)
        return logits

    def train(self, mode: bool = True) -> Self:  # noqa: FBT002, the signature is that of nn.Module
        """Set the mode; the batch norm of a frozen backbone stays in eval mode, where batches do not change it."""
        super().train(mode)
        if self.freeze:
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def _check_image_size(net: nn.Module, architecture: str, in_channels: int, size: tuple[int, int]) -> None:
    try:
        output_shape(net, in_channels, size)
    except (RuntimeError, AssertionError) as error:  # vision transformers raise the second
        only = getattr(net, "image_size", None)  # some transformers accept a single size
        height, width = size
        pixels = f"{height}" if height == width else f"{height} x {width}"
        takes = f", only squares of {only}" if only and height != width else ""
        raise ValueError(
            f"'{architecture}' cannot take images of {pixels} pixels{takes}; "
            f"use model.net.resize={only or smallest_image(architecture)}"
        ) from error


def _origin(
    architecture: str, weights: str | None, fit: Fit | None, in_channels: int, num_classes: int, *, freeze: bool
) -> str:
    """Where a network's weights come from, and which layers the file did not give."""
    if fit is None:
        frozen = "; all but the last layer stay so (model.net.freeze)" if freeze else ""
        return (
            f"{architecture} starts from random weights{frozen}: model.net.weights=DEFAULT takes torchvision's, "
            "model.net.weights=FILE yours"
        )
    parts = [f"{architecture} starts from {weights}"]
    if fit.channels != in_channels:
        parts.append(f"first layer adapted from {fit.channels} to {in_channels} channels")
    if fit.classes == num_classes:
        parts.append(f"last layer kept with its {num_classes} classes")
    else:
        there = "none" if fit.classes is None else f"{fit.classes} classes"
        parts.append(f"last layer made anew for {num_classes} classes ({there} there)")
    if freeze:
        parts.append("all but the last layer frozen")
    return "; ".join(parts)
