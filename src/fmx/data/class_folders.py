"""The folders of an image folder: which of them name classes, and what to type where one is not in its place."""

import os
from pathlib import Path
from unicodedata import normalize

from fmx.config.printed_command import printed_command
from fmx.config.quoting import override
from fmx.data.passed_over import SUFFIXES
from fmx.errors import DataError

__all__ = ["class_folders", "folders_of_systems", "has_pictures", "missing_folder", "plain_spelling"]

# Made by macOS in archives, by Synology, by Windows and by file systems.
OF_SYSTEMS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
OTHER_NAMES = {  # of the parts, in lower case
    "train": {"train", "training", "train_set", "trainset", "train_images"},
    "test": {"test", "testing", "tests", "test_set", "testset", "test_images"},
}
VALIDATION = ("val", "valid", "validation")
MANY = 3  # folders that a message names


def class_folders(folder: str | Path) -> list[str]:
    """The sorted names of the folders in `folder`, but for hidden ones and those that operating systems make.

    OSError: the folder cannot be read.
    """
    return sorted(name for name in _folders(folder) if name not in OF_SYSTEMS)


def folders_of_systems(folder: Path) -> list[str]:
    """The sorted names of the folders in `folder` that operating systems made."""
    return sorted(name for name in _folders(folder) if name in OF_SYSTEMS)


def has_pictures(folder: Path) -> bool:
    """Whether a file in `folder` itself has the suffix of a picture."""
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") for entry in entries)


def missing_folder(folder: str | Path, reason: str) -> DataError:
    """The error for a folder of training or test images that cannot be read, with what would be right for its place."""
    folder = Path(folder)
    return DataError(f"no image folder at {folder} ({reason}): {_remedy(folder.parent, folder.name)}")


def plain_spelling(name: str) -> str:
    """A name without what copies between systems change: upper and lower case, and the Unicode normal form."""
    return normalize("NFC", name).casefold()


def _remedy(root: Path, part: str) -> str:
    usual = f"data=image_folder expects one folder per class in {root / 'train'} and in {root / 'test'}"
    try:
        within = class_folders(root)
    except OSError:
        return f"{usual}; name their parent with data.root=DIR"
    for name in within:
        if name.lower() in OTHER_NAMES.get(part, ()):
            return f"rename {root / name} to {part}"
        if (root / name / part).is_dir():
            return f"there is {root / name / part}, so type {printed_command(override('data.root', root / name))}"
    if part == "test":
        return _without_test(root, within)
    with_pictures = [name for name in within if has_pictures(root / name)]
    if not with_pictures:
        return f"{usual}; name their parent with data.root=DIR"
    named = ", ".join(map(repr, with_pictures[:MANY])) + (" …" if len(with_pictures) > MANY else "")
    return (
        f"the folders of pictures in {root} ({named}) belong into train and test, a part of the pictures of each class "
        f"into either. The lines for that are in docs/own_images.md, Without a test set"
    )


def _without_test(root: Path, within: list[str]) -> str:
    if found := [name for name in VALIDATION if name in within]:
        change = printed_command(override("data.test.folder", root / found[0]), "data.val=null")
        return f"to score the images of {root / found[0]} as the test set, type {change}, or rename the folder to test"
    return (
        "move a part of the pictures of each class of train there, which training then never sees. The lines for that "
        "are in docs/own_images.md, Without a test set"
    )


def _folders(folder: str | Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
