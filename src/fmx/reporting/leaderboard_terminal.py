"""A leaderboard on the terminal: all columns if they fit, else the most important ones."""

from collections.abc import Sequence
from dataclasses import replace

from fmx.process.table import fits, print_lines, print_table
from fmx.reporting.leaderboard import Leaderboard
from fmx.reporting.leaderboard_text import (
    ACCURACIES,
    MIXED,
    cells,
    has_duplicates,
    headings,
    is_word,
    notes,
    unfinished_table,
)
from fmx.reporting.outcomes import Unfinished

__all__ = ["print_leaderboard"]

SHORT = ["val %", "95 %", "test %", "95 %", "n"]
DROP_ORDER = [2, -3, -2, -1, 4]  # columns in the order in which they are left out, as in _narrow
MAX_ROWS = 100  # of a table on the terminal
WITH_DUPLICATES = [2, -1, 4, -2]  # the same where the accuracy without duplicates comes before macro-F1
LABEL_WIDTH = 34  # width of the column for the configuration


def print_leaderboard(board: Leaderboard) -> None:
    """Print a table for each data set, notes, and the runs without metrics, on stdout."""
    left_out: dict[str, None] = {}
    cut = len(board.unfinished) > MAX_ROWS
    for name, group in zip(board.data, board.by_data, strict=True):
        if len(board.data) > 1:
            print_lines(["", name])
        cut |= len(group.rows) > MAX_ROWS
        heads, rows = headings(group), [[cell.text for cell in row] for row in cells(group)[:MAX_ROWS]]
        words = [at for at in range(len(heads)) if is_word(group, at)]
        if not fits(heads, rows):
            heads, rows, lost = _narrow(group, rows)
            left_out |= dict.fromkeys(lost)
            words = [len(heads) - 1]
        print_table(heads, rows, num_left=0, left=words)
        if len(group.rows) > MAX_ROWS:
            print_lines([f"the best {MAX_ROWS} of {len(group.rows):,} configurations"])
    lines = notes(board) if board.rows else []
    if left_out:
        lines.append(f"Left out, for the width of the terminal: {', '.join(left_out)}; --csv and --html have all.")
    if cut:
        lines.append(
            f"Tables end after {MAX_ROWS} rows here: --csv, --md and --latex have all, --html shows them by pages."
        )
    if lines:
        print_lines(["", *lines])
    if board.unfinished:
        _print_unfinished(board)


def _print_unfinished(board: Leaderboard) -> None:
    others = board.unfinished[:MAX_ROWS]
    heads, rows = unfinished_table(replace(board, unfinished=others))
    if not fits(heads, rows):
        heads, rows = ["run", "status", "what"], [_short_row(other, board) for other in others]
    print()
    print_table(heads, rows, num_left=len(heads))
    if len(board.unfinished) > MAX_ROWS:
        print_lines([f"the first {MAX_ROWS} of {len(board.unfinished):,} runs without metrics"])


def _narrow(board: Leaderboard, rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]], list[str]]:
    """Heads and rows with one column for the configuration, and the names of the columns that do not fit."""
    before, after = 1 + len(ACCURACIES), 1 + len(ACCURACIES) + len(board.columns)
    heads = ["", *SHORT, *headings(board)[after : after + 3]]
    numbers = [[*row[:before], *row[after : after + 3]] for row in rows]
    labels = [row.label + (f" (mixed: {', '.join(row.mixed)})" if row.mixed else "") for row in board.rows[: len(rows)]]
    names = ["", "val accuracy %", "interval of val", "test accuracy %", "interval of test", "n", *heads[before:]]
    names = ["interval without duplicates" if at > before and n == "95 % interval" else n for at, n in enumerate(names)]
    kept = list(range(len(heads)))
    lost = [head for head in headings(board)[after + 3 :] if head != MIXED]
    for place in (each % len(heads) for each in (WITH_DUPLICATES if has_duplicates(board) else DROP_ORDER)):
        if fits([*(heads[at] for at in kept), "x" * LABEL_WIDTH], [[row[at] for at in kept] + [""] for row in numbers]):
            break
        kept.remove(place)
        lost.append(names[place])
    return (
        [*(heads[at] for at in kept), "configuration"],
        [[*(row[at] for at in kept), label] for row, label in zip(numbers, labels, strict=True)],
        lost,
    )


def _short_row(other: Unfinished, board: Leaderboard) -> list[str]:
    """A run without metrics, in three cells."""
    settings = [f"{name} {other.settings.text(key)}" for key, name in board.columns] if other.settings else []
    what = " · ".join([*settings, *([f"seed {other.replicate}"] if other.seed else [])])
    return [other.name, other.status, f"{what}: {other.error}" if other.error else what]
