"""Compare two runs, or two groups of seeds: their settings, their accuracies and their predictions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

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
    "Side",
    "by_class",
    "check_same_test_set",
    "compare_accuracy",
    "differences",
    "disagreements",
    "outcome_counts",
    "read_side",
]

SECTIONS = {"environment": ("versions", "device", "git", "host"), "data": ("data",)}
Differences = dict[str, list[tuple[str, str, str]]]


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a single run, or several seeds of one configuration, ordered by seed."""

    pattern: str
    runs: Sequence[Outcome]
    predictions: Sequence[StoredPredictions]
    left_out: Sequence[Unfinished]

    @cached_property
    def verdicts(self) -> Verdicts:
        """The prediction for each test image, by a majority of the runs."""
        return verdicts(self.predictions)

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
    same_seeds = [run.seed for run in a.runs] == [run.seed for run in b.runs]
    right_a, right_b = (np.stack([each.right for each in side.predictions]) for side in (a, b))  # (seeds, images)
    found = crossed(right_a, right_b, paired=same_seeds)
    seeds = "pairs of the same seed" if same_seeds else "seeds, which are not the same,"
    cautions = _cautions(a, b)
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


def _cautions(a: Side, b: Side) -> list[str]:
    """Cautions on the runs of each side: mixed environments, and NaN in their logits."""
    mixed = [
        f"The runs of {name} differ in {', '.join(unlike)} as well."
        for name, side in (("A", a), ("B", b))
        if (unlike := environment_differences(side.runs))
    ]
    return mixed + [
        f"{name} has NaN logits for {lost:,} test images (seed {run.seed}): it diverged, so its accuracy means nothing."
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
    seeds = [", ".join(run.seed for run in side.runs) for side in (a, b)]
    return [row for row in [*rows, ("seed", seeds[0], seeds[1])] if row[1] != row[2]]


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
