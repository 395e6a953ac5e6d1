"""Parquet files of encoded pictures and labels, in the layout of data sets on a hub."""

import io
import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fmx.config.image_size import ImageSize, height_and_width
from fmx.config.suggest import nearest
from fmx.data.arrays import ImageArrays
from fmx.data.below_root import data_file
from fmx.data.found import Found, numbered
from fmx.data.picture import FORMATS, Resize
from fmx.data.picture_dataset import PictureDataset
from fmx.data.picture_files import NUM_LOOKED_AT, usual_shape
from fmx.errors import ConfigError, DataError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["describe", "load_parquet", "validation"]

log = logging.getLogger(__name__)
Part = Literal["train", "val", "test"]
PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)
}  # fmt: skip
IMAGES = ("image", "img", "images", "picture", "pixels", "png", "jpg")
LABELS = ("label", "labels", "class", "target", "fine_label", "category", "y")
MAX_IN_MEMORY = 2**28  # bytes of pixels that are decoded once; more are decoded for each batch


class _Columns(NamedTuple):
    """The encoded pictures and the labels of all shards, and the classes' names where the labels have any."""

    pictures: "pa.ChunkedArray"
    labels: NDArray[np.int64]
    class_names: list[str] | None


def load_parquet(
    *,
    root: str,
    train_file: str | None,
    test_file: str | None,
    part: Part,
    image: str | None,
    label: str | None,
    class_names: Sequence[str],
    in_channels: int,
    image_size: ImageSize,
    resize: Resize,
) -> "ImageArrays | EncodedPictures":
    """Read the pictures and labels of one part.

    train_file, test_file: a .parquet file, or a folder of shards, relative to `root`; without test_file the test
    part is in train_file, a folder with train-*.parquet and test-*.parquet. image: the column of encoded pictures, as
    bytes or as a struct {bytes, path}; label: of whole numbers, or of texts, which must be class_names. null: by name.

    Returns:
        ImageArrays where these take at most 256 MiB, else EncodedPictures.

    Raises:
        DataError: a file or column is missing or damaged; ConfigError: pyarrow is not installed.
    """
    columns = _read(_shards(root, train_file, test_file, part), image, label, class_names)
    size = height_and_width(image_size)
    what = str(data_file(root, _named(train_file, test_file, part)[0], key="data.train_file", example=EXAMPLE))
    pictures = EncodedPictures(
        columns.pictures, columns.labels, size=size, in_channels=in_channels, resize=resize, what=what
    )
    if len(pictures) * in_channels * size[0] * size[1] > MAX_IN_MEMORY:
        return pictures
    if part == "train":
        pictures.warn_of_depth("data.train")
    return ImageArrays(torch.stack([pictures[index][0] for index in range(len(pictures))]), pictures.labels)


def describe(
    *, root: str, train_file: str | None, test_file: str | None, image: str | None, label: str | None
) -> Found:
    """Classes from the schema or the labels of the training part; channels and size from its first pictures."""
    columns = _read(_shards(root, train_file, test_file, "train"), image, label, None)
    names = columns.class_names
    if names is None:
        names = numbered(columns.labels.min(), columns.labels.max())
    headers = []
    for picture in columns.pictures[:NUM_LOOKED_AT]:
        try:
            with Image.open(io.BytesIO(picture.as_py()), formats=FORMATS) as opened:
                headers.append((opened.height, opened.width, opened.mode))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{train_file}: picture {len(headers)} cannot be read: {error}") from error
    channels, size = usual_shape(headers)
    return Found(class_names=names, in_channels=channels, image_size=size, mean=[0.5], std=[0.5])


def validation(
    *, root: str, train_file: str | None, test_file: str | None, image: str | None, label: str | None
) -> dict[str, Any] | None:
    """The part `val`, where the folder has shards of it."""
    del test_file, image, label
    path = data_file(root, train_file, key="data.train_file", example=EXAMPLE)
    return {"part": "val"} if any(_part_of(file, path) == "val" for file in _files(path)) else None


class EncodedPictures(PictureDataset):
    """Encoded pictures in memory as (uint8 (C, H, W), label), decoded on demand as ImageFolder does."""

    def __init__(
        self, pictures: "pa.ChunkedArray", labels: NDArray[np.int64], *, size: tuple[int, int], in_channels: int,
        resize: Resize, what: str,
    ) -> None:  # fmt: skip
        super().__init__(size=size, in_channels=in_channels, resize=resize)
        self.pictures = pictures
        self.labels = torch.from_numpy(labels)
        self.what = what

    def file(self, index: int) -> tuple[io.BytesIO, str]:
        """The encoded picture as an open file, and its name in errors."""
        return io.BytesIO(self.pictures[index].as_py()), f"{self.what}: picture {index}"

    def fingerprint(self) -> str:
        """Hash the encoded pictures, the labels and the shape."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = self.begun_digest()
        for picture in self.pictures:
            encoded = picture.as_py()
            digest.update(len(encoded).to_bytes(8) + encoded)
        return digest.hexdigest()


EXAMPLE = "data=parquet data.train_file=TRAIN.parquet data.test_file=TEST.parquet, or data.train_file=DIR"


def _named(train_file: str | None, test_file: str | None, part: Part) -> tuple[str | None, bool]:
    """The file or folder of a part, and whether it holds other parts too."""
    return (test_file, False) if part == "test" and test_file else (train_file, True)


def _shards(root: str, train_file: str | None, test_file: str | None, part: Part) -> list[Path]:
    """The files of a part in the order of their names; DataError where there are none."""
    name, shared = _named(train_file, test_file, part)
    path = data_file(root, name, key="data.test_file" if not shared else "data.train_file", example=EXAMPLE)
    if path.is_file():
        if shared and part == "test":
            raise ConfigError(f"{path} is one file, for training: name the test images' with data.test_file=FILE")
        return [path]
    files = _files(path)
    if not files:
        raise DataError(f"{path} holds no .parquet files, nor does a folder in it")
    parted = [(file, _part_of(file, path)) for file in files]
    of_part = [file for file, found in parted if found == part]
    if of_part:
        return of_part
    if all(found is None for _, found in parted) and (part == "train" or not shared):
        return files
    more = "; data.test_file=FILE names the test images'" if part == "test" else ""
    raise DataError(
        f"{path} has no files of the {part} part, named {PARTS[part][0]}-00000-of-00001.parquet or so "
        f"(it holds {', '.join(file.name for file in files[:3])}{', …' if len(files) > 3 else ''}){more}"  # noqa: PLR2004
    )


def _files(path: Path) -> list[Path]:
    """The shards in a folder, in data/ or in the folders in it; none in a file."""
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet")) or sorted(path.glob("*/*.parquet"))


def _part_of(file: Path, folder: Path) -> str | None:
    """The part that a shard's name, or the folder that it is in, begins with."""
    for text in (file.name, *(parent.name for parent in file.parents if parent != folder and folder in parent.parents)):
        word = re.split(r"[^a-z]", text.lower())[0]
        part = next((part for part, names in PARTS.items() if word in names), None)
        if part is not None:
            return part
    return None


def _read(shards: Sequence[Path], image: str | None, label: str | None, class_names: Sequence[str] | None) -> _Columns:
    """The columns of all shards of a part."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("data=parquet needs pyarrow: pip install 'fmx[parquet]', or pip install pyarrow") from None
    tables, names = [], None
    for shard in shards:
        try:
            schema = parquet.read_schema(shard)
            picked = [
                _column(shard, schema, image, IMAGES, "image"),
                _column(shard, schema, label, LABELS, "label"),
            ]
            table = parquet.read_table(shard, columns=picked)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{shard} cannot be read as Parquet: {first_line(error)}") from error
        names = names or _class_labels(schema, picked[1])
        tables.append((shard, table.column(picked[0]), table.column(picked[1])))
    pictures = pa.chunked_array([chunk for shard, each, _ in tables for chunk in _encoded(shard, each).chunks])
    labels = pa.chunked_array([chunk for _, _, each in tables for chunk in each.chunks])
    if not len(labels):
        raise DataError(f"{shards[0]} has no rows")
    for what, column in (("picture", pictures), ("label", labels)):
        if column.null_count:
            raise DataError(f"{shards[0].parent}: {column.null_count:,} rows have no {what}; leave them out")
    if pa.types.is_integer(labels.type):
        return _Columns(pictures, labels.to_numpy().astype(np.int64), names)
    if pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type):
        texts = labels.to_pylist()
        log.info("%s: labels are texts: their place in data.class_names gives their numbers", shards[0])
        order = list(class_names) if class_names is not None else sorted({*texts})
        if strange := sorted({*texts} - {*order}):
            raise DataError(
                f"{shards[0]} has the label {strange[0]!r}, which is no class (data.class_names)"
                f"{nearest(strange[0], order)}"
            )
        places = {name: number for number, name in enumerate(order)}
        return _Columns(pictures, np.array([places[text] for text in texts], dtype=np.int64), order)
    raise DataError(f"{shards[0]}: labels of type {labels.type}; whole numbers or texts are needed")


def _column(shard: Path, schema: "pa.Schema", given: str | None, usual: Sequence[str], what: str) -> str:
    """The name of a column: the given one, or the first usual one that is there."""
    found = given if given in schema.names else next((name for name in usual if name in schema.names), None)
    if found is None or (given is not None and found != given):
        missing = f"has no column {given!r}" if given else f"has no column that is named as {what}s are"
        raise DataError(f"{shard} {missing}; it has {', '.join(schema.names)}: name it with data.train.{what}=NAME")
    return found


def _encoded(shard: Path, column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """The bytes of a column of pictures."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks])
        kind = column.type
        if column.null_count:
            raise DataError(f"{shard}: {column.null_count:,} pictures have a path alone and no bytes in the file")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return column.cast(pa.large_binary())
    raise DataError(f"{shard}: pictures of type {kind}; encoded ones are needed: bytes, or a struct with `bytes`")


def _class_labels(schema: "pa.Schema", label: str) -> list[str] | None:
    """The names of a ClassLabel column, from what the library `datasets` writes into a schema; None without."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
