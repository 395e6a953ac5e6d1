"""A trained network that takes images of any kind: tensors and arrays, PIL images, paths."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fmx.data.pixels import SLACK
from fmx.errors import ConfigError
from fmx.inference.export.signature import Signature
from fmx.inference.images import Invert, prepare, prepare_image
from fmx.models.logits import logits_of

__all__ = ["ImageModel", "pixels_of"]


class ImageModel(nn.Module):
    """Maps images, as `Run.predict` takes them, to logits (N, K); on the device of its weights."""

    def __init__(self, signature: Signature, net: nn.Module) -> None:
        super().__init__()
        self.signature = signature
        self.normalize = signature.normalization()
        self.net = net

    def forward(self, images: Any) -> Tensor:
        """Return the logits; ConfigError for arrays of another type or size."""
        if isinstance(images, Tensor):
            pixels = _channels_first(images, self.signature)
            _check(pixels, str(pixels.dtype).removeprefix("torch."), self.signature)
        else:
            pixels = torch.from_numpy(pixels_of(images, self.signature, "auto"))
        device = next((parameter.device for parameter in self.net.parameters()), torch.device("cpu"))
        return logits_of(self.net(self.normalize(pixels.to(device))))


def pixels_of(images: Any, signature: Signature, invert: Invert) -> NDArray[Any]:
    """Images of any kind as (N, C, H, W), the size and the type of a model; see `Run.predict`."""
    if isinstance(images, Tensor | np.ndarray):
        ordered = _channels_first(images, signature)
        stack: NDArray[Any] = ordered.numpy(force=True) if isinstance(ordered, Tensor) else ordered
        _check(stack, str(stack.dtype), signature)
        stack = stack.astype(signature.dtype, copy=False)
        if invert == "yes":
            stack = np.asarray(sum(signature.value_range) - stack, signature.dtype)
        return stack
    each = [images] if isinstance(images, str | Path | Image.Image) or not isinstance(images, Iterable) else images
    pixels: list[NDArray[Any]] = [_pixels_of_one(image, signature, invert) for image in each]
    return np.stack(pixels) if pixels else np.empty((0, *signature.shape), signature.dtype)


def _pixels_of_one(image: Any, signature: Signature, invert: Invert) -> NDArray[Any]:
    """One image as (C, H, W)."""
    if isinstance(image, str | Path):
        return prepare(Path(image), signature, invert).pixels
    if isinstance(image, Image.Image):
        return prepare_image(image, signature, invert)[0]
    if isinstance(image, np.ndarray | Tensor):
        (pixels,) = pixels_of(image[None], signature, invert)
        return np.asarray(pixels)
    raise ConfigError(
        f"an image must be a PIL image, a path or an array of {signature.dtype}, got {type(image).__name__}"
    )


def _channels_first(images: Any, signature: Signature) -> Any:
    """An array or tensor as (N, C, H, W), a view; ConfigError for one of another size, or with two meanings."""
    shape = tuple(images.shape)
    channels, height, width = signature.shape
    first, last = signature.shape, (height, width, channels)
    if shape[1:] == first == last and channels > 1 and not isinstance(images, Tensor):
        raise ConfigError(
            f"images {shape} may be (N, C, H, W) or (N, H, W, C): give a tensor, which is taken for (N, C, H, W)"
        )
    if shape[1:] == first:
        return images
    if shape[1:] == last:
        return images.movedim(-1, 1) if isinstance(images, Tensor) else np.moveaxis(images, -1, 1)
    if channels == 1 and shape[1:] in {(height, width), (height * width,)}:
        return images.reshape(shape[0], *first)
    taken = " or ".join(f"(N, {', '.join(map(str, each))})" for each in (first, last if channels > 1 else last[:2]))
    raise ConfigError(f"images must be {taken}, got {shape}; PIL images and paths of any size are brought to that size")


def _check(images: Tensor | NDArray[Any], dtype: str, signature: Signature) -> None:
    """ConfigError for an array of another type or range than the model's images."""
    if signature.dtype == "uint8" and dtype != "uint8":
        raise ConfigError(f"images must be uint8 with values 0 to 255, got {dtype}: load_model(raw=True) takes floats")
    low, high = signature.value_range
    slack = SLACK * (high - low)
    if signature.dtype == "float32" and len(images) and not low - slack <= images.min() <= images.max() <= high + slack:
        raise ConfigError(
            f"images must have values from {low:g} to {high:g}, as in the data set, got {float(images.min()):g} to "
            f"{float(images.max()):g}: load_model(raw=True) takes normalised floats"
        )
