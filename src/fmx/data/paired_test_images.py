"""The test images that a list of pairs of images pairs with training images, read without torch."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from fmx.config.bounded_files import read_bytes
from fmx.errors import DataError

__all__ = ["TEST", "TRAINING", "PairedTestImages", "read_paired_test_images"]

TRAINING, TEST = "training", "test"  # names of parts
NEEDED = ("first_part", "first_index", "second_part", "second_index", "data_fingerprint")
MAX_BYTES = 2**28
MAX_DIGITS = 9


@dataclass(frozen=True)
class PairedTestImages:
    """The test images that have an equal or similar one among the training images.

    fingerprint: of the data set. indices: positions in the official test set, each once.
    """

    file: str
    fingerprint: str
    indices: frozenset[int]


def read_paired_test_images(path: Path) -> PairedTestImages:
    """Read which test images have a pair among the training images; DataError where it is no such file.

    Bounds: 256 MiB, indices of at most nine digits, one data set.
    """
    try:
        rows = csv.DictReader(io.StringIO(read_bytes(path, at_most=MAX_BYTES).decode("utf-8")), strict=True)
        if missing := [name for name in NEEDED if name not in (rows.fieldnames or [])]:
            raise DataError(f"{path} is no list of pairs of images: it has no column {missing[0]}")
        indices, fingerprints = set(), set()
        for row in rows:
            fingerprints.add(row["data_fingerprint"])
            ends = {row["first_part"]: row["first_index"], row["second_part"]: row["second_index"]}
            if {*ends} == {TRAINING, TEST}:
                indices.add(_index(ends[TEST], path, rows.line_num))
            if len(fingerprints) > 1:
                raise DataError(f"{path}, line {rows.line_num}: pairs of another data set than in the lines before")
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of pairs of images: {str(error)[:200]}") from error
    if not fingerprints:
        raise DataError(f"{path} lists no pairs, so there is nothing to leave out")
    return PairedTestImages(str(path), str(fingerprints.pop()), frozenset(indices))


def _index(text: str | None, path: Path, line: int) -> int:
    if text is None or not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise DataError(f"{path}, line {line}: {str(text)[:40]!r} is no index of an image")
    return int(text)
