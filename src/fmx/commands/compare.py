"""`fmx compare`: what differs between two runs or two groups of seeds, and whether one is better."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmx.commands.verb_parser import VerbParser
from fmx.process.exits import plain_exits
from fmx.process.start import as_command

if TYPE_CHECKING:
    from fmx.reporting.comparison import Accuracy, Differences, Side

__all__ = ["main", "make_parser"]

EXAMPLES = """\
examples:
  fmx compare outputs/runs/RUN_A outputs/runs/RUN_B
  fmx compare RUN_A RUN_B --grid changed.png --json changed.json
  fmx compare 'outputs/sweeps/SWEEP/[012]' 'outputs/sweeps/SWEEP/[345]'     (seeds of A, seeds of B; mind the quotes)

Two single runs are tested image by image (McNemar), two groups by Student's t over their seeds (paired where these are
the same) and the test images, both of which are samples. Folds are paired by their number, and their validation
accuracies are compared too. A difference is always B − A. One run each says nothing about
other seeds, and fewer than five seeds say little. Pruned trials are left out.
"""
SIGNIFICANT = 0.05
MAX_LISTED = 20  # images whose indices are printed
SHORT = 48  # characters of a value in a table


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser(
        "compare",
        description="What differs between two runs, or two groups of seeds or folds, and whether one is better.",
        examples=EXAMPLES,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="A and B: a run directory, or a folder or glob of "
                        "seeds; for --grid also data.root=DIR, where the data lies now")  # fmt: skip
    parser.add_argument(
        "--grid", type=Path, metavar="F.png", help="draw the images that only one side classifies correctly"
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write everything, with the indices of all such images")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--allow", action="append", default=[], metavar="PKG",
                        help="trust a package that A's configuration names (for --grid)")  # fmt: skip
    return parser


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    parser = make_parser()
    arguments = parser.parse_intermixed_args()
    roots = [word for word in arguments.runs if word.startswith("data.root=")]
    runs = [word for word in arguments.runs if word not in roots]
    if len(runs) != 2:  # noqa: PLR2004
        parser.error(f"name two, A and B, not {len(runs)}; put a glob in quotes, so that it stays one")
    with plain_exits():
        compare(
            *runs,
            grid=arguments.grid,
            json=arguments.json,
            force=arguments.force,
            allow=arguments.allow,
            root=roots[-1] if roots else None,
        )


def compare(
    a: str, b: str, *, grid: Path | None, json: Path | None, force: bool, allow: Sequence[str], root: str | None = None
) -> None:
    """Print what differs between the runs of A and B, and write it to files.

    root: `data.root=DIR`, where their data is now, for the grid.

    Raises ConfigError where a file exists without `force`; DataError where a run is missing or not finished, the test
    sets differ, or the images for a grid are not available.
    """
    from fmx.reporting.comparison import check_same_test_set, compare_accuracy, differences, read_side
    from fmx.runs.new_file import refuse_existing

    for file in filter(None, (grid, json)):
        refuse_existing(file, force=force)
    side_a, side_b = read_side(a), read_side(b)
    differing = differences(side_a, side_b)
    _print_sides(side_a, side_b)
    _print_differences(differing)
    check_same_test_set(side_a, side_b)
    accuracy = compare_accuracy(side_a, side_b)
    _print_accuracy(side_a, side_b, accuracy)
    _print_folds(side_a, side_b)
    _print_classes(side_a, side_b)
    if json:
        _write_json(json, side_a, side_b, differing, accuracy, force=force)
    if grid:
        _draw_grid(grid, side_a, side_b, force=force, allow=allow, root=root)


def _print_sides(a: "Side", b: "Side") -> None:
    from fmx.process.table import printable

    for name, side in (("A", a), ("B", b)):
        each = [*dict.fromkeys(run.seed for run in side.runs)]
        seeds = f"seed{'s' * (len(each) > 1)} {', '.join(each)}"
        if side.folds:
            folds = f"fold{'s' * (len(side.folds) > 1)} {', '.join(map(str, side.folds))}"
            seeds = f"{folds} of {side.runs[0].settings.folds}, {seeds}"
        model = side.runs[0].settings.text("model")
        print(f"{name}  {printable(side.pattern)}  ({model} on {side.runs[0].data}, {seeds})")
        for other in side.left_out:
            print(f"   {other.name}: {other.error}")
    if [run.run.path for run in a.runs] == [run.run.path for run in b.runs]:
        print("A and B are the same.")


def _print_differences(differences: "Differences") -> None:
    from fmx.process.table import print_table

    for section, rows in differences.items():
        print()
        if rows:
            print_table([section, "A", "B"], [[_short(text) for text in row] for row in rows], num_left=3)
        else:
            print(f"{section}: no difference")


def _short(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT // 2]}…{text[-SHORT // 2 + 1 :]}"


def _print_accuracy(a: "Side", b: "Side", accuracy: "Accuracy") -> None:
    from fmx.reporting.comparison import outcome_counts

    low, high = accuracy.interval
    both, only_a, only_b, neither = outcome_counts(a.verdicts, b.verdicts)
    total = both + only_a + only_b + neither
    print(f"\ntest accuracy: A {100 * accuracy.a:.2f} %, B {100 * accuracy.b:.2f} %, of {total:,} images")
    print(f"B − A: {100 * accuracy.difference:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f} "
          f"({accuracy.interval_method})")  # fmt: skip
    p = f"p = {accuracy.p_value:.3g}" if accuracy.p_value else f"p < {sys.float_info.min:.0e}"  # the smallest float
    print(f"{p} ({accuracy.test})" if accuracy.test else p)
    print(" ".join([_verdict(a, b, accuracy), *accuracy.cautions]))
    for name, side in (("A", a), ("B", b)):
        if any(run.on_test for run in side.runs):
            print(f"{name} was validated on the test set, which flatters its accuracy.")
    right = "right" if len(a.runs) == 1 else "right in most of its runs"
    print(f"\nA alone is {right} on {only_a:,} images, B alone on {only_b:,}; both on {both:,}, neither on {neither:,}")


def _print_folds(a: "Side", b: "Side") -> None:
    """Print the validation accuracies of the folds that both sides held out, and the test of their differences."""
    from fmx.process.table import print_table
    from fmx.reporting.comparison import by_fold
    from fmx.reporting.intervals import corrected_t

    rows = by_fold(a, b)
    if len(rows) < 2:  # noqa: PLR2004
        return
    print()
    cells = [
        [str(row.fold), f"{100 * row.a:.2f}", f"{100 * row.b:.2f}", f"{100 * (row.b - row.a):+.2f}"] for row in rows
    ]
    print_table(["fold", "A val %", "B val %", "B − A"], cells)
    found = corrected_t([row.b - row.a for row in rows], a.num_folds)
    low, high = (100 * end for end in found.interval)
    print(f"validation accuracy, B − A: {100 * found.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}, "
          f"p = {found.p_value:.3g} (Student's t over folds, corrected for common training images)")  # fmt: skip


def _verdict(a: "Side", b: "Side", accuracy: "Accuracy") -> str:
    import numpy as np

    pairs = zip(a.predictions, b.predictions, strict=False)
    if len(a.runs) == len(b.runs) and all(np.array_equal(x.predicted, y.predicted) for x, y in pairs):
        return "No difference: both predict the same class for every image."
    if accuracy.p_value >= SIGNIFICANT:
        return f"No significant difference at the {100 * SIGNIFICANT:.0f} % level."
    better, worse = ("B", "A") if accuracy.difference > 0 else ("A", "B")
    return f"{better} is better than {worse} at the {100 * SIGNIFICANT:.0f} % level."


def _print_classes(a: "Side", b: "Side") -> None:
    """Print the classes and indices of the images that exactly one side classifies correctly."""
    from dataclasses import astuple

    from fmx.process.table import print_table
    from fmx.reporting.comparison import by_class, disagreements

    rows = [row for row in by_class(a, b) if row.only_a or row.only_b]
    if not rows:
        return
    print()
    cells = [[name, *(f"{count:,}" for count in counts)] for name, *counts in map(astuple, rows)]
    print_table(["class", "images", "A right", "B right", "A alone", "B alone"], cells)
    print()
    for name, indices in zip("AB", disagreements(a, b), strict=True):
        listed = ", ".join(map(str, indices[:MAX_LISTED])) + (", … (all: --json)" if len(indices) > MAX_LISTED else "")
        print(f"{name} alone is right on the test images: {listed or 'none'}")


def _write_json(
    file: Path, a: "Side", b: "Side", differences: "Differences", accuracy: "Accuracy", *, force: bool
) -> None:
    import json
    from dataclasses import asdict

    from fmx.reporting.comparison import by_class, by_fold, disagreements, outcome_counts
    from fmx.runs.new_file import new_file

    only_a, only_b = disagreements(a, b)
    counts = zip(("both", "only_a", "only_b", "neither"), outcome_counts(a.verdicts, b.verdicts), strict=True)
    contents: dict[str, Any] = {
        side_name: {"runs": [str(run.run.path) for run in side.runs], "seeds": [run.seed for run in side.runs],
                    "folds": [run.settings.fold for run in side.runs if side.folds], "test_accuracy": side.accuracies}
        for side_name, side in (("a", a), ("b", b))
    }  # fmt: skip
    contents |= {
        "differences": {
            section: {name: {"a": of_a, "b": of_b} for name, of_a, of_b in rows}
            for section, rows in differences.items()
        },
        "test_accuracy": asdict(accuracy) | {"interval": list(accuracy.interval)},
        "images_right": dict(counts),
        "changed_sides": {"only_a": only_a, "only_b": only_b},
        "classes": [asdict(row) for row in by_class(a, b)],
        "folds": [asdict(row) for row in by_fold(a, b)],
    }
    with new_file(file, force=force) as temporary:
        temporary.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(file)


def _draw_grid(file: Path, a: "Side", b: "Side", *, force: bool, allow: Sequence[str], root: str | None) -> None:
    """Draw the images from the data set; DataError where it is missing or has changed."""
    from fmx.errors import DataError, FmxError
    from fmx.reporting.comparison import disagreements

    if not any(disagreements(a, b)):
        print("no grid: no image changed sides")
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from omegaconf.errors import OmegaConfBaseException

    from fmx.reporting.figures.changed_sides import changed_sides
    from fmx.reporting.figures.fonts import drawable
    from fmx.runs.ensemble import is_ensemble, open_members
    from fmx.runs.new_file import new_file
    from fmx.runs.trusted_config import trusted_config
    from fmx.training.restore import restore_data

    run, predictions = a.runs[0], a.predictions[0]
    try:
        first = open_members(run.run.path)[0] if is_ensemble(run.run.path) else run.run
        data = restore_data(trusted_config(first, allow, root=root, trains=False))
    except (FmxError, OmegaConfBaseException) as error:
        raise DataError(f"no grid was drawn, for the images are not at hand: {error}") from error
    if not data.has_fingerprint(run.data_fingerprint):
        raise DataError(f"no grid was drawn: the data set at {data.root} is not the one that the runs were tested on")
    names = drawable(data.class_names, data.english_names)
    verdicts = (a.verdicts, b.verdicts)
    figure = changed_sides(data.pictures("test"), predictions.indices, predictions.labels, verdicts, names)
    FigureCanvasAgg(figure)
    with new_file(file, force=force) as temporary:
        figure.savefig(temporary, format="png")
    print(file)


if __name__ == "__main__":
    as_command(main)
