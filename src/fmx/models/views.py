"""Test-time augmentation: the views of an image whose logits a network averages."""

from collections.abc import Iterator

from torch import Tensor, nn

__all__ = ["VIEWS", "views"]

VIEWS = ("none", "flip", "flip_shift")  # one, two and six views of each image


def views(images: Tensor, kind: str) -> Iterator[Tensor]:
    """Yield the views of images (B, C, H, W), each of that shape.

    none: the images. flip: those and their mirror images. flip_shift: both also shifted by one pixel towards the upper
    left and towards the lower right, where the edge's pixels are repeated (K. Jordan, arXiv:2404.00498, with equal
    weights). The network should be trained with the same augmentations.
    """
    height, width = images.shape[2:]
    both = [images] if kind == "none" else [images, images.flip(3)]
    for image in both:
        yield image
        if kind == "flip_shift":
            padded = nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
            for start in (0, 2):
                yield padded[:, :, start : start + height, start : start + width]
