"""IDX files, the format of MNIST and its relatives: http://yann.lecun.com/exdb/mnist/."""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Sequence
from hashlib import file_digest, md5
from io import BufferedReader
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from fmx.config.image_size import ImageSize, height_and_width
from fmx.data.arrays import ImageArrays
from fmx.data.download import fetch
from fmx.errors import DataError

__all__ = ["IdxFile", "load_idx", "md5_sum"]

BLOCK_BYTES = 2**18
MAX_BYTES = 2**32  # in memory; larger sets need data=image_folder
MAX_LABELS = 2**28  # in memory they take eight bytes each
# Deflate can shrink zeros to a thousandth, pictures to about a fifth. Up to FREE_BYTES any ratio is accepted.
MAX_RATIO = 64
FREE_BYTES = 2**26


class IdxFile(TypedDict):
    """A file as the configuration names it: without `.gz`, with the MD5 sums of both forms (None: any)."""

    name: str
    md5: str | None
    gz_md5: str | None


def load_idx(
    *,
    folder: str,
    images: IdxFile,
    labels: IdxFile,
    image_size: ImageSize,
    num_classes: int,
    mirrors: Sequence[str],
    instead: Sequence[str],
) -> ImageArrays:
    """Read a pair of IDX files: unpacked ones if they exist, else `.gz`, else `.gz` from a mirror.

    Existing files are only read, so the folder may be read-only; a `.gz` is unpacked in memory. `instead` lists what to
    suggest when a file is missing and cannot be fetched. Memory stays at the size of the arrays. They may be as large
    as the file, or 64 times as large as a `.gz` (64 MiB are always allowed), and at most 4 GiB.

    Returns:
        images uint8 (N, 1, H, W), labels int64 (N,) below num_classes, in file order.

    Raises:
        DataError: a file is missing, damaged, or does not fit the other one or the configuration.
    """
    label_path, label_md5 = _locate(Path(folder), labels, mirrors, instead)
    image_path, image_md5 = _locate(Path(folder), images, mirrors, instead)
    y = _read(label_path, label_md5, item_shape=()).long()  # (N,)
    x = _read(image_path, image_md5, item_shape=height_and_width(image_size))  # (N, H, W)
    if len(x) != len(y):
        raise DataError(f"{image_path} holds {len(x):,} images, but {label_path.name} {len(y):,} labels")
    if len(wrong := (y >= num_classes).nonzero()):
        position = int(wrong[0])
        raise DataError(
            f"{label_path}: label {int(y[position])} at position {position:,} is outside "
            f"0..{num_classes - 1}; check data.num_classes"
        )
    return ImageArrays(images=x.unsqueeze(1), labels=y)


def _locate(folder: Path, file: IdxFile, mirrors: Sequence[str], instead: Sequence[str]) -> tuple[Path, str | None]:
    plain, packed = folder / file["name"], folder / f"{file['name']}.gz"
    if plain.exists():
        return plain, file["md5"]
    if not packed.exists():
        fetch(packed, mirrors=mirrors, checksum=file["gz_md5"], instead=instead)
    return packed, file["gz_md5"]


def _read(path: Path, checksum: str | None, *, item_shape: tuple[int, ...]) -> Tensor:
    try:
        if not path.is_file():  # a pipe would never end
            raise DataError(f"{path} cannot be read: it is no plain file")
        with path.open("rb") as file:
            _check_sum(path, file, checksum)
            num_bytes = os.fstat(file.fileno()).st_size
            if path.suffix != ".gz":
                return _parse(path, file, item_shape, at_most=num_bytes)
            with gzip.GzipFile(fileobj=file) as stream:
                return _parse(path, stream, item_shape, at_most=max(FREE_BYTES, num_bytes * MAX_RATIO))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; if damaged, delete it to fetch it again") from error


def md5_sum(file: BufferedReader) -> str:
    """The MD5 sum of the rest of an open file."""
    return file_digest(file, lambda: md5(usedforsecurity=False)).hexdigest()


def _check_sum(path: Path, file: BufferedReader, expected: str | None) -> None:
    if expected is None:
        return
    found = md5_sum(file)
    if found != expected:
        raise DataError(
            f"{path} is damaged or another file: its MD5 sum is {found}, not {expected};\n"
            f"delete it to fetch it again, or, if it is yours, set its "
            f"{'gz_md5' if path.suffix == '.gz' else 'md5'} to null"
        )
    file.seek(0)


def _parse(path: Path, stream: BufferedReader | gzip.GzipFile, item_shape: tuple[int, ...], *, at_most: int) -> Tensor:
    """Read header and items: uint8 (N, *item_shape). The file can hold `at_most` bytes, header included."""
    num_dims = 1 + len(item_shape)
    header = stream.read(4 * (1 + num_dims))
    magic = bytes([0, 0, 0x08, num_dims])  # 0x08: unsigned bytes
    if header[:4] != magic or len(header) < 4 * (1 + num_dims):
        raise DataError(
            f"{path} is no IDX file of bytes in {num_dims} dimensions: it starts with "
            f"'{header.hex(' ', 4)}', not with '{magic.hex()}' and {num_dims} lengths"
        )
    shape = struct.unpack_from(f">{num_dims}I", header, 4)
    if shape[1:] != item_shape:
        found, wanted = (" x ".join(map(str, sides)) for sides in (shape[1:], item_shape))
        raise DataError(f"{path} holds images of {found} pixels, but data.image_size asks for {wanted}")
    num_bytes = math.prod(shape)
    if not 0 < num_bytes <= min(at_most - len(header), MAX_BYTES if item_shape else MAX_LABELS):
        raise DataError(f"{path}: the header says {shape[0]:,} items, which its length does not allow")
    items = torch.empty(shape, dtype=torch.uint8)
    view, filled = items.numpy().data.cast("B"), 0
    while filled < num_bytes and (count := stream.readinto(view[filled : filled + BLOCK_BYTES])):
        filled += count
    if filled < num_bytes or stream.read(1):
        raise DataError(
            f"{path} is {'shorter' if filled < num_bytes else 'longer'} than the {shape[0]:,} items that "
            "its header says; delete it to fetch it again"
        )
    return items
