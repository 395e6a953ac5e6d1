"""What a data source may return, brought to the two forms that training takes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from fmx.data.arrays import ImageArrays
from fmx.data.item_dataset import PAIR, ItemDataset, labels_in, making, pair_of
from fmx.data.labels import as_labels, from_zero
from fmx.data.picture_dataset import PictureDataset
from fmx.data.pixels import BYTES, Pixels, ValueRange, images_of, kind_of, read
from fmx.data.seeded_dataset import SampleKey, SeededDataset
from fmx.errors import ConfigError, DataError

__all__ = ["Accepted", "Part", "Source", "accept"]

log = logging.getLogger(__name__)
Part = Literal["train", "val", "test"]
Source = ImageArrays | Dataset[tuple[Tensor, int]]
PLAIN = (np.ndarray, Tensor, list, tuple, dict, str)
NUM_LOOKED_AT = 5  # items of a user's dataset, each of which may take any time
NEEDED = (
    "give a pair (images, labels) of arrays, a dict {images: ..., labels: ...}, fmx.data.arrays.ImageArrays, or a "
    "dataset with __len__, __getitem__ and an attribute `labels`"
)


@dataclass(frozen=True)
class Accepted:
    """The sources of all parts, whose images all are of one kind, and how their values were read."""

    sources: dict[Part, Source]
    pixels: Pixels


def accept(
    given: Mapping[Part, Any],
    *,
    shape: tuple[int, int, int],
    class_names: Sequence[str],
    value_range: ValueRange | None,
) -> Accepted:
    """Check what each part's source returned, and convert it where its meaning is certain; say what was converted.

    Arrays become ImageArrays, images uint8 (N, C, H, W) or float32 in 0..1, labels int64 from 0. A user's dataset
    becomes an ItemDataset, of which a few items are read here. Raises ConfigError and DataError, which name the part,
    what was found and what to do.
    """
    opened: dict[Part, Any] = {}
    for part, source in given.items():  # one source may be two parts
        same = next((other for other in opened if given[other] is source), None)
        opened[part] = _opened(source, part, shape, class_names) if same is None else opened[same]
    labels: dict[str, Tensor] = {part: source.labels for part, source in opened.items()}
    base = from_zero(labels, len(class_names), class_names)
    pixels = {part: _look(source, part, value_range) for part, source in opened.items()}
    pictures = [(part, source) for part, source in opened.items() if isinstance(source, PictureDataset)]
    any(source.warn_of_depth(f"data.{part}") for part, source in pictures)  # once: up to the first that has any
    kinds = {part: each.kind for part, each in pixels.items()}
    if len({*kinds.values()}) > 1:
        found = ", ".join(f"data.{part} as {kind}" for part, kind in kinds.items())
        raise DataError(
            f"the images are read in two ways, {found}; give all parts the same type and range, or say which values "
            "are black and white: data.value_range=[low,high]"
        )
    converted: dict[int, Source] = {}
    for part, source in opened.items():
        if id(source) not in converted:
            converted[id(source)] = _converted(source, pixels[part], base)
    return Accepted({part: converted[id(source)] for part, source in opened.items()}, pixels["train"])


@dataclass(frozen=True)
class _Arrays:
    """Images (N, C, H, W) of any type, with their labels; `own` is the object that they came in, if unchanged."""

    images: Any
    labels: Tensor
    own: ImageArrays | None = None


def _opened(source: Any, part: Part, shape: tuple[int, int, int], class_names: Sequence[str]) -> Any:
    """A source as _Arrays, ItemDataset or PictureDataset, with labels that may still count from 1."""
    where = f"data.{part}"
    if isinstance(source, PictureDataset):
        return source
    if isinstance(source, IterableDataset):
        raise ConfigError(
            f"{where}: {type(source).__name__} is an IterableDataset, which cannot be split or shuffled; "
            "give a dataset with __getitem__ and __len__"
        )
    if isinstance(source, TensorDataset):
        source = source.tensors
    if isinstance(source, list) and source and all(isinstance(each, tuple) and len(each) == PAIR for each in source):
        source = tuple(zip(*source, strict=True))
    pair = (source.images, source.labels) if isinstance(source, ImageArrays) else pair_of(source)
    if pair is not None and all(isinstance(each, tuple) and len(each) == PAIR for each in pair):
        raise ConfigError(f"{where} gives two pairs, as of training and test set: give its own (images, labels)")
    if pair is None:
        return _opened_dataset(source, part, shape, class_names)
    images = images_of(pair[0], shape, where, is_certain=isinstance(source, ImageArrays))
    labels = as_labels(pair[1], where=where, num_classes=len(class_names), class_names=class_names)
    _check_count(len(images), len(labels), where)
    return _Arrays(images, labels, source if _is_plain(source, shape) else None)


def _is_plain(source: Any, shape: tuple[int, int, int]) -> bool:
    """Whether a source has the form that training takes already."""
    if not isinstance(source, ImageArrays) or not (
        isinstance(source.images, Tensor) and isinstance(source.labels, Tensor)
    ):
        return False
    types = source.images.dtype, source.labels.dtype
    return types == (torch.uint8, torch.int64) and source.labels.ndim == 1 and tuple(source.images.shape[1:]) == shape


def _opened_dataset(source: Any, part: Part, shape: tuple[int, int, int], class_names: Sequence[str]) -> ItemDataset:
    where, name = f"data.{part}", type(source).__name__
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")) or isinstance(source, PLAIN):
        raise ConfigError(f"{where} gives {name}, which is no data set with labels; {NEEDED}")
    if (given := labels_in(source)) is None:
        raise ConfigError(
            f"{where}: {name} lacks an attribute `labels`, the label of each item, by which validation images are "
            f"chosen without reading all; add it, or read all items into memory: data.{part}={{_target_: "
            "fmx.data.in_memory.in_memory, dataset: {_target_: ...}, in_channels: ..., image_size: ...}"
        )
    if len(source) == 0:
        raise DataError(f"{where} has no images")
    labels = as_labels(given, where=where, num_classes=len(class_names), class_names=class_names)
    _check_count(len(source), len(labels), where)
    return ItemDataset(source, labels, part=part, shape=shape, class_names=class_names)


def _check_count(images: int, labels: int, where: str) -> None:
    if images != labels:
        raise DataError(f"{where} has {images:,} images, but {labels:,} labels; give each image its label")


def _look(source: Any, part: Part, value_range: ValueRange | None) -> Pixels:
    """How the values of a source are read."""
    where = f"data.{part}"
    if isinstance(source, PictureDataset):
        if value_range not in {None, BYTES}:
            raise ConfigError(f"{where}: data.value_range would be without effect: files are read as 0 to 255")
        return Pixels("uint8", BYTES)
    if isinstance(source, _Arrays):
        pixels = kind_of(source.images, value_range, where)
        dtype, brightest = source.images.dtype, source.images.max()
        if pixels.kind == "uint8" and dtype.kind != "b" and brightest <= 1:
            log.warning(
                "%s: the largest value of its images of type %s is %d, so all are black: if 1 is white, set "
                "data.value_range=[0,1]", where, dtype, brightest
            )  # fmt: skip
        return pixels
    return _look_at_items(source, value_range)


def _look_at_items(source: ItemDataset, value_range: ValueRange | None) -> Pixels:
    """Read a few items, evenly spaced, and check their shapes, types, ranges and labels."""
    last, number = len(source) - 1, min(NUM_LOOKED_AT, len(source))
    items = SeededDataset(source.apart().source)
    read_items = {}
    for index in sorted({position * last // max(1, number - 1) for position in range(number)}):
        with making(source.part, index):
            read_items[index] = items[SampleKey(index, 0, 0, 0, index)]
    images = []
    for index, item in read_items.items():
        where = f"data.{source.part}: item {index}"
        try:
            images.append(source.image(item, where, is_first=True))
        except ConfigError:
            _check_same_shape(read_items, source.part)
            raise
        given, listed = source.label(item, where), int(source.labels[index])
        if given != listed:
            raise DataError(
                f"{where} has the label {given}, but the dataset's list of labels says {listed}; the split and the "
                "metrics need both to be the same"
            )
    types = sorted({str(image.dtype) for image in images})
    if len(types) > 1:
        raise DataError(f"data.{source.part}: items of the types {' and '.join(types)}; give all the same type")
    return kind_of(np.stack(images), value_range, f"data.{source.part}, {len(images)} of its items")


def _check_same_shape(items: Mapping[int, Any], part: str) -> None:
    """DataError where two items have different shapes, so that no setting fits both."""
    shapes: dict[tuple[int, ...], int] = {}
    for index, item in items.items():
        if (pair := pair_of(item)) is not None and isinstance(pair[0], np.ndarray | Tensor):
            shapes.setdefault(tuple(pair[0].shape), index)
    if len(shapes) > 1:
        found = " and ".join(f"{shape} (item {index})" for shape, index in list(shapes.items())[:2])
        raise DataError(f"data.{part}: its items differ in shape, such as {found}; bring all to one size")


def _converted(source: Any, pixels: Pixels, base: int) -> Source:
    if isinstance(source, _Arrays):
        if source.own is not None and base == 0 and pixels == Pixels("uint8", BYTES):
            return source.own
        return ImageArrays(images=read(source.images, pixels), labels=source.labels - base)
    if isinstance(source, ItemDataset):
        source.pixels, source.base = pixels, base
        source.labels = source.labels - base
    return source  # type: ignore[no-any-return]
