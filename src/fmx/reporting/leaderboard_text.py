"""A leaderboard as text: the cells of all tables; CSV for scripts, Markdown, LaTeX.

Tables for people come one per data set, with the accuracies first, so that a narrow window still shows them.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import NamedTuple

from fmx.reporting.intervals import Spread
from fmx.reporting.leaderboard import Leaderboard, Row
from fmx.reporting.outcomes import ENOUGH_SEEDS, Unfinished, environment_differences

__all__ = [
    "ACCURACIES",
    "MIXED",
    "Cell",
    "cells",
    "has_duplicates",
    "headings",
    "is_calibrated",
    "is_word",
    "notes",
    "to_csv",
    "to_latex",
    "to_markdown",
    "unfinished_table",
]

ACCURACIES = ["val accuracy %", "95 % interval", "test accuracy %", "95 % interval", "n"]
REST = ["macro-F1 %", "params", "train s"]
CALIBRATION = ["ECE %", "ECE % calibrated"]
WITHOUT_DUPLICATES = ["without duplicates %", "95 % interval"]
MIXED = "mixed"
MAX_LISTED = 20  # missing folds
ON_TEST, ONE_MODEL, NOTHING = "†", "ʷ", "–"
ON_CALIBRATION = (
    "ECE: the expected calibration error of the test set in 15 bins, as trained and with the temperature that was "
    f"fitted on validation images (fmx evaluate --calibration); {NOTHING} where not all seeds have one."
)


class Cell(NamedTuple):
    """The text of a cell, and the number to sort by, if there is one."""

    text: str
    value: float | int | None = None


def headings(board: Leaderboard) -> list[str]:
    """The column headings of every table for people."""
    rest = [
        *(WITHOUT_DUPLICATES if has_duplicates(board) else []),
        *REST,
        *(CALIBRATION if is_calibrated(board) else []),
    ]
    return ["", *ACCURACIES, *(column.name for column in board.columns), *rest, *([MIXED] if _is_mixed(board) else [])]


def is_word(board: Leaderboard, position: int) -> bool:
    """Whether a column of `headings` holds words, which are left-aligned, rather than numbers."""
    first = 1 + len(ACCURACIES)
    return first <= position < first + len(board.columns) or headings(board)[position] == MIXED


def cells(board: Leaderboard) -> list[list[Cell]]:
    """The rows of every table for people, with one cell for each of `headings`."""
    mixed, calibrated, duplicates = _is_mixed(board), is_calibrated(board), has_duplicates(board)
    return [
        [
            *_accuracies(row),
            *(Cell(text, _number(text)) for text in row.settings.values()),
            *(_mean_and_interval(row.test_accuracy_without_duplicates, row) if duplicates else []),
            *_rest(row),
            *([_mean(row.test_ece, 100, 2), _mean(row.calibrated_test_ece, 100, 2)] if calibrated else []),
            *([Cell(", ".join(row.mixed))] if mixed else []),
        ]
        for row in board.rows
    ]


def is_calibrated(board: Leaderboard) -> bool:
    """Whether a table has columns of calibration: whether it was measured of every run of a row."""
    return any(row.test_ece for row in board.rows)


def has_duplicates(board: Leaderboard) -> bool:
    """Whether a table has columns of the test accuracy without duplicates."""
    return board.duplicates is not None


def _is_mixed(board: Leaderboard) -> bool:
    return any(row.mixed for row in board.rows)


def notes(board: Leaderboard) -> list[str]:
    """Sentences on what the numbers are, how they are ranked, and which of them cannot be compared."""
    lines = ["Best first by mean validation accuracy. Test accuracy is reported and ranks nothing."]
    if any(len(row.folds) <= 1 for row in board.rows):
        lines.append(
            "Accuracies and macro-F1 are means ± standard deviations (n − 1) over the n seeds of a configuration."
        )
    several = [row for row in board.rows if len(row.runs) > 1]
    lines += _fold_notes(board)
    if any(len(row.folds) < 2 for row in several):  # noqa: PLR2004 - seeds of one split
        lines.append(
            "95 % interval: of the mean for other seeds and other images of the kind, within 0 and 100 %: Wilson's, "
            "with Student's t and the variance over seeds plus the binomial one of the images."
        )
    if any(spread and not spread.interval for row in several for spread in (row.val_accuracy, row.test_accuracy)):
        lines.append(
            f"{NOTHING} in its place: undefined, since the seeds do not vary and the number of images is unknown."
        )
    if few := sorted({_repeated(row) for row in several if _num_repeated(row) < ENOUGH_SEEDS}, reverse=True):
        lines.append(f"With fewer than {ENOUGH_SEEDS} {' or '.join(few)}, deviation and interval are rough.")
    if any(row.test_accuracy.method == "wilson" for row in board.rows):
        lines.append(
            f"{ONE_MODEL} A single seed: Wilson's interval of this one model on the test images, not of seeds."
        )
    if any(row.on_test for row in board.rows):
        lines.append(f"{ON_TEST} Validated on the test set, which flatters both accuracies: ranked after the others.")
    if any(not row.val_accuracy for row in board.rows):
        lines.append("Configurations without a validation accuracy have no rank and come last.")
    if len(board.data) > 1:
        lines.append("Each data set has a ranking of its own.")
    lines += _column_notes(board)
    lines += _environment_notes(board)
    if board.unfinished:
        counts = Counter(other.status for other in board.unfinished)
        lines.append(f"Not in the table: {', '.join(f'{count} {status}' for status, count in sorted(counts.items()))}.")
    return lines


def _column_notes(board: Leaderboard) -> list[str]:
    """Sentences on the columns that not every board has."""
    lines = [ON_CALIBRATION] if is_calibrated(board) else []
    if board.duplicates is not None:
        lines.append(
            f"Without duplicates: test accuracy without the {len(board.duplicates.indices):,} test images that "
            f"{board.duplicates.file} pairs with training images; {NOTHING} for other data, or without predictions.npz."
        )
    return lines


def _fold_notes(board: Leaderboard) -> list[str]:
    """Sentences on rows of folds."""
    lines = []
    if any(len(row.folds) > 1 for row in board.rows):
        lines.append(
            "Folds: each fold of the training images was held out in turn, and chose its run's checkpoint. Means ± "
            "standard deviations (n − 1) are over the folds; of several seeds a fold counts with their mean."
        )
        lines.append(
            "95 % interval of folds: Student's t with a variance of the mean of s² (1/n + 1/(folds − 1)), since folds "
            "share training images (Nadeau and Bengio 2003); for test accuracy, plus the binomial one of the images. "
            "It is approximate: no exact one is known."
        )
    for row in board.rows:
        if missing := row.missing_folds:
            those = f"{row.label}: " if len(board.rows) > 1 else ""
            lines.append(
                f"{those}{row.count}, without fold{'s' * (len(missing) > 1)} {_listed(missing)}: the mean is of the "
                "images of the other folds alone."
            )
    return lines


def _cautions(row: Row) -> Iterator[str]:
    if _num_repeated(row) < ENOUGH_SEEDS:
        yield f"fewer than {ENOUGH_SEEDS} {_repeated(row)}"
    if missing := row.missing_folds:
        yield f"without fold{'s' * (len(missing) > 1)} {_listed(missing)} of {row.runs[0].settings.folds}"


def _listed(folds: Sequence[int]) -> str:
    return ", ".join(map(str, folds[:MAX_LISTED])) + (", …" if len(folds) > MAX_LISTED else "")


def _repeated(row: Row) -> str:
    """What a row's mean is over."""
    return "folds" if len(row.folds) > 1 else "seeds"


def _num_repeated(row: Row) -> int:
    return len(row.test_accuracy.values)


def _environment_notes(board: Leaderboard) -> list[str]:
    """Sentences on differences other than settings, seeds and data, within rows and between them."""
    lines = []
    if _is_mixed(board):
        lines.append(
            f"{MIXED}: the runs of the row are not all of the same commit, version, device …, as named: their mean may "
            "mix different things, and uncommitted changes are not recorded. --csv has the values."
        )
    for group in board.by_data:
        within = {name for row in group.rows for name in row.mixed}
        between = [
            name
            for name in environment_differences([run for row in group.rows for run in row.runs])
            if name not in within
        ]
        if between and len(group.rows) > 1:
            where = f" of {group.data[0]}" if len(board.data) > 1 else ""
            lines.append(f"The rows{where} differ in {', '.join(between)} as well, which may explain their results.")
    return lines


def unfinished_table(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the runs that are not in the leaderboard."""
    heads = ["run", "status", *(column.name for column in board.columns), "seed", "error"]
    return heads, [
        [other.name, other.status, *_settings_of(other, board), other.replicate, other.error]
        for other in board.unfinished
    ]


def to_csv(board: Leaderboard) -> str:
    """One line per configuration with full precision, accuracies in 0..1, and one per run without metrics."""
    keys = [column.key for column in board.columns]
    spreads = ["val_accuracy", "test_accuracy", "test_macro_f1"]
    if is_calibrated(board):
        spreads += ["test_ece", "calibrated_test_ece"]
    if has_duplicates(board):
        spreads.append("test_accuracy_without_duplicates")
    metrics = [f"{name}_{part}" for name in spreads for part in ("mean", "std", "low", "high")]
    tail = [
        "test_accuracy_interval",
        "params",
        "train_seconds_mean",
        "train_seconds_std",
        "validated_on_test",
        "mixed",
        "caution",
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", *keys, "n", "seeds", "folds", *metrics, *tail, "runs", "status", "error"])
    for row in board.rows:
        numbers = [number for name in spreads for number in _numbers(getattr(row, name))]
        seconds = _numbers(row.train_seconds)[:2]
        writer.writerow([
            row.rank, *row.settings.values(), len(row.runs), ";".join(run.seed for run in row.runs),
            ";".join(str(run.settings.fold) for run in row.runs if row.folds), *numbers,
            row.test_accuracy.method, row.params, *seconds, "yes" if row.on_test else "no",
            "; ".join(f"{name}={'|'.join(values)}" for name, values in row.mixed.items()),
            "; ".join(_cautions(row)),
            ";".join(run.name for run in row.runs), "completed", "",
        ])  # fmt: skip
    blank = [""] * (len(metrics) + len(tail))
    for other in board.unfinished:
        fold = "" if other.settings is None else other.settings.fold
        writer.writerow(
            ["", *_settings_of(other, board), 0, other.seed, fold, *blank, other.name, other.status, other.error]
        )
    return text.getvalue()


def to_markdown(board: Leaderboard) -> str:
    """A table for each data set, notes, and a table of the runs without metrics."""
    parts = []
    for name, group in zip(board.data, board.by_data, strict=True):
        if len(board.data) > 1:
            parts.append(f"## {_markdown(name)}")
        rows = [[cell.text for cell in row] for row in cells(group)]
        heads = headings(group)
        parts.append(_markdown_table(heads, rows, left=[at for at in range(len(heads)) if is_word(group, at)]))
    parts.append("\n".join(f"- {_markdown(note)}" for note in notes(board)))
    if board.unfinished:
        heads, others = unfinished_table(board)
        parts.append(_markdown_table(heads, others, left=range(len(heads))))
    return "\n\n".join(parts) + "\n"


def to_latex(board: Leaderboard) -> str:
    r"""A booktabs tabular for each data set with notes below; it needs \usepackage{booktabs} alone."""
    lines = ["% needs \\usepackage{booktabs}"]
    for name, group in zip(board.data, board.by_data, strict=True):
        heads = headings(group)
        if len(board.data) > 1:
            lines.append(f"\\par\\medskip\\textbf{{{_latex(name)}}}\\par\\smallskip")
        lines += [
            f"\\begin{{tabular}}{{{''.join('l' if is_word(group, at) else 'r' for at in range(len(heads)))}}}",
            "\\toprule",
            " & ".join(map(_latex, heads)) + " \\\\",
            "\\midrule",
            *(" & ".join(_latex(cell.text) for cell in row) + " \\\\" for row in cells(group)),
            "\\bottomrule",
            "\\end{tabular}",
        ]
    lines += [
        "\\par\\smallskip",
        *(f"{{\\footnotesize {_latex(note)}\\par}}" for note in notes(board)),
        *(f"% {other.status}: {other.name} {other.error}" for other in board.unfinished),
    ]
    return "\n".join(lines) + "\n"


def _accuracies(row: Row) -> list[Cell]:
    return [
        Cell(NOTHING if row.rank is None else str(row.rank), row.rank),
        *_mean_and_interval(row.val_accuracy, row),
        *_mean_and_interval(row.test_accuracy, row),
        Cell(row.count, len(row.runs)),
    ]


def _rest(row: Row) -> list[Cell]:
    return [
        _mean(row.test_macro_f1, 100, 2),
        Cell(NOTHING if row.params is None else f"{row.params:,}", row.params),
        _mean(row.train_seconds, 1, 1),
    ]


def _mean_and_interval(accuracy: Spread | None, row: Row) -> list[Cell]:
    return [_mean(accuracy, 100, 2, ON_TEST if row.on_test else ""), _interval(accuracy)]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _mean(spread: Spread | None, scale: float, digits: int, mark: str = "") -> Cell:
    if spread is None:
        return Cell(NOTHING)
    text = f"{scale * spread.mean:.{digits}f}"
    if spread.std is not None:
        text += f" ± {scale * spread.std:.{digits}f}"
    return Cell(text + mark, spread.mean)


def _interval(spread: Spread | None) -> Cell:
    if spread is None or spread.interval is None:
        return Cell(NOTHING)
    low, high = spread.interval
    mark = ONE_MODEL if spread.method == "wilson" else ""
    return Cell(f"{100 * low:.2f} – {100 * high:.2f}{mark}", low)


def _numbers(spread: Spread | None) -> list[float | None]:
    """Mean, standard deviation and the ends of the interval."""
    if spread is None:
        return [None] * 4
    return [spread.mean, spread.std, *(spread.interval or [None, None])]


def _settings_of(other: Unfinished, board: Leaderboard) -> list[str]:
    return [other.settings.text(column.key) if other.settings else "" for column in board.columns]


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: Iterable[int]) -> str:
    left = set(left)
    rules = [":--" if place in left else "--:" for place in range(len(heads))]
    lines = [[_markdown(text) for text in heads], rules, *([_markdown(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown(text: str) -> str:
    """Text escaped for a cell of a Markdown table: no markup, no HTML, no end of the cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*\[\]|~#$>]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)  # max_epochs is no emphasis


LATEX = str.maketrans({
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "−": "$-$", "–": "--", "·": r"$\cdot$", ON_TEST: r"\dag{}", ONE_MODEL: r"\textsuperscript{w}",
})  # fmt: skip


def _latex(text: str) -> str:
    return text.translate(LATEX)
