"""Images as rows of a CSV file, in the layout of Kaggle's copy of Fashion-MNIST."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from io import BufferedReader
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fmx.config.image_size import ImageSize, height_and_width
from fmx.data.arrays import ImageArrays
from fmx.data.download import missing_file_error
from fmx.errors import DataError

__all__ = ["load_csv"]

ROWS_PER_BLOCK = 32  # fits the processor's cache
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
MAX_DIGITS = 3
MAX_PIXEL = 255
MANY_PIXELS = 10**6  # from which on the column names take much memory


def load_csv(*, file: str, image_size: ImageSize, num_classes: int, instead: Sequence[str]) -> ImageArrays:
    """Read a CSV file with the columns `label, pixel1 .. pixelN`: pixels 0 to 255 in row-major order.

    The columns may come in any order. `instead` lists what to suggest when the file is missing. Memory stays at about
    the size of the arrays: of each line, at most 16 bytes per column are read.

    Returns:
        images uint8 (N, 1, H, W), labels int64 (N,) below num_classes, in file order.

    Raises:
        DataError: names the file, the line (the header is line 1) and the column.
    """
    height, width = height_and_width(image_size)
    path = Path(file)
    if path.exists() and not path.is_file():  # a pipe would never end
        raise DataError(f"{path} cannot be read: it is no plain file")
    try:
        with path.open("rb") as stream:
            labels, pixels = _read(path, stream, num_pixels=height * width, num_classes=num_classes)
    except FileNotFoundError:
        raise missing_file_error(path, reason="", instead=instead) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return ImageArrays(
        images=torch.frombuffer(pixels, dtype=torch.uint8).view(-1, 1, height, width),
        labels=torch.frombuffer(labels, dtype=torch.int64),
    )


def _read(path: Path, stream: BufferedReader, *, num_pixels: int, num_classes: int) -> tuple[bytearray, bytearray]:
    if num_pixels > MANY_PIXELS and path.stat().st_size < 2 * num_pixels:  # a column takes at least two characters
        raise DataError(f"{path} is too small to have {num_pixels:,} columns, as many as data.image_size asks for")
    names = ["label", *(f"pixel{number}" for number in range(1, num_pixels + 1))]
    max_line_bytes = 16 * len(names)  # bounds the memory for a line that never ends
    columns = _read_header(path, stream.readline(max_line_bytes), names)
    places = {name: place for place, name in enumerate(columns)}
    order = np.array([places[name] for name in names])
    labels, pixels, line = bytearray(), bytearray(), 2
    while block := list(islice(iter(partial(stream.readline, max_line_bytes), b""), ROWS_PER_BLOCK)):
        rows = _parse_digits(b"".join(block), len(names))
        if rows is None or rows.max() > MAX_PIXEL or rows[:, order[0]].max() >= num_classes:
            rows = _parse_fields(path, block, line, columns, num_classes)
        labels += rows[:, order[0]].astype(np.int64).tobytes()
        pixels += rows[:, order[1:]].astype(np.uint8).tobytes()
        line += len(block)
    if not labels:
        raise DataError(f"{path} has no rows below its header")
    return labels, pixels


def _read_header(path: Path, line: bytes, names: list[str]) -> list[str]:
    text = line.decode("utf-8-sig", errors="replace").strip()
    wanted = f"label,pixel1..pixel{len(names) - 1}"
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line:
        raise DataError(f"{path} is text in UTF-16, as some programs save it: save it as UTF-8")
    if "," not in text and (other := next((mark for mark in SEPARATORS if mark in text), None)):
        raise DataError(f"{path}, line 1: its columns are separated by {SEPARATORS[other]}: save it with commas")
    if all(field.strip(' "').isdigit() for field in text.split(",")):
        raise DataError(f"{path}, line 1 holds numbers where the header must be: put a line {wanted} in front of it")
    columns = [field.strip(' "') for field in text.split(",")]
    counts, known = Counter(columns), set(names)
    for problem, found in [
        ("lacks the column", [name for name in names if name not in counts]),
        ("has the unknown column", [name for name in columns if name not in known]),
        ("repeats the column", [name for name in names if counts[name] > 1]),
    ]:
        if found:
            more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
            raise DataError(f"{path}, line 1: the header {problem} {found[0][:40]!r}{more}; it must name {wanted}")
    return columns


def _parse_digits(block: bytes, num_columns: int) -> NDArray[np.integer] | None:
    """Parse rows of numbers of up to three digits, all at once: (rows, columns), None for anything else."""
    text = np.frombuffer(block.replace(b"\r\n", b"\n"), np.uint8)
    is_digit = text - ord("0") < 10  # noqa: PLR2004 - characters below "0" wrap around
    ends = np.flatnonzero(~is_digit)
    if len(ends) == 0 or len(ends) % num_columns or ends[-1] != len(text) - 1:
        return None
    separators = text[ends].reshape(-1, num_columns)
    if (separators[:, :-1] != ord(",")).any() or (separators[:, -1] != ord("\n")).any():
        return None
    widths = np.diff(ends, prepend=-1) - 1
    if widths.min() < 1 or widths.max() > MAX_DIGITS:
        return None
    # The number that would end at each byte: dense sums are cheaper than a gather for each digit.
    digits = (text - ord("0")) * is_digit.astype(np.uint16)
    values = digits.copy()
    values[1:] += 10 * digits[:-1]
    values[2:] += 100 * digits[:-2] * is_digit[1:-1]
    return values[ends - 1].reshape(-1, num_columns)


def _parse_fields(
    path: Path, block: list[bytes], first_line: int, columns: list[str], num_classes: int
) -> NDArray[np.integer]:
    """Parse rows field by field; quotes, spaces and empty lines are accepted, DataError names anything else."""
    limits = [num_classes - 1 if name == "label" else MAX_PIXEL for name in columns]
    rows = []
    for line, text in enumerate(block, first_line):
        fields = [field.strip(' "\r\n') for field in text.decode("utf-8", errors="replace").split(",")]
        if fields == [""]:
            continue
        if len(fields) != len(columns):
            raise DataError(f"{path}, line {line}: {len(fields):,} fields, but {len(columns):,} columns")
        for column, field, limit in zip(columns, fields, limits, strict=True):
            where = f"{path}, line {line}, column {column}"
            if not (field.isascii() and field.isdigit()):
                raise DataError(f"{where}: {field[:40]!r} is not a whole number from 0 to {limit}")
            if float(field) > limit:
                from_1 = column == "label" and float(field) == limit + 1
                hint = "; labels begin at 0: where these begin at 1, subtract 1 from each" if from_1 else ""
                raise DataError(f"{where}: {field[:20]} is outside 0..{limit}{hint}")
        rows.append([float(field) for field in fields])  # int() would refuse thousands of leading zeros
    return np.array(rows, dtype=np.int64).reshape(-1, len(columns))
