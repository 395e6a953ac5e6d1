"""A network of a library that is made to fit the data, with weights from a file or random ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from fmx.config.image_size import ImageSize, height_and_width
from fmx.models.weights_file import Fit, load_weights_file

__all__ = ["AdaptedNet", "describe_origin"]


class AdaptedNet(nn.Module):
    """A network `net` whose images are resized first, and of which the last layer alone may be trained.

    Maps (B, in_channels, H, W) to logits (B, num_classes). Subclasses set `net` and `last`, then call `start_from`.

    freeze: train the last layer alone; batch norm then keeps its stored mean and variance.
    resize: the size that images are stretched to first, a number of pixels or [height, width]; or None.

    `origin` describes where the weights come from; `weights_file` is their file, if any.
    """

    net: nn.Module
    last: Sequence[str]  # names of the layers in `net` that make the logits

    def __init__(self, *, freeze: bool, resize: ImageSize | None) -> None:
        super().__init__()
        self.freeze = freeze
        self.resize = None if resize is None else height_and_width(resize, "resize")
        self.weights_file: Path | None = None
        self.origin = ""

    def load_file(self, path: Path, architecture: str, first: str | None) -> Fit:
        """Load a file of weights; DataError where it cannot be read or does not fit.

        first: the name of the convolution in `net` that takes the image.
        """
        self.weights_file = path
        return load_weights_file(self.net, path, architecture, first=first, last=self.last)

    def freeze_backbone(self) -> None:
        """Train the last layer alone if `freeze` says so; call it after the weights are loaded."""
        if self.freeze:
            self.net.requires_grad_(requires_grad=False)
            for name in self.last:
                self.net.get_submodule(name).requires_grad_(requires_grad=True)
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


def describe_origin(
    architecture: str,
    weights: str | None,
    fit: Fit | None,
    *,
    in_channels: int,
    num_classes: int,
    freeze: bool,
    library: str,
) -> str:
    """Where a network's weights come from, and which layers the file did not give.

    fit: None where the library loaded the weights. library: whose weights DEFAULT names.
    """
    if weights is None:
        frozen = "; all but the last layer stay so (model.net.freeze)" if freeze else ""
        return (
            f"{architecture} starts from random weights{frozen}: model.net.weights=DEFAULT takes {library}'s, "
            "model.net.weights=FILE yours"
        )
    parts = [f"{architecture} starts from {weights}"]
    if fit is not None and fit.channels not in {None, in_channels}:
        parts.append(f"first layer adapted from {fit.channels} to {in_channels} channels")
    if fit is not None and fit.classes == num_classes:
        parts.append(f"last layer kept with its {num_classes} classes")
    elif fit is not None:
        there = "none" if fit.classes is None else f"{fit.classes} classes"
        parts.append(f"last layer made anew for {num_classes} classes ({there} there)")
    if freeze:
        parts.append("all but the last layer frozen")
    return "; ".join(parts)
