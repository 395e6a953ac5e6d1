"""Images in folders, one folder per class: the layout for sets that do not fit in memory."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import blake2b, file_digest
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from fmx.config.image_size import ImageSize, height_and_width, shortest_form
from fmx.data.passed_over import SUFFIXES, UNREAD, PassedOver
from fmx.errors import ConfigError, DataError
from fmx.process.cores import num_cores

__all__ = ["FORMATS", "MODES", "SUFFIXES", "ImageFolder", "check_size", "pixels_of", "read_picture", "resized"]

log = logging.getLogger(__name__)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow runs no other program for these
MODES = {1: "L", 3: "RGB"}
MAX_PIXELS = 64 * 10**6
CHUNK = 256  # files that one thread hashes at a time
MAX_SIDE = 32_768  # pixels; shrinking a longer side takes more memory for the filter than for the image


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """The images `folder/CLASS/*` as (uint8 (C, H, W), label), sorted by class and name, decoded on demand.

    Every image becomes grey (`in_channels` 1) or RGB (3) and is stretched to `image_size`,
    bilinear with antialiasing. EXIF orientation is applied, transparency becomes black, 16-bit grey keeps its upper
    8 bits, and the first of several frames is used. Other files and nested folders are skipped with a warning, hidden
    ones silently. An image may have 64 million pixels, for which decoding takes 0.8 GB, and 32,768 on a side.

    Raises:
        DataError: when built, if a class is missing, empty or unknown, or a link leads outside `folder`;
            when asked for an image that cannot be decoded, with its name.
    """

    def __init__(self, *, folder: str, class_names: Sequence[str], image_size: ImageSize, in_channels: int) -> None:
        if in_channels not in MODES:
            raise ConfigError(f"data.in_channels must be 1 (grey) or 3 (RGB), got {in_channels}")
        self.folder = Path(folder)
        self.class_names = list(class_names)
        self.size = height_and_width(image_size)
        self.mode = MODES[in_channels]
        self.files: list[str] = []  # relative to the folder
        labels: list[int] = []
        self._shape = repr((self.class_names, shortest_form(image_size), in_channels)).encode()
        earlier = blake2b(self._shape, digest_size=16)
        _check_classes(self.folder, self.class_names)
        passed = PassedOver()
        for label, name in enumerate(self.class_names):
            images = list(_images(self.folder, name, passed))
            if not images:
                raise DataError(
                    f"{self.folder / name} holds no images ({' '.join(SUFFIXES)}); "
                    "add some, or remove this class from the train and the test folder"
                )
            for file, num_bytes in images:
                earlier.update(f"{file}\0{num_bytes}\0".encode(errors="surrogateescape"))
                self.files.append(file)
                labels.append(label)
        _warn_of_skipped(self.folder, passed)
        self.labels = torch.tensor(labels, dtype=torch.int64)  # (N,)
        self._earlier_fingerprint = earlier.hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.folder / self.files[index]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about odd metadata; real problems raise
                pixels = read_picture(path, self.mode, self.size)
        except UnidentifiedImageError as error:
            raise DataError(f"{path} is no image of a known kind; replace or remove it") from error
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            raise DataError(f"{path} cannot be read as an image: {error}; replace or remove it") from error
        return torch.from_numpy(pixels), int(self.labels[index])

    def fingerprint(self) -> str:
        """Hash classes, file names, file contents and the image shape; reads every file, once."""
        return self._fingerprint

    def earlier_fingerprint(self) -> str:
        """The fingerprint of fmx 0.1, of the files' sizes instead of their contents."""
        return self._earlier_fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = blake2b(self._shape, digest_size=16)
        chunks = [self.files[first : first + CHUNK] for first in range(0, len(self.files), CHUNK)]
        with ThreadPoolExecutor(num_cores()) as threads:  # reading and hashing release the GIL
            for part in threads.map(self._names_and_contents, chunks):
                digest.update(part)
        return digest.hexdigest()

    def _names_and_contents(self, files: Sequence[str]) -> bytes:
        """The names of files, each with the hash of its bytes."""
        parts = []
        for file in files:
            path = self.folder / file
            try:
                with path.open("rb") as opened:
                    contents = file_digest(opened, "sha256").digest()
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            parts.append(f"{file}\0".encode(errors="surrogateescape") + contents)
        return b"".join(parts)


def _check_classes(folder: Path, class_names: list[str]) -> None:
    try:
        with os.scandir(folder) as entries:
            found = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read: {error.strerror}; data.root=DIR must name a folder with "
            "train/CLASS/*.png and test/CLASS/*.png (or .jpg and so on)"
        ) from error
    _check_spelling(folder, class_names, found)
    for problem, names in [
        ("lacks a folder for", set(class_names) - found),
        ("has folders that are no class of the train folder (data.class_names):", found - set(class_names)),
        ("has class folders with unprintable names:", {name for name in found if not name.isprintable()}),
    ]:
        if names:
            raise DataError(
                f"{folder} {problem} {', '.join(map(repr, sorted(names)))}; "
                "train and test need one folder for each class, with the same names"
            )


def _check_spelling(folder: Path, class_names: list[str], found: set[str]) -> None:
    """DataError where a name differs from a class in code points alone: `é` is one, or an `e` and an accent."""
    composed = {normalize("NFC", name): name for name in class_names}
    for name in sorted(found - {*class_names}):
        if (same := composed.get(normalize("NFC", name))) is not None:
            raise DataError(
                f"{folder} has the folder {name!r}, which looks like the class {same!r} but is written with other code "
                f"points ({name!a}, not {same!a}): a copy by way of another system may do that. Rename one"
            )


def _warn_of_skipped(folder: Path, passed: PassedOver) -> None:
    """Warn of files that are not used, unless they are hidden."""
    if passed.unread:
        log.warning("left out of %s: %s: %s", folder, passed.unread_kinds, UNREAD)
    if passed.other_files or passed.folders:
        log.warning("left out of %s: %s", folder, passed.others)


def _images(folder: Path, class_name: str, passed: PassedOver) -> Iterator[tuple[str, int]]:
    """Yield (path relative to `folder`, bytes) of the images of one class, sorted by name."""
    inside = os.path.realpath(folder) + os.sep
    with os.scandir(folder / class_name) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir() and not entry.name.startswith("."):
                passed.folders += 1
                continue
            if not passed.takes(entry.name):
                continue
            if not os.path.realpath(entry.path).startswith(inside):
                raise DataError(f"{entry.path} leads outside {folder}; put a copy there instead of a link")
            if entry.is_file():
                yield f"{class_name}/{entry.name}", entry.stat().st_size


def read_picture(path: Path, mode: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read an image file as uint8 pixels (C, H, W); ValueError or OSError where it cannot be, or is too large."""
    with Image.open(path, formats=FORMATS) as image:
        check_size(image)
        return pixels_of(resized(image, mode, size), mode)


def resized(image: Image.Image, mode: str, size: tuple[int, int], *, stretch: bool = True) -> Image.Image:
    """Turn a picture upright, convert it to `mode`, or to RGBA if it has transparency, and resize it.

    It becomes `size` (height, width); without `stretch` as large as fits into that, with its proportions kept.
    """
    # JPEG decodes straight to about twice the wanted size, several times faster for photographs.
    image.draft(None, (2 * max(size), 2 * max(size)))
    picture = _in_mode(ImageOps.exif_transpose(image), mode)
    height, width = size if stretch else _fitting(picture, size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _fitting(picture: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """The largest height and width with a picture's proportions that fit into `size`."""
    height, width = size
    if picture.width * height >= picture.height * width:
        return max(1, round(width * picture.height / picture.width)), width
    return height, max(1, round(height * picture.width / picture.height))


def pixels_of(picture: Image.Image, mode: str, ground: str = "black") -> NDArray[np.uint8]:
    """The result of `resized` as uint8 (C, H, W), on the colour `ground` where it is transparent."""
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture).convert(mode)
    pixels = np.array(picture).reshape(picture.height, picture.width, -1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


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
