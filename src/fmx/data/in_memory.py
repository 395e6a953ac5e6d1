"""Any dataset of (picture, label) pairs, such as torchvision's, read into memory once."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmx.config.image_size import ImageSize, height_and_width
from fmx.data.arrays import ImageArrays
from fmx.data.picture import MODES, brought_to
from fmx.errors import DataError

__all__ = ["in_memory"]

log = logging.getLogger(__name__)


class Pairs(Protocol):
    """The interface of torchvision's datasets."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sequence[Any]: ...


def in_memory(*, dataset: Pairs, in_channels: int, image_size: ImageSize) -> ImageArrays:
    """Read every (picture, label) of a map-style dataset: PIL images, or tensors or arrays of one shape and any type.

    A PIL image becomes grey or RGB and is stretched to image_size, as by ImageFolder.

    Returns images (N, in_channels, H, W), uint8 if they come from PIL images, and labels int64 (N,).
    """
    size = height_and_width(image_size)
    pairs = [dataset[index] for index in range(len(dataset))]
    if not pairs:
        raise DataError("the dataset has no pictures")
    _say_of_pictures([picture for picture, _ in pairs], size)
    pictures = [_pixels(index, picture, in_channels, size) for index, (picture, _) in enumerate(pairs)]
    if len(shapes := {tuple(picture.shape) for picture in pictures}) > 1:
        raise DataError(
            f"the dataset's tensors have different shapes, such as {' and '.join(map(str, list(shapes)[:2]))}"
        )
    return ImageArrays(images=torch.stack(pictures), labels=torch.tensor([int(label) for _, label in pairs]))


def _say_of_pictures(pictures: Sequence[Any], size: tuple[int, int]) -> None:
    """Log, once each, that PIL images are resized, and that 16 bits become 8."""
    of_pil = [(index, picture) for index, picture in enumerate(pictures) if isinstance(picture, Image.Image)]
    if other := [(index, each) for index, each in of_pil if each.size != size[::-1]]:
        index, picture = other[0]
        log.info(
            "picture %d of the dataset has %d x %d pixels: those of another size than %d x %d (width x height) are "
            "stretched to it", index, *picture.size, size[1], size[0]
        )  # fmt: skip
    if deep := [index for index, picture in of_pil if picture.mode[0] == "I"]:
        log.warning(
            "picture %d of the dataset has 16 bits, which are read as 8 (divided by 256); arrays instead of PIL images "
            "keep all of its depth", deep[0]
        )  # fmt: skip


def _pixels(index: int, picture: Any, in_channels: int, size: tuple[int, int]) -> Tensor:
    if isinstance(picture, Image.Image):
        if in_channels not in MODES:
            raise DataError(f"data.in_channels must be 1 or 3 for pictures, got {in_channels}")
        mode = MODES[in_channels]
        try:
            return torch.from_numpy(brought_to(picture, mode, size, "stretch"))
        except (OSError, ValueError) as error:
            raise DataError(f"picture {index} of the dataset cannot be read: {error}") from error
    if isinstance(picture, Tensor | np.ndarray):
        return torch.as_tensor(picture)
    raise DataError(f"the dataset gives {type(picture).__name__} where a PIL image, a tensor or an array is needed")
