"""The sizes that make a network: those a person chooses are checked, those that follow are worked out."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

__all__ = ["flattened_size", "output_shape", "positive", "positive_list"]

LARGEST_TRIED = 512  # pixels; no image size beyond it is searched for a too deep network


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


def output_shape(net: nn.Module, in_channels: int, image_size: int) -> torch.Size:
    """Return the shape that one square image of `image_size` pixels gets from `net`.

    The meta device knows shapes alone, so nothing is computed and no random number is drawn.
    RuntimeError: the image is too small for a kernel or a pooling window.
    """
    images = torch.empty(1, in_channels, image_size, image_size, device="meta")
    output: torch.Tensor = deepcopy(net).to("meta").eval()(images)
    return output.shape


def flattened_size(features: nn.Module, in_channels: int, image_size: int, *, model: str) -> int:
    """Return how many numbers `features`, which ends in a Flatten, makes of one image of `image_size` pixels.

    ValueError: the image is too small for the network; it names the smallest size that is not.
    """
    try:
        return output_shape(features, in_channels, image_size)[1]
    except RuntimeError as error:
        smallest = _smallest_image(features, in_channels, image_size)
        if smallest is None:
            raise ValueError(f"'{model}' can take no images with these sizes: {error}") from error
        raise ValueError(
            f"image_size must be at least {smallest} for '{model}', got {image_size}; "
            f"use model=mlp or data.image_size={max(smallest, 28)}"
        ) from error


def _smallest_image(features: nn.Module, in_channels: int, too_small: int) -> int | None:
    for size in range(max(too_small, 0) + 1, LARGEST_TRIED + 1):
        try:
            output_shape(features, in_channels, size)
        except RuntimeError:
            continue
        return size
    return None
