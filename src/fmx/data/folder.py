"""Images in folders, one folder per class: the layout for sets that do not fit in memory."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import blake2b, file_digest
from pathlib import Path
from unicodedata import normalize

import torch

from fmx.config.image_size import ImageSize, height_and_width, shortest_form
from fmx.data.class_folders import (
    class_folders,
    folders_of_systems,
    has_pictures,
    missing_folder,
    plain_spelling,
)
from fmx.data.passed_over import SUFFIXES, UNREAD, PassedOver
from fmx.data.picture import Resize
from fmx.data.picture_dataset import PictureDataset
from fmx.errors import DataError
from fmx.process.cores import num_cores

__all__ = ["SUFFIXES", "ImageFolder"]

log = logging.getLogger(__name__)
CHUNK = 256  # files that one thread hashes at a time


class ImageFolder(PictureDataset):
    """The images `folder/CLASS/*` as (uint8 (C, H, W), label), sorted by class and name, decoded on demand.

    Every image becomes grey (`in_channels` 1) or RGB (3) and is brought to `image_size`, bilinear with antialiasing:
    stretched; resized to fit, on the median colour of its edge (`resize` pad); or cropped to its largest centred part
    of that shape and resized (crop). EXIF orientation is applied, transparency becomes black, 16-bit grey keeps its
    upper 8 bits, and the first of several frames is used. Other files and nested folders are skipped with a warning,
    hidden ones silently. An image may have 64 million pixels, for which decoding takes 0.8 GB, and 32,768 on a side.
    may_lack_classes: whether there may be classes without images, as among validation images.

    Raises:
        DataError: when built, if a class is missing, empty or unknown, or a link leads outside `folder`;
            when asked for an image that cannot be decoded, with its name.
    """

    def __init__(
        self,
        *,
        folder: str,
        class_names: Sequence[str],
        image_size: ImageSize,
        in_channels: int,
        resize: Resize = "stretch",  # as did every run whose configuration lacks it
        may_lack_classes: bool = False,
    ) -> None:
        super().__init__(size=height_and_width(image_size), in_channels=in_channels, resize=resize)
        self.folder = Path(folder)
        self.class_names = list(class_names)
        self.files: list[str] = []  # relative to the folder
        labels: list[int] = []
        shape = (self.class_names, shortest_form(image_size), in_channels, *([] if resize == "stretch" else [resize]))
        self._shape = repr(shape).encode()
        earlier = blake2b(self._shape, digest_size=16)
        found = _check_classes(self.folder, self.class_names, may_lack_classes=may_lack_classes)
        passed = PassedOver()
        for label, name in enumerate(self.class_names):
            folders = passed.folders
            images = list(_images(self.folder, name, passed)) if name in found else []
            if not images and not may_lack_classes:
                nested = "; those in folders within are not read" if passed.folders > folders else ""
                raise DataError(
                    f"{self.folder / name} holds no images ({' '.join(SUFFIXES)}){nested}; "
                    "add some, or remove this class from the train and the test folder"
                )
            for file, num_bytes in images:
                earlier.update(f"{file}\0{num_bytes}\0".encode(errors="surrogateescape"))
                self.files.append(file)
                labels.append(label)
        _warn_of_skipped(self.folder, passed, found)
        self.labels = torch.tensor(labels, dtype=torch.int64)  # (N,)
        self._earlier_fingerprint = earlier.hexdigest()

    def file(self, index: int) -> tuple[Path, str]:
        """The path of an image, and its name in errors."""
        path = self.folder / self.files[index]
        return path, str(path)

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


def _check_classes(folder: Path, class_names: list[str], *, may_lack_classes: bool) -> set[str]:
    """The names of the class folders; DataError for unknown ones, and for missing ones unless these are allowed."""
    try:
        found = {*class_folders(folder)}
        loose = not found and has_pictures(folder)
    except OSError as error:
        raise missing_folder(folder, str(error.strerror)) from error
    if loose:
        raise DataError(
            f"{folder} holds pictures without class folders, so nothing can be scored on them: put them into one "
            "folder per class, or move them elsewhere and classify them with fmx predict"
        )
    _check_spelling(folder, class_names, found)
    for problem, names in [
        ("lacks a folder for", set() if may_lack_classes and found else set(class_names) - found),
        ("has folders that are no class of the train folder (data.class_names):", found - set(class_names)),
        ("has class folders with unprintable names:", {name for name in found if not name.isprintable()}),
    ]:
        if names:
            raise DataError(
                f"{folder} {problem} {', '.join(map(repr, sorted(names)))}; "
                "train and test need one folder for each class, with the same names"
            )
    return found


def _check_spelling(folder: Path, class_names: list[str], found: set[str]) -> None:
    """DataError where a name differs from a class in case, or in code points: `é` is one, or an `e` and an accent."""
    absent = {plain_spelling(name): name for name in class_names if name not in found}
    for name in sorted(found - {*class_names}):
        if (same := absent.get(plain_spelling(name))) is None:
            continue
        if normalize("NFC", name) == normalize("NFC", same):
            raise DataError(
                f"{folder} has the folder {name!r}, which looks like the class {same!r} but is written with other code "
                f"points ({name!a}, not {same!a}): a copy by way of another system may do that. Rename one"
            )
        raise DataError(f"{folder} has the folder {name!r}, but the class is {same!r} in the train folder. Rename one")


def _warn_of_skipped(folder: Path, passed: PassedOver, classes: Iterable[str]) -> None:
    """Warn of files and folders that are not used, unless they are hidden, and of classes that are likely the same."""
    for name in folders_of_systems(folder):
        log.warning("left out of %s: the folder %s, which an operating system made", folder, name)
    if beside := sum(not entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir()):
        log.warning("left out of %s: %d file%s beside the class folders", folder, beside, "" if beside == 1 else "s")
    alike: dict[str, str] = {}
    for name in sorted(classes):
        if (same := alike.setdefault(plain_spelling(name), name)) != name:
            log.warning("%s has the classes %r and %r, which differ in upper and lower case alone", folder, same, name)
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
