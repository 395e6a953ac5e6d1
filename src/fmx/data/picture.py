"""Pictures of any kind, brought to uint8 pixels of one size."""

from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = [
    "FORMATS",
    "MODES",
    "RESIZES",
    "Resize",
    "brought_to",
    "check_size",
    "edge_of",
    "holds_16_bits",
    "padded",
    "pixels_of",
    "read_original",
    "read_picture",
    "resized",
    "to_size",
]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow runs no other program for these
MODES = {1: "L", 3: "RGB"}
MAX_PIXELS = 64 * 10**6
MAX_SIDE = 32_768  # pixels; shrinking a longer side takes more memory for the filter than for the image
Resize = Literal["stretch", "pad", "crop"]
RESIZES = {  # how each brings a picture to another shape, in words that follow a verb
    "stretch": "stretched to that size",
    "pad": "resized to fit into it, and centred on the median colour of its edge",
    "crop": "cropped to its largest centred part of that shape, and resized",
}


def read_picture(path: Path | IO[bytes], mode: str, size: tuple[int, int], resize: Resize) -> NDArray[np.uint8]:
    """Read an image file as uint8 pixels (C, H, W); ValueError or OSError where it cannot be, or is too large."""
    with Image.open(path, formats=FORMATS) as image:
        check_size(image)
        return brought_to(image, mode, size, resize)


def read_original(path: Path | IO[bytes], mode: str) -> NDArray[np.uint8]:
    """Read an image file as uint8 pixels (C, H', W') of its own size; errors as in `read_picture`."""
    with Image.open(path, formats=FORMATS) as image:
        check_size(image)
        return pixels_of(_in_mode(ImageOps.exif_transpose(image), mode), mode)


def brought_to(image: Image.Image, mode: str, size: tuple[int, int], resize: Resize) -> NDArray[np.uint8]:
    """An opened picture as uint8 pixels (C, H, W), black where it is transparent."""
    return padded(pixels_of(resized(image, mode, size, resize), mode), size)


def resized(image: Image.Image, mode: str, size: tuple[int, int], resize: Resize) -> Image.Image:
    """Turn a picture upright, convert it to `mode`, or to RGBA if it has transparency, and resize it.

    It becomes `size` (height, width), bilinear with antialiasing; with `pad`, as large as fits into that with its
    proportions kept, without a border yet.
    """
    # JPEG decodes straight to about twice the wanted size, several times faster for photographs.
    image.draft(None, (2 * max(size), 2 * max(size)))
    return to_size(_in_mode(ImageOps.exif_transpose(image), mode), size, resize)


def to_size(picture: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    """Resize an upright picture as `resized` does."""
    height, width = _fitting(picture, size) if resize == "pad" else size
    # One step, for the memory: a strip that is resized first and cropped then is as long as its proportions say.
    box = _centre(picture, size) if resize == "crop" else None
    return picture.resize((width, height), Image.Resampling.BILINEAR, box)


def _fitting(picture: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """The largest height and width with a picture's proportions that fit into `size`."""
    height, width = size
    if picture.width * height >= picture.height * width:
        return max(1, round(width * picture.height / picture.width)), width
    return height, max(1, round(height * picture.width / picture.height))


def _centre(picture: Image.Image, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest centred part with the proportions of `size`."""
    height, width = size
    if picture.width * height >= picture.height * width:
        margin = (picture.width - picture.height * width / height) / 2
        return margin, 0, picture.width - margin, picture.height
    margin = (picture.height - picture.width * height / width) / 2
    return 0, margin, picture.width, picture.height - margin


def pixels_of(picture: Image.Image, mode: str, ground: str = "black") -> NDArray[np.uint8]:
    """The result of `resized` as uint8 (C, H, W), on the colour `ground` where it is transparent."""
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture).convert(mode)
    pixels = np.array(picture).reshape(picture.height, picture.width, -1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def padded(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Centre (C, H, W) on a ground of this size and of the median colour of its edge."""
    channels, height, width = pixels.shape
    if (height, width) == size:
        return pixels
    ground = np.empty((channels, *size), dtype=pixels.dtype)
    ground[:] = np.median(edge_of(pixels), axis=1).astype(pixels.dtype)[:, None, None]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    ground[:, top : top + height, left : left + width] = pixels
    return ground


def edge_of(pixels: NDArray[Any]) -> NDArray[Any]:
    """The outermost pixels of (C, H, W), each once: (C, M)."""
    inner = np.zeros(pixels.shape[1:], dtype=bool)
    inner[1:-1, 1:-1] = True
    return pixels[:, ~inner]


def holds_16_bits(image: Image.Image) -> bool:
    """Whether the values of an opened picture have more than 8 bits, by its header: Pillow reads RGB as 8 itself."""
    raw = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return image.mode.startswith("I") or any((";16" in each and "BGR" not in each) or "65535" in each for each in raw)


def check_size(image: Image.Image) -> None:
    """ValueError where an opened picture has more than 64 million pixels or 32,768 on a side; decodes nothing."""
    if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
        raise ValueError(
            f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}, or than {MAX_SIDE:,} on a side"
        )


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert any Pillow mode to `mode`, or to RGBA if it has transparency, which is resolved after resizing."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 bits")
    if image.mode.startswith("I"):  # Pillow itself would clip 16 bits at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    target = "RGBA" if image.has_transparency_data else mode
    return image if image.mode == target else image.convert(target)
