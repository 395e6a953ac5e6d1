"""A leaderboard: one row per configuration, over its seeds and folds, from the files of the runs alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import fsum, inf, isnan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fmx.data.paired_test_images import PairedTestImages
from fmx.errors import DataError
from fmx.reporting.intervals import Spread, share, student_t
from fmx.reporting.outcomes import (
    KnownOutcomes,
    Outcome,
    Unfinished,
    by_configuration,
    environment_differences,
    read_outcomes,
)
from fmx.runs.predictions import read_predictions
from fmx.runs.settings import ABSENT, Settings

__all__ = ["Column", "Leaderboard", "Row", "differ_in", "differing", "leaderboard"]

NAMED_DATA = ("data.dataset", "data.options.split", "data.file", "data.train_file")
FOUND = {f"data.{name}" for name in ("class_names", "num_classes", "in_channels", "image_size", "mean", "std")}
DATA, FINGERPRINT = "data", "data fingerprint"
TARGET = "._target_"
IGNORED_GROUPS = {"experiment"}  # an experiment file sets nothing but keys, which are compared themselves


class Column(NamedTuple):
    """A setting in which configurations differ: its dotted key, or the name of a group, and its heading."""

    key: str
    name: str


@dataclass(frozen=True)
class Row:
    """One configuration: its distinguishing settings by column key, its metrics over seeds or folds.

    Accuracies are in 0..1. The value of a fold is the mean over its seeds.
    """

    rank: int | None
    label: str  # its distinguishing settings in one line
    settings: dict[str, str]
    runs: Sequence[Outcome]
    val_accuracy: Spread | None
    test_accuracy: Spread
    test_macro_f1: Spread | None
    test_ece: Spread | None  # None unless it was measured of every run
    calibrated_test_ece: Spread | None
    test_accuracy_without_duplicates: Spread | None  # test accuracy; None if none are left out, or for another data set
    params: int | None
    train_seconds: Spread | None
    on_test: bool
    mixed: dict[str, list[str]]  # further differences between its runs, with the values: commit, versions, device, …

    @property
    def data(self) -> tuple[str, str]:
        """The name and the fingerprint of the data set."""
        return self.runs[0].configuration[:2]

    @property
    def folds(self) -> list[int]:
        """The folds that were held out, each once; empty without folds."""
        return _folds(self.runs)

    @property
    def missing_folds(self) -> list[int]:
        """The folds that were not held out."""
        return sorted({*range(self.runs[0].settings.folds)} - {*self.folds})

    @property
    def count(self) -> str:
        """The number of runs in words: `3`, `5 folds`, `4 of 5 folds × 3 seeds`."""
        if not self.folds:
            return str(len(self.runs))
        of = f"{len(self.folds)} of " if self.missing_folds else ""
        num_folds, seeds = self.runs[0].settings.folds, {run.seed for run in self.runs}
        every = len(self.runs) == len(self.folds) * len(seeds)
        by_seeds = f" × {len(seeds)} seeds" if every else f", {len(self.runs)} runs"
        return f"{of}{num_folds} folds{by_seeds if len(self.runs) > len(self.folds) else ''}"

    @property
    def best_run(self) -> Outcome:
        """The run with the best validation accuracy; the first one without a validation set."""
        return max(self.runs, key=lambda run: _or_lowest(run.val_accuracy))


@dataclass(frozen=True)
class Leaderboard:
    """Configurations, best first by mean validation accuracy within each data set, and the runs without metrics."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    unfinished: Sequence[Unfinished]
    duplicates: PairedTestImages | None = None  # the test images that `Row.test_accuracy_without_duplicates` leaves out

    @cached_property
    def by_data(self) -> "list[Leaderboard]":
        """A leaderboard of the completed runs of each data set, with the columns in which its configurations differ."""
        sets: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            sets.setdefault(row.data, []).append(row)
        return [replace(_of_one_data_set(rows), duplicates=self.duplicates) for rows in sets.values()]

    @property
    def data(self) -> list[str]:
        """The names of the data sets, with the fingerprint if several share a name."""
        sets = dict.fromkeys(row.data for row in self.rows)
        names = [name for name, _ in sets]
        return [name if names.count(name) == 1 else f"{name} ({mark[:8] or 'unknown'})" for name, mark in sets]


def _of_one_data_set(rows: Sequence[Row]) -> Leaderboard:
    groups = [row.runs for row in rows]
    columns = _columns(differing([group[0].settings for group in groups]), groups)
    settings = [{column.key: _setting(row.runs[0], column.key) for column in columns} for row in rows]
    return Leaderboard(
        columns,
        [
            replace(row, settings=each, label=_label(row.runs[0], columns))
            for row, each in zip(rows, settings, strict=True)
        ],
        [],
    )


def leaderboard(
    folders: Iterable[Path],
    *,
    below: Path | None = None,
    duplicates: PairedTestImages | None = None,
    known: KnownOutcomes | None = None,
) -> Leaderboard:
    """Read run directories and rank their configurations.

    below: the folder that the runs' names are relative to; None: they are named by the given paths.
    duplicates: test images without which the test accuracy is computed as well, of runs on the same data set.
    known: outcomes of an earlier call.
    """
    outcomes, unfinished = read_outcomes(folders, below=below, known=known)
    groups = by_configuration(outcomes)
    configurations = {group[0].configuration: group[0].settings for group in groups}
    attempts = {other.settings.fingerprint: other.settings for other in unfinished if other.settings}
    keys = differing([*configurations.values(), *attempts.values()])
    columns = _columns(keys, groups)
    rows = [_row(group, columns, duplicates) for group in groups]
    return Leaderboard(columns, _ranked(rows), unfinished, duplicates)


def differing(configurations: Sequence[Settings]) -> list[str]:
    """What distinguishes configurations: groups, and the keys that follow from no group, `_target_` or other key."""
    groups = sorted({group for each in configurations for group in each.choices if "/" not in group} - IGNORED_GROUPS)
    varied = [group for group in groups if len({each.choices.get(group) for each in configurations}) > 1]
    found = []
    keys = sorted({key for each in configurations for key in each.values})
    for key in (key for key in keys if len({repr(each.values.get(key, ABSENT)) for each in configurations}) > 1):
        by_causes: dict[tuple[Any, ...], list[Settings]] = {}
        for each in configurations:
            by_causes.setdefault(_causes(key, each, varied), []).append(each)
        if any(differ_in(key, alike) for alike in by_causes.values()):
            found.append(key)
    return varied + found


def differ_in(key: str, configurations: Sequence[Settings]) -> bool:
    """Whether a setting differs, and not only because it follows from the same other key in all of them."""
    sources = {each.following.get(key) for each in configurations}
    values = {repr(each.values.get(key, ABSENT)) for each in configurations}
    return len(values) > 1 and (len(sources) > 1 or None in sources)


def _causes(key: str, settings: Settings, varied: Sequence[str]) -> tuple[Any, ...]:
    """What a key may follow from: its group's choice if that varies, the targets around it, the files that tell it."""
    parts = key.split(".")
    targets = [f"{'.'.join(parts[:depth])}{TARGET}" for depth in range(1, len(parts))]
    choice = settings.choices.get(parts[0]) if parts[0] in varied else None
    named = [str(settings.values.get(name)) for name in NAMED_DATA] if key in FOUND else []
    return choice, *(str(settings.values.get(target)) for target in targets if target != key), *named


def _columns(keys: Sequence[str], groups: Sequence[Sequence[Outcome]]) -> list[Column]:
    """Columns, named by the last part of their key if that is unique; with the data set if the settings lack it."""
    data = {(group[0].data, group[0].data_fingerprint) for group in groups}
    names = {name for name, _ in data}
    if len(names) > 1 and DATA not in keys:
        keys = [DATA, *keys]
    if len(names) < len(data):
        keys = [FINGERPRINT, *keys]
    last = [key.removesuffix(TARGET).rpartition(".")[2] for key in keys]
    return [Column(key, name if last.count(name) == 1 else key) for key, name in zip(keys, last, strict=True)]


def _row(runs: Sequence[Outcome], columns: Sequence[Column], duplicates: PairedTestImages | None) -> Row:
    first = runs[0]
    return Row(
        rank=None,
        label=_label(first, columns),
        settings={column.key: _setting(first, column.key) for column in columns},
        runs=runs,
        val_accuracy=_val_accuracy(runs),
        test_accuracy=share(_values(runs, "test_accuracy"), _num_tested(first), folds=_num_folds(runs)),  # type: ignore[arg-type]
        test_macro_f1=_share(_values(runs, "test_macro_f1"), None, folds=_num_folds(runs)),
        test_ece=_spread(_values(runs, "test_ece")),
        calibrated_test_ece=_spread(_values(runs, "calibrated_test_ece")),
        test_accuracy_without_duplicates=_without(runs, duplicates),
        params=first.params,
        train_seconds=_spread([run.train_seconds for run in runs]),
        on_test=any(run.on_test for run in runs),
        mixed=environment_differences(runs),
    )


def _label(run: Outcome, columns: Sequence[Column]) -> str:
    """The distinguishing settings of a configuration; the choice of a group needs no name."""
    settings = [(key, name, _setting(run, key)) for key, name in columns]
    parts = [value if key in run.settings.choices else f"{name} {value}" for key, name, value in settings]
    return " · ".join(parts) or run.settings.text("model")


def _setting(run: Outcome, key: str) -> str:
    if key == FINGERPRINT:
        return run.data_fingerprint[:8]
    if key == DATA:
        return run.settings.choices.get(DATA, run.data)
    return run.settings.text(key)


def _spread(values: Sequence[float | None]) -> Spread | None:
    """None if a run lacks the value: a mean of the others would be misleading."""
    known = [value for value in values if value is not None]
    return student_t(known) if len(known) == len(values) else None


def _folds(runs: Sequence[Outcome]) -> list[int]:
    return sorted({run.settings.fold for run in runs if run.settings.fold is not None})


def _num_folds(runs: Sequence[Outcome]) -> int:
    """The number of folds of a cross-validation; 0 for runs of one split, of which only the seeds differ."""
    return runs[0].settings.folds if len(_folds(runs)) > 1 else 0


def _values(runs: Sequence[Outcome], name: str) -> list[float | None]:
    """A metric of each seed or fold, as `_replicates`."""
    return _replicates(runs, [getattr(run, name) for run in runs])


def _replicates(runs: Sequence[Outcome], values: Sequence[float | None]) -> list[float | None]:
    """The value of each seed, or of each fold, of which it is the mean over the seeds; None where a run lacks it."""
    if not _num_folds(runs):
        return [*values]
    by_fold = [
        [value for run, value in zip(runs, values, strict=True) if run.settings.fold == fold] for fold in _folds(runs)
    ]
    return [None if None in values else fsum(values) / len(values) for values in by_fold]  # type: ignore[arg-type]


def _without(runs: Sequence[Outcome], duplicates: PairedTestImages | None) -> Spread | None:
    """The test accuracy on the other test images; None for another data set, without predictions or other images."""
    if duplicates is None or runs[0].data_fingerprint != duplicates.fingerprint:
        return None
    left_out = np.fromiter(duplicates.indices, np.int64, len(duplicates.indices))
    accuracies, kept = [], np.zeros(0, dtype=np.bool_)
    for run in runs:
        try:
            predictions = read_predictions(run.run.path)
        except DataError:
            return None
        kept = ~np.isin(predictions.indices, left_out)
        if not kept.any():
            return None
        accuracies.append(float(predictions.right[kept].mean()))
    return share(_replicates(runs, accuracies), int(kept.sum()), folds=_num_folds(runs))  # type: ignore[arg-type]


def _val_accuracy(runs: Sequence[Outcome]) -> Spread | None:
    """The validation accuracy. Each fold has images of its own, so that their variance is within that of the folds."""
    values, folds = _values(runs, "val_accuracy"), _num_folds(runs)
    if not folds:
        return _share(values, _num_validated(runs[0]))
    held_out = {run.settings.fold: _num_validated(run) for run in runs}
    total = sum(number or 0 for number in held_out.values()) if None not in held_out.values() else None
    return _share(values, total if len({*values}) == 1 else None, folds=folds)


def _share(values: Sequence[float | None], num_images: int | None, *, folds: int = 0) -> Spread | None:
    """As _spread, in 0..1. No interval for a single seed: its checkpoint was chosen by this very value."""
    if len(values) == 1:
        return _spread(values)
    known = [value for value in values if value is not None]
    return share(known, num_images, folds=folds) if len(known) == len(values) else None


def _num_validated(run: Outcome) -> int | None:
    """How many images a run was validated on; None if a limit makes them fewer than are recorded."""
    limit = run.settings.values.get("trainer.limit_val_batches", 1.0)
    return run.num_val if isinstance(limit, float) and limit == 1 else None


def _num_tested(run: Outcome) -> int | None:
    try:
        return len(read_predictions(run.run.path).labels)
    except DataError:
        return None


def _ranked(rows: Iterable[Row]) -> list[Row]:
    """Sort rows by data set, and rank those with a validation accuracy; those validated on the test set come after."""
    ordered = sorted(rows, key=_sort_key)
    ranks: dict[tuple[str, str], int] = {}
    ranked = []
    for row in ordered:
        ranks[row.data] = ranks.get(row.data, 0) + 1
        ranked.append(replace(row, rank=ranks[row.data] if row.val_accuracy else None))
    return ranked


def _sort_key(row: Row) -> tuple[str, str, bool, bool, float, str]:
    accuracy = _or_lowest(row.val_accuracy.mean if row.val_accuracy else None)
    return *row.data, not row.val_accuracy, row.on_test, -accuracy, row.label


def _or_lowest(accuracy: float | None) -> float:
    return -inf if accuracy is None or isnan(accuracy) else accuracy
