"""A leaderboard as one HTML file: sortable table, charts and the best run's pictures, without network requests."""

import csv
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from fmx.errors import DataError
from fmx.process.table import printable
from fmx.reporting.intervals import Spread, student_t
from fmx.reporting.leaderboard import Leaderboard, Row
from fmx.reporting.leaderboard_text import ON_TEST, cells, headings, is_word, notes, unfinished_table
from fmx.reporting.offline_page import Live, offline_page
from fmx.reporting.outcomes import Outcome
from fmx.runs.command_again import command_again
from fmx.runs.settings import show

__all__ = ["html_report"]

CURVES = {
    "val/accuracy": "validation accuracy",
    "val/loss": "validation loss",
    "train/accuracy": "training accuracy",
    "train/loss": "training loss",
}
MAX_DRAWN = 16  # configurations: beyond, neither colours nor lines can be distinguished
MAX_ROWS = 4000  # of a table: with 12 columns they take 3 MB, besides the 5 MB of plotly.js
MAX_LABEL = 44  # characters of a label that charts show in full
PICTURES = {"confusion_matrix": "Confusion matrix", "mistakes": "Mistakes", "reliability": "Reliability"}
PNG = b"\x89PNG\r\n\x1a\n"
MAX_PICTURE = 8_000_000  # bytes
MAX_HISTORY = 20_000_000
MAX_CLASSES = 1000  # whose images are counted


def html_report(board: Leaderboard, *, live: Live | None = None) -> str:
    """One self-contained page: plotly.js, the charts' data as JSON, the pictures as data URIs.

    Each data set has a part of its own, since accuracies on different images do not compare. live: as of offline_page.
    """
    groups = list(zip(board.data, board.by_data, strict=True))
    drawn = [_drawn_rows(group) for _, group in groups]
    return offline_page(
        "report",
        live=live,
        title=_title(board),
        parts=[_part(name if len(groups) > 1 else "", group) for name, group in groups],
        notes=notes(board),
        charts=_without_nan({"curves": CURVES, "onTest": ON_TEST, "parts": [{"rows": rows} for rows in drawn]}),
        unfinished=unfinished_table(board) if board.unfinished else None,
        max_rows=MAX_ROWS,
    )


def _part(name: str, board: Leaderboard) -> dict[str, Any]:
    """The contents of the page for one data set. name: empty if it is the only one."""
    best, heads = board.rows[0], headings(board)
    return {
        "name": name,
        "headings": heads,
        "words": [at for at in range(len(heads)) if is_word(board, at)],
        "rows": cells(board)[:MAX_ROWS],
        "num_rows": len(board.rows),
        "num_left_out": max(0, len(board.rows) - MAX_ROWS),
        "num_drawn": min(len(board.rows), MAX_DRAWN),
        "best": best,
        "best_settings": sorted((key, show(value)) for key, value in best.runs[0].settings.values.items()),
        "class_counts": _class_counts(best.best_run),
        "command": _command(best.best_run),
        "pictures": _pictures(best.best_run),
    }


def _title(board: Leaderboard) -> str:
    num_runs = sum(len(row.runs) for row in board.rows)
    data = sorted({run.data for row in board.rows for run in row.runs})
    runs, configurations = _counted(num_runs, "run"), _counted(len(board.rows), "configuration")
    return f"{runs} of {configurations}{' on ' if data else ''}{', '.join(data)}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _drawn_rows(board: Leaderboard) -> list[dict[str, Any]]:
    rows = board.rows[:MAX_DRAWN]
    return [_drawn(row, label) for row, label in zip(rows, _short_labels(board)[:MAX_DRAWN], strict=True)]


def _short_labels(board: Leaderboard) -> list[str]:
    """The rows' labels; if some are long, all without the settings that most rows have, if they stay unique."""
    labels = [row.label for row in board.rows]
    if all(len(label) <= MAX_LABEL for label in labels):
        return labels
    usual = {}
    for key, _ in board.columns:
        ((value, count),) = Counter(row.settings[key] for row in board.rows).most_common(1)
        usual[key] = value if 2 * count > len(board.rows) else None
    short = []
    for row in board.rows:
        model = [row.settings["model"]] if "model" in row.settings else []
        others = [(key, name) for key, name in board.columns if key != "model" and row.settings[key] != usual[key]]
        label = " · ".join([*model, *(f"{name} {row.settings[key]}" for key, name in others)])
        short.append(label or "most common settings")
    return short if len(set(short)) == len(short) else labels


def _drawn(row: Row, short: str) -> dict[str, Any]:
    """The values of a configuration that the charts show."""
    return {
        "label": row.label,
        "short": short,
        "onTest": row.on_test,
        "val": _drawn_spread(row.val_accuracy),
        "test": _drawn_spread(row.test_accuracy),
        "params": row.params,
        "seconds": _drawn_spread(row.train_seconds),
        "curves": _curves(row.runs),
    }


def _drawn_spread(spread: Spread | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    low, high = spread.interval or (None, None)
    return {
        "values": spread.values,
        "mean": spread.mean,
        "std": spread.std,
        "low": low,
        "high": high,
        "method": spread.method,
    }


def _curves(runs: Iterable[Outcome]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation, by epoch, of the columns in CURVES, over the seeds that reached the epoch."""
    points: dict[str, dict[float, list[float]]] = {name: {} for name in CURVES}
    for run in runs:
        timing = run.run.record.get("timing")
        steps = timing.get("steps_per_epoch") if isinstance(timing, dict) else None
        for epoch, row in _history(
            run.run.path / "history.csv", steps if isinstance(steps, int) and steps > 0 else None
        ):
            for name in CURVES:
                if (value := _float(row.get(name))) is not None:
                    points[name].setdefault(epoch, []).append(value)
    drawn: dict[str, dict[str, Any]] = {}
    for name, by_epoch in points.items():
        spreads = {epoch: student_t(by_epoch[epoch]) for epoch in sorted(by_epoch)}
        if spreads:
            drawn[name] = {
                "epoch": list(spreads),
                "mean": [spread.mean for spread in spreads.values()],
                "std": [spread.std for spread in spreads.values()],
            }
    return drawn


def _history(path: Path, steps_per_epoch: float | None) -> list[tuple[float, dict[str, str]]]:
    """The last row of each step in history.csv with its fractional epoch; empty if the file cannot be read.

    steps_per_epoch: None if it is not recorded; then the last row counts as the end of its epoch.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_HISTORY:
            return []
        with path.open(newline="", encoding="utf-8") as file:
            rows = {_float(row.get("step")): row for row in csv.DictReader(file)}
    except (OSError, ValueError, csv.Error):
        return []
    epochs = [_float(row.get("epoch")) for row in rows.values()]
    if not rows or None in epochs or None in rows:
        return []
    if len(set(epochs)) == len(epochs):
        return list(zip(epochs, rows.values(), strict=True))  # type: ignore[arg-type]
    if not max(epochs):  # type: ignore[type-var]
        return []
    steps_per_epoch = steps_per_epoch or max(rows) / max(epochs)  # type: ignore[type-var, operator]
    return [(round(step / steps_per_epoch, 6), row) for step, row in rows.items()]  # type: ignore[operator]


def _float(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if isfinite(value) else None


def _command(run: Outcome) -> str:
    """The command line of this run alone, not of its whole sweep."""
    try:
        return printable(command_again(run.run))
    except DataError:
        return ""


def _class_counts(run: Outcome) -> list[tuple[str, list[int]]]:
    """The numbers of training, validation and test images of each class, by its name, where they are recorded."""
    data, test = run.run.record.get("data"), run.run.metrics.get("test")
    counts = data.get("class_counts") if isinstance(data, dict) else None
    names = test.get("per_class") if isinstance(test, dict) else None
    columns = [counts.get(part) for part in ("train", "val", "test")] if isinstance(counts, dict) else []
    if not columns or not isinstance(names, dict) or len(names) > MAX_CLASSES:
        return []
    for column in columns:
        if not isinstance(column, list) or len(column) != len(names) or any(type(each) is not int for each in column):
            return []
    return [(show(name), list(numbers)) for name, numbers in zip(names, zip(*columns, strict=True), strict=True)]


def _pictures(run: Outcome) -> list[tuple[str, str]]:
    """Title and data URI of the run's figures that exist and are PNG files."""
    found = []
    for name, title in PICTURES.items():
        path = run.run.path / "figures" / f"{name}.png"
        try:
            if path.stat().st_size > MAX_PICTURE:
                continue
            contents = path.read_bytes()
        except OSError:
            continue
        if contents.startswith(PNG):
            found.append((title, f"data:image/png;base64,{b64encode(contents).decode()}"))
    return found


def _without_nan(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON does not have, by None."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(child) for key, child in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_nan(child) for child in value]
    return value
