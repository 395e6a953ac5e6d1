"""Any dataset of picture and label pairs, such as torchvision's, brought into memory once."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmx.data.arrays import ImageArrays
from fmx.errors import DataError

__all__ = ["collect"]

MODES = {1: "L", 3: "RGB"}


class Pairs(Protocol):
    """What torchvision's datasets are."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sequence[Any]: ...


def collect(*, dataset: Pairs, in_channels: int, image_size: int) -> ImageArrays:
    """Read every (picture, label) of a map-style dataset: PIL images, or uint8 tensors (C, H, W).

    Returns images uint8 (N, in_channels, image_size, image_size), resized where needed, and labels int64 (N,).
    """
    if in_channels not in MODES:
        raise DataError(f"data.in_channels must be 1 or 3 for pictures, got {in_channels}")
    pairs = [dataset[index] for index in range(len(dataset))]
    images = torch.stack([_pixels(picture, in_channels, image_size) for picture, _ in pairs])
    return ImageArrays(images=images, labels=torch.tensor([int(label) for _, label in pairs]))


def _pixels(picture: Any, in_channels: int, image_size: int) -> Tensor:
    if isinstance(picture, Image.Image):
        square = picture.convert(MODES[in_channels])
        if square.size != (image_size, image_size):
            square = square.resize((image_size, image_size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(square)).reshape(image_size, image_size, in_channels).permute(2, 0, 1)
    if isinstance(picture, Tensor) and picture.dtype == torch.uint8:
        return picture
    raise DataError(
        f"the dataset gives {type(picture).__name__} where a PIL image or a uint8 tensor (C, H, W) is needed"
    )
