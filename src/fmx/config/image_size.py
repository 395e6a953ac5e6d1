"""The size of a data set's images: one number for a square, or height and width."""

from collections.abc import Sequence
from typing import Any

from fmx.config.printed_command import printed_command

__all__ = ["EXPECTED", "ImageSize", "as_override", "height_and_width", "is_image_size", "shortest_form"]

ImageSize = int | Sequence[int]
EXPECTED = "a whole number of at least 1 for squares, or [height, width]"


def is_image_size(value: Any) -> bool:
    """Whether a value is a positive whole number, or a list of two."""
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]  # noqa: PLR2004 - height and width
    return all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides)


def height_and_width(image_size: ImageSize, name: str = "image_size") -> tuple[int, int]:
    """Height and width in pixels of `data.image_size`, in which a single number is both.

    ValueError, which calls the size `name`, for anything else than one or two positive integers.
    """
    if not is_image_size(image_size):
        raise ValueError(f"{name} must be {EXPECTED}, got {image_size!r}")
    if isinstance(image_size, int):
        return image_size, image_size
    height, width = image_size
    return height, width


def shortest_form(image_size: ImageSize) -> int | list[int]:
    """One number for a square, else [height, width]: equal for equal sizes."""
    height, width = height_and_width(image_size)
    return height if height == width else [height, width]


def as_override(image_size: ImageSize) -> str:
    """The size as typed on a command line: `data.image_size=28`, `'data.image_size=[28,40]'`."""
    return printed_command(f"data.image_size={shortest_form(image_size)}".replace(" ", ""))
