"""Pairs of equal or similar images of the parts of a data set, and the CSV file that lists them."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from fmx.data.arrays import ImageArrays
from fmx.data.near_duplicates import CHANGES, Pairs
from fmx.data.paired_test_images import TEST, TRAINING

__all__ = ["Duplicates", "PairedPart", "write_pairs"]

KINDS = {False: "near", True: "exact"}
HEADER = [
    *("first_part", "first_index", "first_label", "first_file", "second_part", "second_index", "second_label"),
    *("second_file", "kind", "correlation", "down", "right", "mirrored", "data_fingerprint"),
]


class PairedPart(NamedTuple):
    """A part of a data set: its name in tables, its images, and their files, or none for arrays."""

    name: str
    arrays: ImageArrays
    files: Sequence[str]


@dataclass(frozen=True)
class Duplicates:
    """The pairs within one part of a data set (first = second), or between two."""

    first: PairedPart
    second: PairedPart
    pairs: Pairs

    @property
    def name(self) -> str:
        """`within test`, `training and test`."""
        first, second = self.first.name, self.second.name
        return f"within {first}" if first == second else f"{first} and {second}"

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """The labels of the first and of the second image of each pair, int64 (P,)."""
        return self.first.arrays.labels[self.pairs.first], self.second.arrays.labels[self.pairs.second]

    def is_of_test(self) -> bool:
        """Whether the pairs are of a training and a test image."""
        return (self.first.name, self.second.name) == (TRAINING, TEST)


def write_pairs(path: Path, found: Sequence[Duplicates], class_names: Sequence[str], fingerprint: str) -> None:
    """Write all pairs, one per row, nearest first within two parts."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for each in found:
            writer.writerows([*row, fingerprint] for row in _rows(each, class_names))


def _rows(each: Duplicates, class_names: Sequence[str]) -> Iterator[list[object]]:
    pairs = each.pairs
    columns = [values.tolist() for values in (pairs.correlation, pairs.change, pairs.equal)]
    sides = ((each.first, pairs.first, each.labels[0]), (each.second, pairs.second, each.labels[1]))
    ends = [
        [
            (part.name, index, class_names[label], part.files[index] if part.files else "")
            for index, label in zip(indices.tolist(), labels.tolist(), strict=True)
        ]
        for part, indices, labels in sides
    ]
    for first, second, correlation, change, equal in zip(*ends, *columns, strict=True):
        down, right, mirrored = CHANGES[change]
        moved = (down, right, "yes" if mirrored else "no")
        yield [*first, *second, KINDS[equal], f"{correlation:.9f}", *moved]
