"""Files of a folder that are not read, counted so that nothing is left out silently."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePath

__all__ = ["SUFFIXES", "UNREAD", "PassedOver"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Formats of phones, cameras and drawing programs.
OTHER_PICTURES = (
    *(".avif", ".heic", ".heics", ".heif", ".hif", ".jfif", ".jp2", ".jpe", ".jxl", ".jxr", ".pbm", ".pnm", ".tga"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2", ".eps", ".ico", ".psd", ".svg", ".xcf", ".apng"),
)
UNREAD = f"pictures of kinds that are not read; save them as one of {' '.join(SUFFIXES)}"


@dataclass
class PassedOver:
    """Counts the files of a folder that are not read.

    unread: pictures in other formats, by suffix. other_files: files that are no pictures, by suffix.
    """

    hidden: int = 0
    folders: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    other_files: Counter[str] = field(default_factory=Counter)

    def takes(self, name: str) -> bool:
        """Whether a file has the name of a picture that is read; counts the file if not."""
        suffix = PurePath(name.lower()).suffix
        if name.startswith("."):
            self.hidden += 1
        elif suffix in SUFFIXES:
            return True
        elif suffix in OTHER_PICTURES:
            self.unread[suffix] += 1
        else:
            self.other_files[suffix] += 1
        return False

    @property
    def unread_kinds(self) -> str:
        """The pictures that are not read, as `2 .heic, 1 .avif`."""
        return _counted(self.unread)

    @property
    def others(self) -> str:
        """The other, hidden and nested files, in words; empty where there are none."""
        parts = []
        if self.other_files:
            number = self.other_files.total()
            parts.append(f"{number} {'file that is' if number == 1 else 'files that are'} no picture by {_its(number)} "
                         f"name ({_counted(self.other_files)})")  # fmt: skip
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        if self.folders:
            parts.append(f"{self.folders} folder{'' if self.folders == 1 else 's'} within")
        return ", ".join(parts)


def _its(number: int) -> str:
    return "its" if number == 1 else "their"


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in kinds.most_common())
