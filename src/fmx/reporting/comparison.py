"""Compare two runs, or two groups of seeds: their settings, their accuracies and their predictions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import DataError
from fmx.reporting.intervals import Interval, crossed, mcnemar, newcombe
from fmx.reporting.leaderboard import differ_in, differing
from fmx.reporting.outcomes import (
    ENOUGH_SEEDS,
    Outcome,
    Unfinished,
    by_configuration,
    environment_differences,
    newest_of_each_seed,
    outcome,
    unfinished,
)
from fmx.runs.predictions import StoredPredictions, Verdicts, read_predictions, verdicts
from fmx.runs.run_dir import find_runs, open_run
from fmx.runs.settings import ABSENT, show

__all__ = [
    "Accuracy",
    "ClassCounts",
    "Differences",
    "FoldAccuracies",
    "Side",
    "by_class",
    "by_fold",
    "check_same_test_set",
    "compare_accuracy",
    "differences",
    "disagreements",
    "outcome_counts",
    "paired_folds",
    "read_side",
]

SECTIONS = {"environment": ("versions", "device", "git", "host"), "data": ("data",)}
Differences = dict[str, list[tuple[str, str, str]]]


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a single run, or several seeds and folds of one configuration, ordered by these."""

    pattern: str
    runs: Sequence[Outcome]
    predictions: Sequence[StoredPredictions]
    left_out: Sequence[Unfinished]

    @cached_property
    def verdicts(self) -> Verdicts:
        """The prediction for each test image, by a majority of the runs."""
        return verdicts(self.predictions)

    @property
    def folds(self) -> list[int]:
        """The folds that its runs held out, each once; empty without folds."""
        return sorted({run.settings.fold for run in self.runs if run.settings.fold is not None})

    @property
    def num_folds(self) -> int:
        """The number of folds of its cross-validation; 0 for runs of one split."""
        return self.runs[0].settings.folds if len(self.folds) > 1 else 0

    @property
    def accuracies(self) -> list[float]:
        """The test accuracy of each run."""
        return [float(each.right.mean()) for each in self.predictions]


@dataclass(frozen=True)
class Accuracy:
    """Test accuracies, and their difference B - A.

    test: the test of the p-value, empty if it is that of the interval. cautions: sentences on the limits of the result.
    """

    a: float
    b: float
    difference: float
    interval: Interval
    interval_method: str
    p_value: float
    test: str
    cautions: Sequence[str]


@dataclass(frozen=True)
class FoldAccuracies:
    """The mean validation accuracies on the images of one fold over the runs of each side."""

    fold: int
    a: float
    b: float


@dataclass(frozen=True)
class ClassCounts:
    """Numbers of test images of one class: all, those on which A and B are right, those on which only one is."""

    name: str
    images: int
    right_a: int
    right_b: int
    only_a: int
    only_b: int


def read_side(pattern: str) -> Side:
    """Read a run directory, or the runs below a folder or glob without those that a search pruned.

    DataError if there is none, if one did not complete, or if they have several configurations.
    """
    found = [open_run(path, finished=False) for path in find_runs([pattern])]
    pruned = [run for run in found if run.pruned] if len(found) > 1 else []
    runs = [open_run(run.path) for run in found if run not in pruned]
    if not runs:
        raise DataError(f"{pattern} holds {len(pruned)} runs, all of which a search pruned: they were never tested")
    outcomes, repeated = newest_of_each_seed([outcome(run, show(str(run.path))) for run in runs])
    groups = by_configuration(outcomes)
    if len(groups) > 1:
        keys = differing([group[0].settings for group in groups]) or ["data"]
        raise DataError(
            f"{pattern} holds {len(groups)} configurations, which differ in {', '.join(keys)}; name the runs of one, "
            f"for example with a glob: '{runs[0].path.parent}/[012]'"
        )
    predictions = [read_predictions(each.run.path) for each in groups[0]]
    return Side(pattern, groups[0], predictions, [*map(unfinished, pruned), *repeated])


def differences(a: Side, b: Side) -> Differences:
    """The differences in settings, environment and data: name, A's value, B's value."""
    found: Differences = {"configuration": _setting_differences(a, b)}
    for section, fields in SECTIONS.items():
        facts = [
            [_flatten({name: run.run.record.get(name) for name in fields}) for run in side.runs] for side in (a, b)
        ]
        names = sorted({name for side in facts for run in side for name in run})
        rows = [(name, *(_joined(run.get(name, ABSENT) for run in side) for side in facts)) for name in names]
        found[section] = [(name, of_a, of_b) for name, of_a, of_b in rows if of_a != of_b]
    return found


def check_same_test_set(a: Side, b: Side) -> None:
    """DataError with the reason if not all runs were tested on the same images."""
    first = a.runs[0]
    for run in [*a.runs, *b.runs]:
        if not first.data_fingerprint or run.data_fingerprint != first.data_fingerprint:
            of_a, of_b = (f"{each.data} {each.data_fingerprint or 'of unknown contents'}" for each in (first, run))
            raise DataError(f"the accuracies cannot be compared, since the data sets differ: {of_a}, {of_b}")
    labels, indices = a.predictions[0].labels, a.predictions[0].indices
    for predictions in [*a.predictions, *b.predictions]:
        for name, ours, theirs in [("images", indices, predictions.indices), ("labels", labels, predictions.labels)]:
            if not np.array_equal(ours, theirs):
                raise DataError(
                    f"the accuracies cannot be compared, since the test sets differ: not the same {name} "
                    f"({len(ours):,} and {len(theirs):,} predictions)"
                )


def compare_accuracy(a: Side, b: Side) -> Accuracy:
    """Test the difference of accuracies B - A: over images for two single runs, over seeds and images for two groups.

    The methods are those of intervals.newcombe and intervals.mcnemar, and of intervals.crossed. DataError if only one
    side is a single run.
    """
    of_a, of_b = a.accuracies, b.accuracies
    if len(of_a) == len(of_b) == 1:
        both, only_a, only_b, neither = outcome_counts(a.verdicts, b.verdicts)
        return Accuracy(
            a=of_a[0],
            b=of_b[0],
            difference=(only_b - only_a) / (both + only_a + only_b + neither),
            interval=newcombe(both, only_a, only_b, neither),
            interval_method="Newcombe's method 10 for pairs, over the test images",
            p_value=mcnemar(only_a, only_b),
            test="McNemar's exact test",
            cautions=[*_cautions(a, b), "One run each: other seeds may say otherwise."],
        )
    if min(len(of_a), len(of_b)) == 1:
        raise DataError(
            f"a single run and a group of seeds cannot be compared: A has {len(of_a)} and B has {len(of_b)}; "
            "name one run each, or several each"
        )
    cautions = _cautions(a, b)
    if a.num_folds and b.num_folds:
        return _compare_folds(a, b, cautions)
    if a.num_folds or b.num_folds:
        cautions.append("Only one side is of several folds: its runs were trained on different images.")
    same_seeds = [run.replicate for run in a.runs] == [run.replicate for run in b.runs]
    right_a, right_b = (np.stack([each.right for each in side.predictions]) for side in (a, b))  # (seeds, images)
    found = crossed(right_a, right_b, paired=same_seeds, folds=max(a.num_folds, b.num_folds))
    seeds = "pairs of the same seed" if same_seeds else "seeds, which are not the same,"
    if found.seeds_agree:
        cautions.append(
            "The seeds of each side agree on every image, so the variance between seeds is undefined: the interval is "
            "that of the test images alone."
        )
    if min(len(of_a), len(of_b)) < ENOUGH_SEEDS:
        counts = f"{len(of_a)}" if len(of_a) == len(of_b) else f"{len(of_a)} and {len(of_b)}"
        cautions.append(
            f"{counts} seeds per side are few: their variance is a rough estimate. Use {ENOUGH_SEEDS} or more."
        )
    return Accuracy(
        a=float(np.mean(of_a)),
        b=float(np.mean(of_b)),
        difference=found.difference,
        interval=found.interval,
        interval_method=f"Student's t over {seeds} and over the test images",
        p_value=found.p_value,
        test="",
        cautions=cautions,
    )


def _compare_folds(a: Side, b: Side, cautions: list[str]) -> Accuracy:
    """Test the difference of test accuracies over pairs of the same fold, or over all where their images differ."""
    pairs = paired_folds(a, b)
    right = [_right_by_fold(side, pairs or side.folds) for side in (a, b)]  # (folds, images)
    if min(map(len, right)) == 1:
        raise DataError(
            f"A and B have only fold {pairs[0]} in common; name the runs of that fold alone, or let both hold out the "
            "same folds"
        )
    found = crossed(*right, paired=bool(pairs), folds=min(a.num_folds, b.num_folds))
    if not pairs:
        cautions.append("The folds of A and B are not the same images, so they are not paired.")
    for name, side, other in (("A", a, b), ("B", b, a)):
        if pairs and (lacking := sorted({*other.folds} - {*side.folds})):
            numbers = f"fold{'s' * (len(lacking) > 1)} {', '.join(map(str, lacking))}"
            cautions.append(f"{name} lacks {numbers}, which the other side has: left out, so the rest is compared.")
    if min(map(len, right)) < ENOUGH_SEEDS:
        cautions.append(f"{min(map(len, right))} folds are few: their variance is a rough estimate.")
    return Accuracy(
        a=float(right[0].mean()),
        b=float(right[1].mean()),
        difference=found.difference,
        interval=found.interval,
        interval_method=f"Student's t over {'pairs of the same fold' if pairs else 'folds'} and over the test images",
        p_value=found.p_value,
        test="",
        cautions=cautions,
    )


def paired_folds(a: Side, b: Side) -> list[int]:
    """The folds that both sides held out; empty where their folds are not of the same images."""
    keys = ("data.folds", "data.split_seed")
    same = all(a.runs[0].settings.values.get(key) == b.runs[0].settings.values.get(key) for key in keys)
    return sorted({*a.folds} & {*b.folds}) if same and a.num_folds and b.num_folds else []


def _right_by_fold(side: Side, folds: Sequence[int]) -> NDArray[np.float64]:
    """The share of a fold's seeds that are right on each test image, (folds, images)."""
    by_fold = [
        [each.right for run, each in zip(side.runs, side.predictions, strict=True) if run.settings.fold == fold]
        for fold in folds
    ]
    return np.stack([np.mean(runs, axis=0) for runs in by_fold])


def by_fold(a: Side, b: Side) -> list[FoldAccuracies]:
    """The validation accuracies of each fold that both sides held out; empty where one of them lacks an accuracy."""
    rows = []
    for fold in paired_folds(a, b):
        of_a, of_b = ([run.val_accuracy for run in side.runs if run.settings.fold == fold] for side in (a, b))
        if None in of_a or None in of_b:
            return []
        rows.append(FoldAccuracies(fold, float(np.mean(of_a)), float(np.mean(of_b))))  # type: ignore[arg-type]
    return rows


def _cautions(a: Side, b: Side) -> list[str]:
    """Cautions on the runs of each side: mixed environments, other folds, and NaN in their logits."""
    mixed = [
        f"The runs of {name} differ in {', '.join(unlike)} as well."
        for name, side in (("A", a), ("B", b))
        if (unlike := environment_differences(side.runs))
    ]
    if len(a.folds) == len(b.folds) == 1 and a.folds != b.folds:
        mixed.append(f"A held out fold {a.folds[0]} and B fold {b.folds[0]}: they were trained on different images.")
    return mixed + [
        f"{name} has NaN logits for {lost:,} test images (seed {run.replicate}): it diverged, so its accuracy means "
        "nothing."
        for name, side in (("A", a), ("B", b))
        for run, predictions in zip(side.runs, side.predictions, strict=True)
        if (lost := predictions.num_undefined)
    ]


def outcome_counts(a: Verdicts, b: Verdicts) -> tuple[int, int, int, int]:
    """The numbers of test images on which both are right, only A, only B, neither."""
    cells = (a.right & b.right, a.right & ~b.right, ~a.right & b.right, ~a.right & ~b.right)
    both, only_a, only_b, neither = (int(cell.sum()) for cell in cells)
    return both, only_a, only_b, neither


def disagreements(a: Side, b: Side) -> tuple[list[int], list[int]]:
    """The indices in the test set of the images on which only A is right, and of those on which only B is."""
    indices, right_a, right_b = a.predictions[0].indices, a.verdicts.right, b.verdicts.right
    return indices[right_a & ~right_b].tolist(), indices[right_b & ~right_a].tolist()


def by_class(a: Side, b: Side) -> list[ClassCounts]:
    """Count for each class the test images on which A and B are right."""
    labels = a.predictions[0].labels
    right_a, right_b = a.verdicts.right, b.verdicts.right
    parts = [np.ones_like(right_a), right_a, right_b, right_a & ~right_b, right_b & ~right_a]
    counts = np.stack([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts], axis=1)
    names = _class_names(a.runs[0], len(counts))
    return [ClassCounts(names[label], *map(int, row)) for label, row in enumerate(counts)]


def _class_names(run: Outcome, at_least: int) -> list[str]:
    test = run.run.metrics["test"]
    names = [show(name) for name in test["per_class"]] if isinstance(test.get("per_class"), dict) else []
    return names if len(names) >= at_least else [f"class {label}" for label in range(at_least)]


def _setting_differences(a: Side, b: Side) -> list[tuple[str, str, str]]:
    first, second = a.runs[0].settings, b.runs[0].settings
    groups = sorted({*first.choices, *second.choices})
    of_one_side = {*first.following, *second.following} - (first.values.keys() & second.values.keys())
    keys = [k for k in sorted({*first.values, *second.values} - of_one_side) if differ_in(k, [first, second])]
    rows = [(key, first.text(key), second.text(key)) for key in [*(g for g in groups if "/" not in g), *keys]]
    seeds = [", ".join(dict.fromkeys(run.seed for run in side.runs)) for side in (a, b)]
    folds = [", ".join(map(str, side.folds)) or ABSENT for side in (a, b)]
    rows += [("seed", seeds[0], seeds[1]), ("fold", folds[0], folds[1])]
    return [row for row in rows if row[1] != row[2]]


def _joined(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def _flatten(contents: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in contents.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = show(value)
    return flat
