"""NumPy's files: one .npz, or a folder of .npy files, with the images and labels of a training and a test set."""

import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fmx.config.image_size import shortest_form
from fmx.config.suggest import nearest
from fmx.data.below_root import data_file
from fmx.data.found import Found, numbered
from fmx.errors import DataError

__all__ = ["describe", "load_npz", "validation"]

Part = Literal["train", "val", "test"]
PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "tr"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "te"),
}
KINDS: Mapping[str, tuple[str, ...]] = {
    "images": ("x", "image", "images", "img", "imgs", "pixels", "data", "features"),
    "labels": ("y", "label", "labels", "target", "targets", "class", "classes"),
}
# Deflate can shrink zeros to a thousandth. Up to FREE_BYTES any ratio is accepted.
MAX_RATIO = 64
FREE_BYTES = 2**26
MAX_BYTES = 2**34
CHANNELS = (1, 3, 4)


class Header(NamedTuple):
    """Shape and type of an array, read without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def load_npz(
    *,
    root: str,
    file: str | None,
    test_file: str | None,
    part: Part,
    images: str | None,
    labels: str | None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read the images and labels of one part, as they are in the file.

    file: an .npz, or a folder of .npy files, relative to `root`. Arrays are found by their names: x_train and y_train
    (Keras), train_images and train_labels (MedMNIST), images and labels, and so on; `images` and `labels` name others.
    test_file: a second one, for the test images. Nothing is unpickled.

    Raises:
        DataError: a file or array is missing, damaged, or holds objects.
    """
    archive = _Archive(root, file, test_file, part)
    names = archive.names_of(part, images, labels)
    return archive.read(names[0]), archive.read(names[1])


def describe(*, root: str, file: str | None, test_file: str | None, images: str | None, labels: str | None) -> Found:
    """Channels and size from the header of the training images, classes from the labels of all parts."""
    archive = _Archive(root, file, test_file, "train")
    image_name, label_name = archive.names_of("train", images, labels)
    channels, size = shape_of(archive.header(image_name), f"{archive.path}: {image_name}")
    read = [archive.read(label_name)]
    for part in ("val", "test"):
        other = _Archive(root, file, test_file, part)
        read += [other.read(name) for name in other.find(part, "labels")]
    return Found(
        class_names=names_of(read, f"{archive.path}: {label_name}"),
        in_channels=channels,
        image_size=size,
        mean=[0.5],
        std=[0.5],
    )


def validation(
    *, root: str, file: str | None, test_file: str | None, images: str | None, labels: str | None
) -> dict[str, Any] | None:
    """The part `val`, where arrays are named so."""
    archive = _Archive(root, file, test_file, "val")
    named = images is None and labels is None and archive.find("val", "images") and archive.find("val", "labels")
    return {"part": "val"} if named else None


class _Archive:
    """The arrays of an .npz file or of a folder of .npy files, by name."""

    def __init__(self, root: str, file: str | None, test_file: str | None, part: Part) -> None:
        self.is_second = part == "test" and test_file is not None
        key, name = ("data.test_file", test_file) if self.is_second else ("data.file", file)
        self.path = data_file(root, name, key=key, example="data=npz data.file=FILE.npz, or a folder of .npy files")
        self.has_second = test_file is not None
        if self.path.is_dir():
            self.files = {each.stem: each for each in sorted(self.path.glob("*.npy")) if each.is_file()}
        elif zipfile.is_zipfile(self.path):
            with self._opened() as archive:
                names = [each.filename for each in archive.infolist() if each.filename.endswith(".npy")]
            self.files = {name.removesuffix(".npy"): self.path for name in names}
        else:
            single = "; a single .npy holds one array: name the folder that has the images' and the labels' files"
            raise DataError(
                f"{self.path} is no .npz file and no folder of .npy files{single if self.path.suffix == '.npy' else ''}"
            )

    def names_of(self, part: Part, images: str | None, labels: str | None) -> tuple[str, str]:
        """The names of the images and the labels of a part; DataError where there are none, or several."""
        return self._name(part, "images", images), self._name(part, "labels", labels)

    def find(self, part: Part, kind: str) -> list[str]:
        """The arrays whose names say that they are of this part and kind.

        Names without a part are those of the training set, or in a file of its own of the test set.
        """
        alone = part == "test" if self.is_second else part == "train"
        of_kind = [(name, _part_of(name, kind)) for name in self.files]
        exact = [name for name, found in of_kind if found == part]
        return exact or ([name for name, found in of_kind if found == ""] if alone else [])

    def _name(self, part: Part, kind: str, given: str | None) -> str:
        key = f"data.{part}.{kind}"
        holds = f"it holds {', '.join(self.files) or 'no arrays'}"
        if given is not None:
            if given not in self.files:
                raise DataError(f"{self.path} has no array {given!r} ({key}){nearest(given, self.files)} It{holds[2:]}")
            return given
        names = self.find(part, kind)
        if len(names) == 1:
            return names[0]
        if names:
            raise DataError(f"{self.path}: {' and '.join(names)} may both be the {kind}: choose with {key}=NAME")
        second = part == "test" and not self.has_second
        raise DataError(
            f"{self.path} has no array that is named as the {kind} of its {part} part ({holds}); "
            + ("data.test_file=FILE names a second file for the test set, " if second else "")
            + f"{'or ' if second else ''}{key}=NAME the array"
        )

    def header(self, name: str) -> Header:
        """Shape and type of an array."""
        with self._stream(name) as (stream, _):
            return _read_header(stream)

    def read(self, name: str) -> NDArray[Any]:
        """The values of an array; DataError where it is damaged, holds objects, or is larger than its file allows."""
        with self._stream(name) as (stream, at_most):
            header = _read_header(stream)
            if header.dtype.hasobject:
                raise ValueError(
                    "it holds Python objects, which are never unpickled; save plain arrays, texts by .astype(str)"
                )
            if math.prod(header.shape) * header.dtype.itemsize > at_most:
                raise ValueError(f"its header says {header.shape}, which the length of the file does not allow")
        with self._stream(name) as (stream, _):
            array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
            return array

    @contextmanager
    def _stream(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        """Open an array; yields its bytes, and how many it may have."""
        try:
            if self.path.is_dir():
                with self.files[name].open("rb") as stream:
                    yield stream, self.files[name].stat().st_size
            else:
                with self._opened() as archive:
                    packed = archive.getinfo(f"{name}.npy").compress_size
                    with archive.open(f"{name}.npy") as stream:
                        yield stream, min(MAX_BYTES, max(FREE_BYTES, packed * MAX_RATIO))
        except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"{self.path}: the array {name} cannot be read: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path} cannot be read: {error}") from error


def _read_header(stream: IO[bytes]) -> Header:
    version = npy.read_magic(stream)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"its format is .npy {version[0]}.{version[1]}; plain arrays have 1.0 or 2.0")
    shape, _, dtype = read(stream)
    return Header(shape, dtype)


def _part_of(name: str, kind: str) -> str | None:
    """The part that an array's name tells, "" where it tells none, None where it is of another kind."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if not {*words} & {*KINDS[kind]}:
        return None
    return next((part for part, names in PARTS.items() if {*words} & {*names}), "")


def shape_of(header: Header, what: str) -> tuple[int, int | list[int]]:
    """Channels and image size of an array (N, H, W), (N, H, W, C) or (N, C, H, W)."""
    shape = header.shape
    if header.dtype.hasobject:
        raise DataError(
            f"{what} holds Python objects (shape {shape}), as NumPy saves images that differ in size, which are never "
            "unpickled; bring the images to one size and save a plain array, or save them as pictures in folders"
        )
    if len(shape) == 3:  # noqa: PLR2004
        channels, sides = 1, shape[1:]
    elif len(shape) == 4:  # noqa: PLR2004
        channels, sides = (shape[1], shape[2:]) if _is_first(*shape[1:]) else (shape[3], shape[1:3])
    else:
        raise DataError(f"{what} has the shape {shape}; images have (N, H, W), (N, H, W, C) or (N, C, H, W)")
    return int(channels), shortest_form([int(side) for side in sides])


def _is_first(first: int, middle: int, last: int) -> bool:
    """Whether channels come first: as usual numbers of them, else beside equal sides, else as the smaller number."""
    if (first in CHANNELS) != (last in CHANNELS):
        return first in CHANNELS
    return middle == last if (middle == last) != (first == middle) else first < last


def _is_one_hot(labels: NDArray[Any]) -> bool:
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "biuf":  # noqa: PLR2004
        return False
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())


def names_of(labels: Sequence[NDArray[Any]], what: str) -> list[str]:
    """Names of the classes of the labels of all parts, the training part first.

    labels: whole numbers (N,) or (N, 1), from 0 or 1, one-hot rows (N, K), or texts, whose names are those of the
    training part in sorted order.
    """
    columns = {each.shape[1:] for each in labels}
    if len(columns) == 1 and all(_is_one_hot(each) for each in labels):
        return numbered(0, labels[0].shape[1] - 1)
    flat = [each.reshape(len(each)) if each.size == len(each) else each for each in labels]
    if any(each.ndim != 1 for each in flat):
        shape = next(each.shape for each in labels if each.size != len(each))
        raise DataError(f"{what} has the shape {shape}; labels are one whole number per image, (N,) or (N, 1)")
    if all(each.dtype.kind in "US" for each in flat):
        texts = flat[0] if flat[0].dtype.kind == "U" else np.char.decode(flat[0], "utf-8", "replace")
        return [str(name) for name in np.unique(texts)]
    if strange := [str(each.dtype) for each in flat if each.dtype.kind not in "iuf"]:
        raise DataError(f"{what} holds {strange[0]}; labels are whole numbers, or texts in all parts")
    ends = [float(end) for each in flat if len(each) for end in (each.min(), each.max())]
    if not ends or not all(end.is_integer() for end in ends):
        raise DataError(f"{what} holds {', '.join(map(str, ends)) or 'nothing'}; labels are whole numbers")
    return numbered(min(ends), max(ends))
