"""Any of torchvision's classification networks, made to fit the channels and the classes of the data."""

from pathlib import Path

from torch import nn

from fmx.config.image_size import ImageSize, height_and_width
from fmx.errors import DataError
from fmx.models.adapted_net import AdaptedNet, describe_origin
from fmx.models.sizes import output_shape
from fmx.models.torchvision_net import (
    adapt_first_convolution,
    adapt_head,
    fetch_weights,
    find_weights,
    first_convolution,
    head,
    smallest_image,
    torchvision_net,
)
from fmx.models.weights_file import Fit

__all__ = ["Pretrained"]


class Pretrained(AdaptedNet):
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
        super().__init__(freeze=freeze, resize=resize)
        named_weights = find_weights(architecture, weights)
        self.net = torchvision_net(architecture)
        adapt_first_convolution(self.net, in_channels)
        adapt_head(self.net, num_classes)
        _check_image_size(self.net, architecture, in_channels, self.resize or height_and_width(image_size))
        self.last = [head(self.net)[0]]
        fit: Fit | None = None
        if weights is not None:
            file = Path(weights).expanduser() if named_weights is None else fetch_weights(named_weights)
            try:
                fit = self.load_file(file, architecture, first=first_convolution(self.net)[0])
            except DataError as error:
                if named_weights is None:
                    raise
                raise DataError(
                    f"{error}. It is torch's copy of {weights}: remove it, and it is fetched anew"
                ) from error
        self.origin = describe_origin(
            architecture, weights, fit, in_channels=in_channels, num_classes=num_classes, freeze=freeze,
            library="torchvision",
        )  # fmt: skip
        self.freeze_backbone()


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
