"""Tables of pixels in text files of any form: one image per row, one column per pixel."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fmx.config.image_size import ImageSize, height_and_width
from fmx.config.suggest import nearest
from fmx.data.below_root import data_file
from fmx.data.found import Found, numbered
from fmx.data.table_file import form_of, unpacked
from fmx.errors import ConfigError, DataError, first_line

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["describe", "load_pixel_table", "validation"]

log = logging.getLogger(__name__)
Part = Literal["train", "val", "test"]
LABELS = ("label", "labels", "class", "target", "digit", "category", "emotion", "y")
ROW_NUMBERS = ("", "unnamed: 0", "index", "idx", "id", "image_id", "imageid", "row")
SPLITS = ("split", "usage", "subset", "partition", "set")
PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "publictest"),
    "test": ("test", "testing", "privatetest"),
}
ROWS_AT_ONCE = 2048
EXAMPLE = "data=csv data.train_file=TRAIN.csv data.test_file=TEST.csv"
NUMBERED = re.compile(r"(\D*)(\d+)")


def load_pixel_table(
    *,
    root: str,
    train_file: str | None,
    test_file: str | None,
    part: Part,
    label: str | int | None,
    drop: Sequence[str | int],
    class_names: Sequence[str],
    in_channels: int,
    image_size: ImageSize,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Read a text file with a row per image: its label, and its pixels row by row, of RGB by pixel.

    train_file, test_file: relative to `root`, .gz or not. Separator, header, byte order mark and a column of row
    numbers are recognised; without test_file, a column `split` or `usage` tells the parts. label: the name of its
    column, or its position from 0 (-1: the last); null: by its name, or the first where there is no header. drop:
    columns to leave out.

    Returns:
        images (N, C, H, W), uint8 where all values are whole and in 0..255, and labels (N,): their position in
        class_names where they are texts.

    Raises:
        DataError: names the file, and the column or the line.
    """
    path, table = _open(root, train_file, test_file, part, label, drop)
    height, width = height_and_width(image_size)
    wanted = in_channels * height * width
    if table.num_pixels not in {None, wanted}:
        fits = [channels for channels in (1, 3) if channels * height * width == table.num_pixels]
        raise DataError(
            f"{path} has {table.num_pixels:,} columns of pixels, but data.in_channels={in_channels} and "
            f"data.image_size ask for {wanted:,}" + (f"; data.in_channels={fits[0]} fits" if fits else "")
        )
    pixels, labels = table.read(part)
    if pixels.shape[1] != wanted:
        raise DataError(f"{path} has {pixels.shape[1]:,} pixels per row, but data.image_size asks for {wanted:,}")
    table.say(path)
    images = pixels.reshape(len(pixels), height, width, in_channels).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), _numbers(path, labels, class_names)


def describe(
    *, root: str, train_file: str | None, test_file: str | None, label: str | int | None, drop: Sequence[str | int]
) -> Found:
    """Size from the number of columns, classes from the labels of the training part."""
    path, table = _open(root, train_file, test_file, "train", label, drop)
    labels = table.labels("train")
    if labels.dtype.kind == "O":
        names = sorted({*labels.tolist()})
    else:
        low, high = labels.min(), labels.max()
        if not (float(low).is_integer() and float(high).is_integer() and low >= 0):
            raise DataError(
                f"{path}: the labels in column {table.label_name!r} run from {low} to {high}; they are whole numbers "
                "from 0 or 1, or texts: data.label=NAME names their column"
            )
        names = numbered(low, high)
    if len(names) <= 1:
        raise DataError(
            f"{path}: the column {table.label_name!r} is taken for the labels, and holds {names[0]} alone; "
            "name theirs, data.label=NAME, or give its position, data.label=-1 for the last"
        )
    channels, side = _shape(path, table.first_pixels())
    return Found(class_names=names, in_channels=channels, image_size=side, mean=[0.5], std=[0.5])


def validation(
    *, root: str, train_file: str | None, test_file: str | None, label: str | int | None, drop: Sequence[str | int]
) -> dict[str, Any] | None:
    """The part `val`, where a column tells the parts and has it."""
    _, table = _open(root, train_file, test_file, "train", label, drop)
    return {"part": "val"} if table.has("val") else None


def _shape(path: Path, num_pixels: int) -> tuple[int, int | str]:
    """Channels and side of square images; one channel, and what to type, where they cannot be square."""
    for channels in (1, 3):
        side = isqrt(num_pixels // channels)
        if channels * side**2 == num_pixels:
            return channels, side
    return 1, (
        f"{path} has {num_pixels:,} pixels per row, which make no square: give their height and width, "
        "data.image_size=[H,W] (and data.in_channels=3 for RGB), or leave columns out, data.drop=[NAME]"
    )


def _open(  # noqa: PLR0917 - all are of the YAML
    root: str, train_file: str | None, test_file: str | None, part: Part, label: str | int | None,
    drop: Sequence[str | int],
) -> tuple[Path, "_Table"]:  # fmt: skip
    second = part == "test" and test_file is not None
    key, name = ("data.test_file", test_file) if second else ("data.train_file", train_file)
    path = data_file(root, name, key=key, example=EXAMPLE)
    if not path.is_file():  # a pipe would never end
        raise DataError(f"{path} cannot be read: it is no plain file")
    table = _Table(path, label, drop)
    if table.split is None and part == "test" and not second:
        raise ConfigError(f"{path} has no column `split`, so the test images' file is needed: data.test_file=FILE")
    table.parted = table.split is not None and test_file is None
    return path, table


class _Table:
    """One file, and what its columns are."""

    def __init__(self, path: Path, label: str | int | None, drop: Sequence[str | int]) -> None:
        self.path = path
        self.form = form_of(path)
        self.parted = False
        columns = self.form.columns
        dropped = {self._place(each, "data.drop") for each in drop}
        self.left_out = [columns[place] for place in sorted(dropped)]
        self.split = self._named(SPLITS, dropped)
        numbers = self._named(ROW_NUMBERS, dropped)
        self.label = self._label(label, dropped | ({numbers} if numbers is not None else set()))
        if numbers is not None and numbers != self.label:
            dropped.add(numbers)
            self.left_out.append(columns[numbers])
        pixels = [place for place in range(len(columns)) if place not in {*dropped, self.label, self.split}]
        self.pixels = self._in_order(pixels)
        self.texts = len(self.pixels) == 1  # one column of numbers between spaces
        self.num_pixels = None if self.texts else len(self.pixels)

    @property
    def label_name(self) -> str:
        """The name of the labels' column."""
        return self.form.columns[self.label]

    def say(self, path: Path) -> None:
        """Log what was recognised."""
        kind = "with" if self.form.header else "without"
        names = [repr(name) if name else "a column without a name" for name in self.left_out]
        left = f"; left out: {', '.join(names)}" if names else ""
        log.info("%s: a table %s a header, labels in column %r%s", path, kind, self.label_name, left)

    def _place(self, column: str | int, key: str) -> int:
        columns = self.form.columns
        if isinstance(column, int):
            if not -len(columns) <= column < len(columns):
                raise ConfigError(f"{key}={column}: {self.path} has {len(columns)} columns")
            return column % len(columns)
        if column not in columns:
            none = "" if self.form.header else " (it has no header: give a position from 0)"
            raise ConfigError(f"{key}: {self.path} has no column {column!r}{none}{nearest(column, columns)}")
        return columns.index(column)

    def _named(self, names: Sequence[str], without: set[int]) -> int | None:
        if not self.form.header:
            return None
        places = (place for place, name in enumerate(self.form.columns) if name.lower() in names)
        return next((place for place in places if place not in without), None)

    def _label(self, given: str | int | None, without: set[int]) -> int:
        if given is not None:
            return self._place(given, "data.label")
        if not self.form.header:
            return next(place for place in range(len(self.form.columns)) if place not in without)
        if (named := self._named(LABELS, set())) is None:
            some = ", ".join(self.form.columns[:3])
            raise DataError(
                f"{self.path}: no column is named as labels are ({', '.join(LABELS)}); it begins with {some}: "
                "name theirs, data.label=NAME, or give its position, data.label=-1 for the last"
            )
        return named

    def _in_order(self, places: list[int]) -> list[int]:
        """The columns of pixels by their numbers, where their names are one word and a number each."""
        matches = [NUMBERED.fullmatch(self.form.columns[place]) for place in places]
        if not self.form.header or not all(matches) or len({match[1] for match in matches if match}) > 1:
            return places
        return [
            place
            for _, place in sorted(
                (int(match[2]), place) for match, place in zip(matches, places, strict=True) if match
            )
        ]

    def labels(self, part: Part) -> NDArray[Any]:
        """The labels of a part as they are written."""
        wanted = [self.label, *([self.split] if self.parted and self.split is not None else [])]
        parts = [self._of_part(frame, part).iloc[:, self._at(wanted, self.label)] for frame in self._frames(wanted)]
        return _joined(self.path, parts, "labels")

    def has(self, part: Part) -> bool:
        """Whether a column tells the parts, and some rows are of this one."""
        if not self.parted or self.split is None:
            return False
        return any(len(self._of_part(frame, part)) for frame in self._frames([self.split]))

    def first_pixels(self) -> int:
        """The number of pixels of a row, by the first rows; DataError where these hold anything else."""
        frame = next(self._frames(self.pixels))
        return int(self._numbers(frame, 1 + self.form.header).shape[1])

    def read(self, part: Part) -> tuple[NDArray[Any], NDArray[Any]]:
        """Pixels (N, P), uint8 where they fit, and labels (N,) of a part."""
        wanted = [*self.pixels, self.label, *([self.split] if self.parted and self.split is not None else [])]
        pixels, labels, line = [], [], 1 + self.form.header
        for frame in self._frames(wanted):
            kept = self._of_part(frame, part)
            labels.append(kept.iloc[:, self._at(wanted, self.label)])
            pixels.append(self._numbers(kept, line))
            line += len(frame)
        arrays = [each for each in pixels if len(each)]
        if not arrays:
            raise DataError(f"{self.path} has no rows of the {part} part")
        widths = {each.shape[1] for each in arrays}
        if len(widths) > 1:
            raise DataError(
                f"{self.path}: rows of {' and '.join(map(str, sorted(widths)))} pixels; all need the same number"
            )
        return np.concatenate(arrays), _joined(self.path, labels, "labels")

    def _of_part(self, frame: "pd.DataFrame", part: Part) -> "pd.DataFrame":
        """The rows of a part."""
        if not self.parted:
            return frame
        words = frame.iloc[:, -1].astype(str).str.lower().str.strip()
        return frame[words.isin(PARTS[part])]

    @staticmethod
    def _at(wanted: Sequence[int], place: int) -> int:
        return list(wanted).index(place)

    def _numbers(self, frame: "pd.DataFrame", line: int) -> NDArray[Any]:
        if self.texts:
            try:
                rows = [np.array(str(text).split(), dtype=np.float64) for text in frame.iloc[:, 0]]
                values = np.stack(rows) if rows else np.empty((0, 0))
            except ValueError as error:
                raise DataError(f"{self.path}, below line {line}: {first_line(error)}") from error
        else:
            values = frame.iloc[:, : len(self.pixels)].to_numpy()
            if values.dtype.kind not in "iuf" or np.isnan(values).any():
                self._refuse(frame, line)
        fits = values.size == 0 or (values.min() >= 0 and values.max() <= 255 and not (values != np.rint(values)).any())  # noqa: PLR2004
        whole = fits and (values.dtype.kind in "iu" or self.texts)
        return values.astype(np.uint8) if whole else values

    def _refuse(self, frame: "pd.DataFrame", line: int) -> None:
        """DataError for the first cell that is no number."""
        import pandas as pd

        for position, place in enumerate(self.pixels):
            column = frame.iloc[:, position]
            wrong = pd.to_numeric(column, errors="coerce").isna()
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                cell = str(column.iloc[row])[:40]
                said = "is missing" if cell == "nan" else f"is {cell!r}, which is no number"
                raise DataError(
                    f"{self.path}, line {line + row}: the pixel in column {self.form.columns[place]!r} {said}; "
                    "data.drop=[NAME] leaves a column out, data.label=NAME names the one of the labels"
                )
        raise DataError(f"{self.path}: its pixels are no numbers")

    def _frames(self, wanted: Sequence[int]) -> Iterator["pd.DataFrame"]:
        """The wanted columns in the order asked for, some rows at a time."""
        import pandas as pd

        order = sorted(wanted)
        try:
            with (
                unpacked(self.path) as stream,
                pd.read_csv(
                    stream,
                    sep=self.form.separator if self.form.separator != " " else r"\s+",
                    header=0 if self.form.header else None,
                    encoding=self.form.encoding,
                    usecols=order,
                    index_col=False,
                    skipinitialspace=True,
                    chunksize=ROWS_AT_ONCE,
                ) as chunks,
            ):
                for chunk in chunks:
                    yield chunk.iloc[:, [order.index(place) for place in wanted]]
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, OSError, EOFError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read as a table: {first_line(error)}") from error


def _joined(path: Path, parts: Sequence["pd.Series[Any]"], what: str) -> NDArray[Any]:
    import pandas as pd

    column = pd.concat(list(parts), ignore_index=True) if parts else pd.Series([], dtype=float)
    if not len(column):
        raise DataError(f"{path} has no rows")
    if column.isna().any():
        raise DataError(f"{path}: row {int(np.flatnonzero(column.isna())[0]) + 1:,} has no {what}")
    array = column.to_numpy()
    return array if array.dtype.kind in "iuf" else np.array([str(each).strip() for each in array], dtype=object)


def _numbers(path: Path, labels: NDArray[Any], class_names: Sequence[str]) -> NDArray[np.int64]:
    """Labels as numbers; texts become their position in class_names."""
    if labels.dtype.kind != "O":
        return labels
    places = {name: number for number, name in enumerate(class_names)}
    if strange := sorted({*labels.tolist()} - places.keys()):
        raise DataError(
            f"{path}: the label {strange[0]!r} is no class of the training set (data.class_names)"
            f"{nearest(strange[0], class_names)}"
        )
    log.info("%s: labels are texts: their sorted order gives their numbers, 0 for %s", path, class_names[0])
    return np.array([places[text] for text in labels], dtype=np.int64)
