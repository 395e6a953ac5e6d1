"""Images of any number of classes, with nothing to learn, for benchmarks/scoring.py."""

import torch

from fmx.data.arrays import ImageArrays

__all__ = ["made_up"]


def made_up(*, num_images: int, num_classes: int) -> ImageArrays:
    """Grey noise of 8 x 8 pixels, each class in turn."""
    generator = torch.Generator().manual_seed(num_images)
    images = torch.randint(256, (num_images, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageArrays(images=images, labels=torch.arange(num_images) % num_classes)
