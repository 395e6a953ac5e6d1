"""A table in a text file, packed or not: how it is written, by its first line."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from fmx.errors import DataError, first_line

__all__ = ["Form", "form_of", "unpacked"]

SEPARATORS = (",", ";", "\t", "|", " ")
MAX_LINE = 2**24  # bytes of the first line
MAX_RATIO, FREE_BYTES = 64, 2**26  # of a .gz: digits shrink to about a tenth


class Form(NamedTuple):
    """How a file is written."""

    separator: str
    encoding: str
    header: bool
    columns: list[str]  # names, or positions as texts where there is no header


def form_of(path: Path) -> Form:
    """Separator, encoding and columns by the first line."""
    try:
        with unpacked(path) as stream:
            start = stream.readline(MAX_LINE)
            if start.startswith((b"\xff\xfe", b"\xfe\xff")):
                stream.seek(0)
                start = stream.read(MAX_LINE)
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    if len(start) == MAX_LINE and encoding != "utf-16":
        raise DataError(f"{path}: its first line is longer than {MAX_LINE:,} bytes, so it is no table of pixels")
    if encoding == "utf-16":
        start = start[: len(start) // 2 * 2]
    line = start.decode(encoding, errors="replace").splitlines()[0] if start.strip() else ""
    if not line.strip():
        raise DataError(f"{path} has no first line, so it is no table of pixels")
    separator = max(SEPARATORS, key=lambda mark: (line.strip(" ").count(mark), -SEPARATORS.index(mark)))
    fields = line.split() if separator == " " else line.split(separator)
    columns = [field.strip().strip("\"'").strip() for field in fields]
    if len(columns) == 1:
        raise DataError(f"{path} has one column alone; a table of pixels has a label and pixels, separated by commas")
    header = not all(_is_number(field) for field in columns)
    return Form(separator, encoding, header, columns if header else [str(place) for place in range(len(columns))])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where it is a .gz."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            yield file
            return
        file.seek(0)
        at_most = max(FREE_BYTES, path.stat().st_size * MAX_RATIO)
        with gzip.GzipFile(fileobj=file) as stream:
            yield io.BufferedReader(_AtMost(stream, at_most))


class _AtMost(io.RawIOBase):
    """A stream that may give so many bytes, and no more."""

    def __init__(self, stream: gzip.GzipFile, at_most: int) -> None:
        self.stream = stream
        self.left = at_most

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes, from its start."""
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to another place."""
        return self.stream.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer."""
        count = self.stream.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise OSError(f"it unpacks to more than {MAX_RATIO} times its size")
        return count
