"""Pictures of any kind, converted to the images that a model was trained on."""

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fmx.data.passed_over import UNREAD, PassedOver
from fmx.data.picture import FORMATS, MODES, Resize, check_size, edge_of, padded, pixels_of, resized, to_size
from fmx.data.pixels import BYTES, UINT16
from fmx.errors import ConfigError, DataError
from fmx.inference.export.signature import Signature

__all__ = ["Invert", "Picture", "find_pictures", "prepare", "prepare_image"]

Invert = Literal["auto", "yes", "no"]
DEEP = "IF"  # first letters of Pillow's modes of more than 8 bits
MIDDLE = 127  # brightness, of 0..255, above which a pixel is bright
MOSTLY = 2 / 3  # bright share of an inverted picture's border; at most 0.43 in Fashion-MNIST, MNIST and digits


@dataclass(frozen=True)
class Picture:
    """A picture as input of a model (C, H, W), of the model's type, and whether it was inverted."""

    path: Path
    pixels: NDArray[Any]
    inverted: bool


def find_pictures(patterns: Iterable[str]) -> tuple[list[Path], list[str], list[str]]:
    """The files that paths, folders (recursively) and globs name, each once; problems; notes.

    A folder yields its files with the suffix of a picture; a named file is always taken. Other files in a folder are
    counted in a note, but pictures in an unsupported format are a problem.
    """
    files: dict[str, Path] = {}
    problems: list[str] = []
    notes: list[str] = []
    for pattern in patterns:
        names = [pattern] if os.path.lexists(pattern) else sorted(glob(pattern, recursive=True))  # noqa: PTH207
        found = [Path(name) for name in names]
        pictures = [file for path in found for file in (_walk(path, problems, notes) if path.is_dir() else [path])]
        if not pictures:
            problems.append(f"{pattern}: " + ("no pictures in this folder" if found else "there is no such file"))
        for path in pictures:
            files.setdefault(os.path.abspath(path), path)  # noqa: PTH100 - links are left as they are
    return list(files.values()), problems, notes


def _walk(folder: Path, problems: list[str], notes: list[str]) -> Iterator[Path]:
    """The pictures in a folder and below it; a link that leads out of the folder is a problem."""
    inside = os.path.realpath(folder) + os.sep
    passed = PassedOver()
    for parent, folders, names in os.walk(folder):  # follows no links, so it ends
        for name in sorted(folders):
            if name.startswith("."):
                passed.hidden += 1
            elif Path(parent, name).is_symlink():
                notes.append(f"{Path(parent, name)}: a link to a folder is not followed; name the folder itself")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not passed.takes(name):
                continue
            if os.path.realpath(path).startswith(inside):
                yield path
            else:
                problems.append(f"{path}: leads outside {folder}; name the file itself")
    if passed.unread:
        problems.append(f"{folder}: {passed.unread_kinds}: {UNREAD}")
    if passed.others:
        notes.append(f"{folder}: {passed.others}")


def prepare(path: Path, signature: Signature, invert: Invert) -> Picture:
    """Read a picture and convert it to the channels and the size of a model; DataError if it cannot be read.

    If the training pictures were stretched or cropped (ImageFolder, in_memory), so is this one. Otherwise it becomes as
    large as fits into the model's images (bilinear with antialiasing), centred on the median colour of its border. Grey
    is the luminance (ITU-R 601). The EXIF orientation is applied, 16-bit pictures keep their upper 8 bits, and only the
    first frame is read.

    `auto` inverts if the model was trained on light objects on a dark ground (grey, mean of the training set below 0.4)
    and more than two thirds of the picture's border are bright. Transparent pixels become black, or white if the opaque
    ones are dark and may be inverted. A picture of the model's size and mode with a dark border stays unchanged.
    """
    if signature.in_channels not in MODES:
        raise ConfigError(
            f"the model takes {signature.in_channels} channels; only grey (1) and colour (3) pictures are read"
        )
    if not path.is_file():
        raise DataError(f"{path}: not a file" if path.exists() else f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata; what matters raises
            with Image.open(path, formats=FORMATS) as image:
                return Picture(path, *prepare_image(image, signature, invert))
    except UnidentifiedImageError:
        raise DataError(f"{path}: no image of a known kind") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DataError(f"{path}: cannot be read as an image: {error}") from error


def prepare_image(image: Image.Image, signature: Signature, invert: Invert) -> tuple[NDArray[Any], bool]:
    """Convert an image as `prepare` does; returns (C, H, W) of the model's type, and whether it was inverted."""
    if invert == "auto" and not signature.light_on_dark:
        invert = "no"
    mode, size = MODES[signature.in_channels], signature.shape[1:]
    pixels: NDArray[Any]
    if signature.dtype == "float32" and mode == "L" and image.mode[0] in DEEP:
        pixels = _deep_pixels(image, signature)
    else:
        pixels = _pixels(image, mode, size, invert, signature.fit)
    inverted = invert == "yes" or (invert == "auto" and _has_bright_border(pixels))
    if inverted:
        pixels = 255 - pixels
    whole = padded(pixels, size)
    return whole if signature.dtype == "uint8" else signature.as_in_data(np.float32(whole) / 255), inverted


def _deep_pixels(image: Image.Image, signature: Signature) -> NDArray[np.float32]:
    """Decode a grey image of 16 bits or floats to (1, H, W) in 0..255, for a model whose training images were so."""
    check_size(image)
    deep = np.asarray(ImageOps.exif_transpose(image), np.float32)
    has_units_of_data = image.mode == "F" or signature.value_range[1] > BYTES[1]
    unit = signature.in_unit_range(deep) if has_units_of_data else deep / UINT16
    return np.asarray(to_size(Image.fromarray(unit), signature.shape[1:], signature.fit))[None] * np.float32(255)


def _pixels(image: Image.Image, mode: str, size: tuple[int, int], invert: Invert, resize: Resize) -> NDArray[np.uint8]:
    """Decode an image to uint8 (C, H, W) of this size, or with `pad` to the largest that fits into it."""
    check_size(image)
    picture = resized(image, mode, size, resize)
    white = picture.mode == "RGBA" and (invert == "yes" or (invert == "auto" and _is_dark(picture)))
    return pixels_of(picture, mode, "white" if white else "black")


def _is_dark(picture: Image.Image) -> bool:
    """Whether the opaque pixels of an RGBA picture are dark on average."""
    brightness, alpha = (
        np.asarray(picture.convert("RGB").convert("L"), float),
        np.asarray(picture.getchannel("A"), float),
    )
    return bool((brightness * alpha).sum() <= MIDDLE * alpha.sum())


def _has_bright_border(pixels: NDArray[Any]) -> bool:
    return bool((edge_of(pixels).mean(axis=0) > MIDDLE).mean() > MOSTLY)
