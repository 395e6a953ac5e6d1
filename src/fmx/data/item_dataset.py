"""A map-style dataset of a user's own, whose items are brought to the form that training takes."""

import copy
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from fmx.data.labels import label_of
from fmx.data.picture import MODES, brought_to, to_size
from fmx.data.pixels import BYTES, Pixels, check_item, image_of, read
from fmx.data.seeded_dataset import SampleKey, SeededDataset
from fmx.errors import ConfigError, DataError, FmxError, first_line

__all__ = ["PAIR", "ItemDataset", "draws_at_random", "held_out_view", "labels_in", "making", "pair_of"]

log = logging.getLogger(__name__)
LABELS = ("labels", "targets", "label", "target", "y")  # attributes that hold the labels of a dataset
IMAGE_KEYS = ("images", "image", "x", "data", "pixels", "img")
LABEL_KEYS = (*LABELS, "class")
SIZE, DEPTH = 0, 1  # what the log says of PIL images
PAIR = 2  # an image and its label
MANY = 8  # images that an error lists


def pair_of(given: Any) -> tuple[Any, Any] | None:
    """The images and the labels of a pair, or of a mapping with such keys; None for anything else."""
    if isinstance(given, Mapping):
        found = [next((given[key] for key in keys if key in given), None) for keys in (IMAGE_KEYS, LABEL_KEYS)]
        return None if any(each is None for each in found) else (found[0], found[1])
    if isinstance(given, tuple | list) and len(given) == PAIR:
        return given[0], given[1]
    return None


def labels_in(dataset: Any) -> Any:
    """The labels that a dataset holds in an attribute, in the order of its items; None where it has none.

    Subset and ConcatDataset of torch take those of the datasets inside, and folders of torchvision their `samples`.
    """
    for name in LABELS:
        if (found := getattr(dataset, name, None)) is not None and not callable(found):
            return found
    if isinstance(dataset, Subset):
        inner = labels_in(dataset.dataset)
        return None if inner is None else np.asarray(inner)[np.asarray(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [labels_in(each) for each in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate([np.asarray(part) for part in parts])
    samples = getattr(dataset, "samples", None)
    return None if not isinstance(samples, list) else [sample[-1] for sample in samples]


class ItemDataset(Dataset[tuple[Tensor, int]]):
    """The items of a user's dataset as images (C, H, W), uint8 or float32 in 0..1, and labels from 0.

    pixels: how values are read, which `look` finds; labels: int64 (N,), from 0; base: the number that the items' own
    labels count from. Reading an item raises DataError, which names it, where it has another shape or type, or where
    the user's code fails.
    """

    def __init__(
        self, source: Any, labels: Tensor, *, part: str, shape: tuple[int, int, int], class_names: Sequence[str]
    ) -> None:
        self.source = source
        self.labels = labels
        self.part = part
        self.shape = shape
        self.class_names = list(class_names)
        self.pixels = Pixels("uint8", BYTES)
        self.base = 0
        # What was said of size and depth, in all processes.
        self.is_said = torch.zeros(2, dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with making(self.part, index):
            return self._read(index, self.source[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Read several items at once, as the dataset itself does if it can."""
        whole = getattr(self.source, "__getitems__", None)
        if whole is None:
            return [self[index] for index in indices]
        with making(self.part, *indices):
            try:
                items = whole(indices)
            except Exception:
                for index in indices:
                    self[index]  # which names the image, where one alone fails
                raise
        return [self._read(index, item) for index, item in zip(indices, items, strict=True)]

    def apart(self) -> "ItemDataset":
        """A copy for a first look, so that a file that the dataset opens then is not shared with worker processes."""
        return self.of(copy.copy(self.source))

    def of(self, source: Any) -> "ItemDataset":
        """The same images and labels, read from another dataset."""
        view = copy.copy(self)
        view.source = source
        return view

    def fingerprint(self) -> str:
        """The dataset's own content hash, or a hash of its labels where it has none."""
        own = getattr(self.source, "fingerprint", None)
        return hashlib.blake2b(self.labels.numpy().tobytes(), digest_size=16).hexdigest() if own is None else str(own())

    def image(self, item: Any, where: str, *, is_first: bool = False) -> Any:
        """The image of an item as an array (C, H, W) of its own type. is_first: whether none has been read yet."""
        pair = pair_of(item)
        if pair is None:
            raise DataError(f"{where} is {_named(item)}; an item must be a pair (image, label)")
        if isinstance(pair[0], Image.Image):
            return self._from_pil(pair[0], where)
        return image_of(pair[0], self.shape, where, is_first=is_first)

    def label(self, item: Any, where: str) -> int:
        """The label of an item, from 0."""
        pair = pair_of(item)
        assert pair is not None
        return (
            label_of(pair[1], where=where, num_classes=len(self.class_names), class_names=self.class_names) - self.base
        )

    def _read(self, index: int, item: Any) -> tuple[Tensor, int]:
        where = f"data.{self.part}: item {index}"
        array = self.image(item, where)
        check_item(array, self.pixels, where)
        label, listed = self.label(item, where), int(self.labels[index])
        if label != listed:
            raise DataError(f"{where} has the label {label + self.base}, but the list says {listed + self.base}")
        return read(array, self.pixels), label

    def _say(self, topic: int, what: str) -> None:
        """Log something of a part once, whichever worker process meets it first."""
        if not self.is_said[topic]:
            self.is_said[topic] = True
            log.info("%s", what)

    def _from_pil(self, picture: Image.Image, where: str) -> Any:
        channels, height, width = self.shape
        if channels not in MODES:
            raise ConfigError(f"{where} is a PIL image, which has 1 or 3 channels, but data.in_channels={channels}")
        if picture.size != (width, height):
            self._say(
                SIZE,
                f"{where} is a PIL image of {picture.width} x {picture.height} pixels: those of another size than "
                f"{width} x {height} (data.image_size) are stretched to it",
            )
        if picture.mode[0] == "I" and channels != 1:
            self._say(
                DEPTH,
                f"{where} is a PIL image of 16 bits, which is read as 8 (divided by 256); data.in_channels=1, or "
                "arrays instead of PIL images, keep all of its depth",
            )
        try:
            if picture.mode[0] in "IF" and channels == 1:  # 16 bits and floats keep their depth
                deep = np.asarray(picture)
                small = np.asarray(to_size(Image.fromarray(deep.astype(np.float32)), (height, width), "stretch"))[None]
                return np.rint(small).astype(deep.dtype) if deep.dtype.kind in "iu" else small
            return brought_to(picture, MODES[channels], (height, width), "stretch")
        except (OSError, ValueError) as error:
            raise DataError(f"{where} cannot be read: {error}") from error


@contextmanager
def making(part: str, *images: int) -> Iterator[None]:
    """Turn what a user's code raises, while it makes images of a part, into a DataError that names them."""
    try:
        yield
    except FmxError:
        raise
    except Exception as error:
        named = f"one of the images {', '.join(map(str, images[:MANY]))}{', …' if len(images) > MANY else ''}"
        raise DataError(
            f"data.{part}: {named if len(images) > 1 else f'image {images[0]}'} cannot be made: "
            f"{type(error).__name__}: {first_line(error)} (HYDRA_FULL_ERROR=1 shows the traceback)"
        ) from error


def held_out_view(train: Any, test: Any) -> Any:
    """A training source as validation images are read from it: without its own random transform, where that is known.

    Of a user's dataset it is what its method `held_out()` returns. Otherwise, where the training and the test set are
    of one class with an attribute `transform`, as torchvision's are, it is a copy with the transform of the test set.
    """
    if not (isinstance(train, ItemDataset) and isinstance(test, ItemDataset)) or train is test:
        return train
    inner = _without_transform(train.source, test.source)
    if inner is train.source:
        return train
    if len(inner) != len(train):
        raise DataError(f"data.train: held_out() gives {len(inner):,} items, but there are {len(train):,}")
    return train.of(inner)


def _without_transform(train: Any, test: Any) -> Any:
    if callable(own := getattr(train, "held_out", None)):
        return own()
    if isinstance(train, Subset):
        test = test.dataset if isinstance(test, Subset) else test
        inner = _without_transform(train.dataset, test)
        return train if inner is train.dataset else Subset(inner, train.indices)
    if type(train) is not type(test) or not (hasattr(train, "transform") and hasattr(test, "transform")):
        return train
    view = copy.copy(train)
    for name in ("transform", "transforms"):  # torchvision's datasets use one or the other
        if hasattr(test, name):
            setattr(view, name, getattr(test, name))
    if repr(train.transform) != repr(test.transform):
        log.info("validation images are read with the transform of data.test, not with that of data.train")
    return view


def draws_at_random(source: ItemDataset, index: int) -> bool:
    """Whether two reads of an item differ."""
    items = SeededDataset(source.apart())
    first, second = (items[SampleKey(index, seed, 0, 0, 0)][0] for seed in (0, 1))
    return not torch.equal(first, second)


def _named(item: object) -> str:
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of {len(item)}"
    return f"{type(item).__module__}.{type(item).__name__}".removeprefix("builtins.")
