"""The classification sets of torchvision by name, with what is found in them kept beside their files."""

import inspect
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from hashlib import blake2b
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fmx.config.image_size import ImageSize, height_and_width, shortest_form
from fmx.config.suggest import nearest
from fmx.data.arrays import ImageArrays, mean_and_std
from fmx.data.download import TIMEOUT_S
from fmx.data.found import Found, numbered
from fmx.data.picture import Resize
from fmx.data.picture_files import PictureFiles, size_and_channels
from fmx.data.split import split_validation
from fmx.errors import ConfigError, DataError, first_line
from fmx.process.lock import exclusive

__all__ = ["TORCHVISION", "describe", "load_torchvision", "validation"]

log = logging.getLogger(__name__)
Part = Literal["train", "val", "test"]
KEPT = ".fmx"  # the folder below data.root that holds what was found
TORCHVISION = "torchvision"  # in place of a mirror: torchvision's own addresses
# The values of the argument that chooses a part, where these are not train and test.
SPLITS: Mapping[str, tuple[str, str]] = {
    "CLEVRClassification": ("train", "val"),
    "FGVCAircraft": ("trainval", "test"),
    "INaturalist": ("2021_train", "2021_valid"),
    "ImageNet": ("train", "val"),
    "Imagenette": ("train", "val"),
    "OxfordIIITPet": ("trainval", "test"),
    "Places365": ("train-standard", "val"),
}
# The values of sets that have a part for validation besides.
VALIDATION: Mapping[str, str] = {
    "Country211": "valid",
    "DTD": "val",
    "Flowers102": "val",
    "PCAM": "val",
    "RenderedSST2": "val",
}
PART_ARGUMENTS = ("train", "split", "version")
# Sets of which torchvision has no test part.
WHOLE = ("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397")
NO_CLASSIFICATION: Mapping[str, tuple[str, ...]] = {
    "holds boxes, masks or captions instead of one class per picture": (
        *("VOCDetection", "VOCSegmentation", "CocoDetection", "CocoCaptions", "Cityscapes", "SBDataset", "Kitti"),
        *("WIDERFace", "Flickr8k", "Flickr30k", "SBU"),
    ),
    "holds several attributes per picture": ("CelebA",),
    "holds videos": ("Kinetics", "HMDB51", "UCF101", "MovingMNIST"),
    "holds pairs of pictures": ("LFWPairs", "PhotoTour", "KittiFlow", "Sintel", "FlyingChairs", "FlyingThings3D",
                                "HD1K"),
    "has other classes for testing than for training": ("Omniglot", "LFWPeople"),
    "makes pictures of noise": ("FakeData",),
    "reads databases of LMDB, which fmx does not": ("LSUN", "LSUNClass"),
    "is a layout and no data set: data=image_folder reads folders of pictures": ("ImageFolder", "DatasetFolder"),
}  # fmt: skip
SET_BY_FMX = {"root", "download", "transform", "target_transform", "transforms", "loader"}
NUM_MEASURED = 1000  # pictures on disk, of which mean and deviation are taken
MAX_IN_MEMORY = 2**31  # bytes of pictures that no file holds singly


def load_torchvision(
    *,
    root: str,
    dataset: str | None,
    options: Mapping[str, Any] | None,
    part: Part,
    split: str | None,
    num_test: float,
    test_seed: int,
    in_channels: int,
    image_size: ImageSize,
    resize: Resize,
    mirrors: Sequence[str],
) -> ImageArrays | PictureFiles:
    """One part of a classification set of torchvision, in its layout below `root`.

    options: further arguments of its class. split: another value of the class's own argument for parts. Where
    torchvision has no test part, `num_test` images (a count or a share) are drawn for it, stratified and seeded.
    mirrors: [torchvision] lets torchvision fetch missing files; [] does not. resize: as of
    ImageFolder, of pictures in files.

    Returns:
        ImageArrays of sets that torchvision holds in memory, else PictureFiles; labels count from 0.

    Raises:
        ConfigError: there is no such set, split or option. DataError: its files are missing or damaged.
    """
    taken = _Taken(root, dataset, options, part, split, may_fetch=TORCHVISION in mirrors)
    size = height_and_width(image_size)
    read = taken.read()
    if taken.kind.__name__ in WHOLE:
        read = _drawn(read, part, num_test, test_seed)
    if isinstance(read.pictures, list):
        return PictureFiles(
            read.pictures, read.labels, root=root, size=size, in_channels=in_channels, resize=resize,
            what=f"torchvision's {taken.kind.__name__}",
        )  # fmt: skip
    pixels = _fitted(read.pictures, in_channels, size, resize)
    return ImageArrays(pixels.contiguous(), torch.from_numpy(read.labels))


def describe(
    *, root: str, dataset: str | None, options: Mapping[str, Any] | None, split: str | None, mirrors: Sequence[str]
) -> Found:
    """Classes, shape, mean and deviation of the training part, kept as JSON in <root>/.fmx/."""
    taken = _Taken(root, dataset, options, "train", split, may_fetch=TORCHVISION in mirrors)
    name = taken.kind.__name__
    key = blake2b(json.dumps([name, options or {}, split], sort_keys=True).encode(), digest_size=4).hexdigest()
    kept = Path(root, KEPT, f"{name}-{key}.json")
    if (known := _read_kept(kept)) is not None:
        return known
    read = taken.read()
    channels, size = read.shape()
    mean, std = mean_and_std(read.sample(channels, size))
    facts = Found(class_names=read.class_names, in_channels=channels, image_size=size, mean=mean, std=std)
    if taken.may_fetch:  # else the set is not ours to write beside
        _keep(kept, facts)
    return facts


def validation(
    *, root: str, dataset: str | None, options: Mapping[str, Any] | None, split: str | None, mirrors: Sequence[str]
) -> dict[str, Any] | None:
    """The set's own validation part, where it has one besides the training part."""
    del root, options, mirrors
    own = VALIDATION.get(str(dataset))
    return {"part": "val", "split": own} if own is not None and split is None else None


class _Read:
    """The pictures of a part: uint8 (N, C, H, W) in memory, or paths; with labels int64 (N,) and class names."""

    def __init__(self, pictures: Tensor | list[Path], labels: NDArray[np.int64], class_names: list[str]) -> None:
        self.pictures = pictures
        self.labels = labels
        self.class_names = class_names

    def shape(self) -> tuple[int, int | list[int]]:
        """Channels and image size."""
        if isinstance(self.pictures, list):
            return size_and_channels(self.pictures)
        channels, height, width = self.pictures.shape[1:]
        return channels, shortest_form((height, width))

    def sample(self, channels: int, size: int | list[int]) -> ImageArrays:
        """All pictures in memory, or some of those on disk, evenly spaced."""
        if not isinstance(self.pictures, list):
            return ImageArrays(self.pictures, torch.from_numpy(self.labels))
        step = max(1, len(self.pictures) // NUM_MEASURED)
        files = PictureFiles(
            self.pictures[::step],
            self.labels[::step],
            root="",
            size=height_and_width(size),
            in_channels=channels,
            resize="stretch",
            what="",
        )
        return ImageArrays(torch.stack([files[index][0] for index in range(len(files))]), files.labels)


def _drawn(read: _Read, part: Part, num_test: float, test_seed: int) -> _Read:
    """One part of a set that has none: a seeded, stratified draw."""
    labels = torch.from_numpy(read.labels)
    train, test = split_validation(labels, validation=num_test, split="stratified", seed=test_seed)
    chosen = train if part == "train" else test
    pictures = read.pictures
    taken = [pictures[index] for index in chosen] if isinstance(pictures, list) else pictures[chosen]
    return _Read(taken, read.labels[chosen.numpy()], read.class_names)


class _Taken:
    """One part of a set, by the arguments of its class; ConfigError where these are wrong."""

    def __init__(
        self, root: str, dataset: str | None, options: Mapping[str, Any] | None, part: Part, split: str | None, *,
        may_fetch: bool,
    ) -> None:  # fmt: skip
        self.root = root
        self.kind = _class_named(dataset)
        self.options = dict(options or {})
        self.part = part
        self.may_fetch = may_fetch
        name, known = self.kind.__name__, _arguments(self.kind)
        self.by = next((each for each in PART_ARGUMENTS if each in known), None) if name not in WHOLE else None
        for option in self.options:
            if option in SET_BY_FMX or option == self.by:
                how = f"data.{part}.split=NAME chooses a part" if option == self.by else "fmx sets it itself"
                raise ConfigError(f"data.options.{option}: {how}")
            if option not in known:
                free = sorted(known - SET_BY_FMX - {self.by})
                raise ConfigError(
                    f"data.options: torchvision's {name} takes no {option!r}{nearest(option, free)} "
                    f"It takes: {', '.join(free) or 'none'}"
                )
        if self.by != "split" and "split" in _needed(self.kind) and "split" not in self.options:
            known_splits = ", ".join(getattr(self.kind, "splits", ()))
            raise ConfigError(
                f"torchvision's {name} comes in several splits: choose one with 'data.options={{split: NAME}}'"
                + (f" of {known_splits}" if known_splits else "")
            )
        self._choose(split)

    def _choose(self, split: str | None) -> None:
        """Add the argument that chooses the part."""
        name = self.kind.__name__
        if self.by is None:
            if split is not None:
                raise ConfigError(f"data.{self.part}.split={split}: torchvision's {name} has no parts")
            return
        train, test = SPLITS.get(name, ("train", "test"))
        chosen = split or (train if self.part == "train" else test)
        if self.by == "train":
            if chosen not in {"train", "test"}:
                needs = f", but takes data.options={{split: {chosen}}}" if "split" in _arguments(self.kind) else ""
                raise ConfigError(f"data.{self.part}.split={chosen}: torchvision's {name} has train and test{needs}")
            self.options["train"] = chosen == "train"
        else:
            self.options[self.by] = chosen

    def read(self) -> _Read:
        """Open the set, which torchvision may fetch, and read it, or where its pictures are."""
        from_files = "loader" in _arguments(self.kind)
        opened = self._open({"loader": _Unread} if from_files else {})
        classes = _names_of(opened)
        data = getattr(opened, "data", None)
        if isinstance(data, Tensor | np.ndarray) and data.dtype in {torch.uint8, np.dtype(np.uint8)}:
            labels = _as_numbers(next(v for n in ("targets", "labels") if (v := getattr(opened, n, None)) is not None))
            return _Read(_channels_first(torch.as_tensor(data)), *_from_0(labels, classes))
        with nullcontext() if from_files else _unread_pictures():
            items = self._items(opened)
        labels = _as_numbers([label for _, label in items])
        if "binary-category" in self.options.values():
            classes = list(opened.bin_classes)
        pictures = [picture.path for picture, _ in items if isinstance(picture, _Unread)]
        if len(pictures) == len(items):
            return _Read(pictures, *_from_0(labels, classes))
        stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture, _ in items]))
        return _Read(_channels_first(stacked), *_from_0(labels, classes))

    def _items(self, opened: Any) -> list[tuple[Any, Any]]:
        items, num_bytes = [], 0
        for index in range(len(opened)):
            picture, label = opened[index]
            if isinstance(picture, Image.Image):
                num_bytes += picture.width * picture.height * len(picture.getbands())
                if num_bytes > MAX_IN_MEMORY:
                    raise DataError(
                        f"torchvision's {self.kind.__name__} has more than {MAX_IN_MEMORY / 2**30:.0f} GiB of pictures "
                        "that lie in no files of their own; save them as such for data=image_folder"
                    )
            elif not isinstance(picture, _Unread):
                raise ConfigError(f"torchvision's {self.kind.__name__} gives {type(picture).__name__}, no pictures")
            items.append((picture, label))
        return items

    def _open(self, more: Mapping[str, Any]) -> Any:
        """The set as torchvision's object; fetched where it is missing, by one process at a time."""
        takes_download = "download" in _arguments(self.kind)
        arguments = {**self.options, **more}
        try:
            return self._made(arguments | ({"download": False} if takes_download else {}))
        except (OSError, RuntimeError, EOFError, ModuleNotFoundError) as error:
            missing = error
        needs_package = isinstance(missing, ModuleNotFoundError) or "pip install" in str(missing)
        if not (takes_download and self.may_fetch) or needs_package:
            raise self._missing(missing) from missing
        log.info("fetching torchvision's %s to %s", self.kind.__name__, self.root)
        try:
            Path(self.root, KEPT).mkdir(parents=True, exist_ok=True)
            with exclusive(Path(self.root, KEPT, f"{self.kind.__name__}.lock"), needed=False), _impatient():
                return self._made(arguments | {"download": True})
        except (OSError, RuntimeError, EOFError, HTTPException, ModuleNotFoundError) as error:
            raise self._missing(error, fetched=True) from error

    def _made(self, arguments: Mapping[str, Any]) -> Any:
        try:
            return self.kind(self.root, **arguments)
        except (ValueError, TypeError) as error:
            given = ", ".join(f"{name}={value}" for name, value in self.options.items())
            raise ConfigError(f"torchvision's {self.kind.__name__} refuses {given}: {first_line(error)}") from error

    def _missing(self, error: Exception, *, fetched: bool = False) -> DataError:
        name = self.kind.__name__
        if "pip install" in str(error):
            return DataError(f"torchvision's {name} needs a package: {first_line(error)}")
        how = "could not be fetched" if fetched else "is not there, or not complete"
        return DataError(
            f"torchvision's {name} {how} below data.root={self.root} ({first_line(error)}).\n"
            f"Ways out: data.root=DIR (or FMX_DATA_ROOT=DIR) for the folder that has it in torchvision's layout, or "
            f"`fmx data torchvision data.dataset={name} --root DIR` on a machine with a network and a copy of DIR, or "
            f"data=digits (they ship inside scikit-learn)."
        )


class _Unread:
    """A picture that is not opened: only its path is wanted."""

    def __init__(self, path: Any, *_: Any, **__: Any) -> None:
        self.path = Path(path)

    def convert(self, *_: Any) -> "_Unread":
        """Stay unread, whatever mode is wanted."""
        return self


@contextmanager
def _unread_pictures() -> Iterator[None]:
    """Let Pillow open no file: sets without the argument `loader` would decode every picture for its label."""
    before = Image.open
    Image.open = _Unread  # type: ignore[assignment]
    try:
        yield
    finally:
        Image.open = before


def _class_named(dataset: str | None) -> Any:
    """A classification set of torchvision; ConfigError with the nearest one for another name."""
    from torchvision import datasets

    if not dataset:
        raise ConfigError("data=torchvision needs the name of a set: type data=torchvision data.dataset=CIFAR10")
    reason = next((why for why, names in NO_CLASSIFICATION.items() if dataset in names), None)
    if reason is not None:
        raise ConfigError(f"data.dataset={dataset} {reason}: fmx classifies pictures")
    known = _classification_sets()
    if dataset not in known:
        plain = {name.lower(): name for name in known}
        near = get_close_matches(dataset.lower(), plain, n=1, cutoff=0.5)
        meant = f"; did you mean {plain[near[0]]!r}?" if near else "."
        raise ConfigError(
            f"torchvision has no classification set {dataset!r} (data.dataset){meant} Sets: {', '.join(known)}"
        )
    return getattr(datasets, dataset)


def _classification_sets() -> list[str]:
    from torchvision import datasets

    refused = {name for names in NO_CLASSIFICATION.values() for name in names}
    kinds = [name for name in datasets.__all__ if inspect.isclass(getattr(datasets, name)) and name not in refused]
    return sorted(
        name
        for name in kinds
        if name in WHOLE
        or (
            {*PART_ARGUMENTS} & (given := _arguments(getattr(datasets, name)))
            and not name.endswith("Stereo")
            and "transform" in given
        )
    )


def _arguments(kind: type) -> set[str]:
    """The arguments of a class, with those of its bases where it hands on **kwargs."""
    names: set[str] = set()
    for each in inspect.getmro(kind):
        if "__init__" not in vars(each):
            continue
        parameters = inspect.signature(vars(each)["__init__"]).parameters
        names |= {name for name, one in parameters.items() if one.kind not in {one.VAR_KEYWORD, one.VAR_POSITIONAL}}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            break
    return names - {"self"}


def _needed(kind: type) -> set[str]:
    """The arguments of a class that have no default."""
    parameters = inspect.signature(kind).parameters.values()
    return {one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD}


def _names_of(opened: Any) -> list[str] | None:
    """The names of a set's classes, each once; None where it has none."""
    names = next(
        (v for n in ("classes", "categories") if isinstance(v := getattr(opened, n, None), list | tuple)), None
    )
    if names is None:
        return None
    texts = [each[0] if isinstance(each, tuple | list) else str(each) for each in names]
    if len({*texts}) < len(texts):  # ImageNet has two cranes
        texts = [", ".join(each) if isinstance(each, tuple | list) else str(each) for each in names]
    return texts


def _from_0(labels: NDArray[np.int64], names: list[str] | None) -> tuple[NDArray[np.int64], list[str]]:
    """Labels from 0, and a name for each; numbers where the names cannot be theirs."""
    if names is not None and names[0] == "N/A":  # EMNIST's letters count from 1
        labels, names = labels - 1, names[1:]
    high = int(labels.max())
    return labels, names if names is not None and len(names) > high else numbered(0, high)


def _as_numbers(labels: Any) -> NDArray[np.int64]:
    """Labels int64 (N,); QMNIST has further columns."""
    array = np.asarray(labels)
    return (array[:, 0] if array.ndim > 1 else array).astype(np.int64)


def _channels_first(images: Tensor) -> Tensor:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W)."""
    if images.ndim == 3:  # noqa: PLR2004
        return images.unsqueeze(1)
    return images if images.shape[1] in {1, 3} else images.permute(0, 3, 1, 2).contiguous()


def _fitted(images: Tensor, in_channels: int, size: tuple[int, int], resize: Resize) -> Tensor:
    """Images with another number of channels and another size, where these were asked for."""
    from torchvision.transforms.v2 import functional as transforms

    if images.shape[1] != in_channels:
        if in_channels not in {1, 3}:
            raise ConfigError(f"data.in_channels must be 1 (grey) or 3 (RGB) for torchvision's sets, got {in_channels}")
        to_grey = in_channels == 1
        images = transforms.rgb_to_grayscale(images) if to_grey else images.expand(-1, 3, -1, -1).contiguous()
    height, width = images.shape[2:]
    if resize != "stretch" and height * size[1] != width * size[0]:
        raise ConfigError(f"data.resize={resize} is for sets whose pictures lie in files; this one is held in memory")
    return images if (height, width) == size else transforms.resize(images, list(size), antialias=True)


def _read_kept(path: Path) -> Found | None:
    """What an earlier run found; None where nothing usable is kept."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    lists = isinstance(facts, dict) and facts.keys() == Found.__annotations__.keys() and isinstance(
        facts["class_names"], list
    )  # fmt: skip
    return facts if lists else None


def _keep(path: Path, facts: Found) -> None:
    """Write what was found, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        part.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        log.warning(
            "what was found in the data cannot be kept in %s (%s), so each run reads all of it once more",
            path, error.strerror,
        )  # fmt: skip


@contextmanager
def _impatient() -> Iterator[None]:
    """Let a connection that says nothing end after some seconds, which torchvision's own never does."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
