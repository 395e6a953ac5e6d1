"""The best rows of a leaderboard, printed at the end of a sweep for a terminal of 80 columns."""

from fmx.process.table import print_metrics
from fmx.reporting.intervals import Spread
from fmx.reporting.leaderboard import Leaderboard

__all__ = ["print_best"]

HEADINGS = ["", "n", "val %", "test %", "configuration"]


def print_best(board: Leaderboard, *, most: int) -> None:
    """Print the `most` best rows: rank, number of seeds or folds, mean accuracies ± standard deviations, label."""
    several = len({row.runs[0].data for row in board.rows}) > 1
    rows = []
    for row in board.rows[:most]:
        mark = "†" if row.on_test else ""
        label = f"{row.runs[0].data} · {row.label}" if several and row.runs[0].data not in row.label else row.label
        if row.mixed:
            label += f" (its runs differ in {', '.join(row.mixed)})"
        accuracies = [_percent(row.val_accuracy, mark), _percent(row.test_accuracy, mark)]
        rows.append(["–" if row.rank is None else str(row.rank), row.count, *accuracies, label])
    print()
    print_metrics(HEADINGS, rows)
    if len(board.rows) > most:
        print(f"the best {most} of {len(board.rows)} configurations; all are in the leaderboard:")
    if any(row.on_test for row in board.rows[:most]):
        print("† validated on the test set, which flatters both accuracies")


def _percent(spread: Spread | None, mark: str) -> str:
    if spread is None:
        return "–"
    deviation = "" if spread.std is None else f" ± {100 * spread.std:.2f}"
    return f"{100 * spread.mean:.2f}{deviation}{mark}"
