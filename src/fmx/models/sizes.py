"""Layer sizes of a network: chosen ones are checked, the others are computed."""

import itertools
import math
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from fmx.config.image_size import ImageSize, as_override, height_and_width, shortest_form

__all__ = ["flattened_size", "infer_output", "output_shape", "positive", "positive_list"]

MAX_MULTIPLICATIONS = 2_000_000_000  # if each weight were used at each pixel; takes some hundredths of a second
MAX_IMAGE_SIZE = 512  # pixels; the largest size tried when the image is too small for a network


def positive(name: str, value: int) -> int:
    """Return a layer size that is at least one; ValueError names the key otherwise."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value


def positive_list(name: str, values: Sequence[int], count: int | None = None) -> Sequence[int]:
    """Return layer sizes that are all at least one, and `count` of them if given; ValueError otherwise."""
    is_list = isinstance(values, Sequence) and all(isinstance(value, int) and value > 0 for value in values)
    if not is_list or count not in (None, len(values)):
        wanted = "positive integers" if count is None else f"{count} positive integers"
        raise ValueError(f"{name} must be a list of {wanted}, got {values!r}")
    return values


def infer_output(net: nn.Module, shape: tuple[int, int, int]) -> Any:
    """The output of a copy of `net` for one image of a shape (channels, height, width), of which only the shape counts.

    The meta device computes nothing, but importing torch's compiler for it takes seconds. So a small network is tried
    with zeros as weights and image first; where that fails, the meta device is used, and raises its own errors.
    """
    weights = sum(parameter.numel() for parameter in net.parameters())
    with torch.no_grad():
        if weights * math.prod(shape) <= MAX_MULTIPLICATIONS:
            with suppress(Exception):
                tensors = itertools.chain(net.named_parameters(), net.named_buffers())
                zeros = {name: torch.zeros(each.shape, dtype=each.dtype, device="cpu") for name, each in tensors}
                return functional_call(deepcopy(net).eval(), zeros, torch.zeros(1, *shape, device="cpu"))
        return deepcopy(net).eval().to("meta")(torch.empty(1, *shape, device="meta"))


def output_shape(net: nn.Module, in_channels: int, image_size: ImageSize) -> torch.Size:
    """Return the shape that one image of `image_size` pixels gets from `net`.

    RuntimeError: the image is too small for a kernel or a pooling window.
    """
    output: torch.Tensor = infer_output(net, (in_channels, *height_and_width(image_size)))
    return output.shape


def flattened_size(features: nn.Module, in_channels: int, image_size: ImageSize, *, model: str) -> int:
    """Return the number of values that `features` gives for one image of `image_size` pixels.

    ValueError: the image is too small for the network; it names the smallest size of a side that is not.
    """
    try:
        return output_shape(features, in_channels, image_size)[1:].numel()
    except RuntimeError as error:
        sides = height_and_width(image_size)
        smallest = _smallest_image(features, in_channels, min(sides))
        if smallest is None:
            raise ValueError(f"'{model}' can take no images with these sizes: {error}") from error
        larger = shortest_form([side if side >= smallest else max(smallest, 28) for side in sides])
        raise ValueError(
            f"image_size must be at least {smallest} for '{model}', got {shortest_form(image_size)}; "
            f"use model=mlp or {as_override(larger)}"
        ) from error


def _smallest_image(features: nn.Module, in_channels: int, too_small: int) -> int | None:
    for size in range(max(too_small, 0) + 1, MAX_IMAGE_SIZE + 1):
        try:
            output_shape(features, in_channels, size)
        except RuntimeError:
            continue
        return size
    return None
