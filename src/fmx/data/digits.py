"""The handwritten digits that ship inside scikit-learn: real data that needs no file and no network."""

from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fmx.config.image_size import ImageSize, height_and_width
from fmx.data.arrays import ImageArrays
from fmx.data.split import split_validation
from fmx.errors import ConfigError

__all__ = ["load_digits"]

MAX_SIZE = 512  # pixels on a side; bounds the memory, which no file does for this set
AT_ONCE = 64  # images that are enlarged in float64


def load_digits(*, part: Literal["train", "test"], num_test: int, test_seed: int, image_size: ImageSize) -> ImageArrays:
    """Take one part of the 1,797 digits of 8 x 8 pixels in 0..16, enlarged bilinearly and scaled to 0..255.

    The set has no official test part, so `num_test` images are drawn from it, stratified by digit and seeded.
    Source: the test set of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.

    Returns:
        images uint8 (N, 1, H, W) and labels int64 (N,).
    """
    if part not in ("train", "test"):
        raise ConfigError(f"part must be train or test, got {part!r}")
    size = height_and_width(image_size)
    if max(size) > MAX_SIZE:
        raise ConfigError(f"data.image_size of data=digits must be at most {MAX_SIZE}, got {image_size}")
    images, labels = _digits()
    train, test = split_validation(labels, validation=num_test, split="stratified", seed=test_seed)
    chosen = train if part == "train" else test
    pixels = torch.cat([_enlarged(part, size) for part in torch.split(images[chosen], AT_ONCE)])
    return ImageArrays(images=pixels, labels=labels[chosen])


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """The images, float64 (1797, 1, 8, 8), and their labels; reading the table takes 20 ms, and both parts need it."""
    from sklearn import datasets

    source = datasets.load_digits()
    return torch.from_numpy(source.images).unsqueeze(1), torch.from_numpy(source.target).long()


def _enlarged(images: Tensor, size: tuple[int, int]) -> Tensor:
    images = interpolate(images, size=size, mode="bilinear", align_corners=False)
    # Halves round up, with a margin for rounding errors: the same bytes on every processor.
    return (images * (255 / 16) + (0.5 + 1e-9)).to(torch.uint8)
