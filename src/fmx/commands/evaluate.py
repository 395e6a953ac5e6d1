"""`fmx evaluate`: score finished runs again, from their directories alone."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmx.commands.verb_parser import VerbParser
from fmx.errors import DataError
from fmx.process.exits import plain_exits, plain_message
from fmx.process.start import as_command, is_own_process

if TYPE_CHECKING:
    from fmx.inference.rescoring import Evaluation

__all__ = ["main", "make_parser"]

DESCRIPTION = """\
Score finished runs again, from their directories alone, and say whether the metrics equal those of
metrics.json, to the last digit where nothing has changed. Several runs, sweeps or globs make a table. Nothing
is written into a run directory, but with --calibration: calibration.json and figures/reliability.png, which hold the
expected calibration error (ECE) and a temperature that is fitted on the validation images, for predict and export.

--data NAME scores the test set of another data group of the same shape and number of classes; the run's class
names and normalisation stay. --set changes keys of the data, such as the folder that it has moved to. A run that
cannot be scored is named and left out; the exit code is then 1, and also where figures differ from the run's own.
Trials that a search pruned are counted and left out, and do not change the exit code.
"""
EXAMPLES = """\
examples:
  fmx evaluate outputs/latest
  fmx evaluate outputs/runs/* --csv scores.csv
  fmx evaluate outputs/latest --calibration
  fmx evaluate outputs/latest --checkpoint last
  fmx evaluate outputs/latest --set data.root=/mnt/datasets
  fmx evaluate outputs/latest --data fashion_mnist_csv --set data.root=kaggle
"""
ON_TEST = "†"
METRICS = ["accuracy", "loss", "macro_f1"]


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    with plain_exits():
        sys.exit(evaluate(_arguments()))


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser("evaluate", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directories, sweeps, globs, and data.root=DIR (as --set)"
    )
    parser.add_argument("--data", metavar="NAME", help="score this data group's test set instead")
    parser.add_argument("--set", action="append", default=[], metavar="data.KEY=VALUE", help="change a key of the data")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder with data groups of your own")
    parser.add_argument("--checkpoint", metavar="best|last|FILE", help="other weights than those that were tested")
    parser.add_argument(
        "--calibration", action="store_true", help="measure the calibration, and fit and keep a temperature"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all metrics")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row per run")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="trust code the runs name")
    return parser


def _arguments() -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_intermixed_args()
    roots = [word for word in args.runs if word.startswith("data.root=")]
    args.runs, args.set = [word for word in args.runs if word not in roots], args.set + roots
    if not args.runs:
        parser.error("the following arguments are required: RUN")
    if args.config_dir is not None and args.data is None:
        parser.error("--config-dir is for --data NAME")
    if args.calibration and (args.data or args.checkpoint):
        extra = "--data" if args.data else "--checkpoint"
        parser.error(f"--calibration is of a run's own images and tested weights: leave out {extra}")
    return args


def evaluate(args: argparse.Namespace) -> int:
    """Score the runs, print the results and write the files.

    Returns 1 where a run could not be scored, or its figures differ from those that it recorded, else 0.
    """
    from fmx.runs.new_file import refuse_existing
    from fmx.runs.run_dir import find_runs

    for path in filter(None, [args.json, args.csv]):
        refuse_existing(path, force=args.force)
    runs = find_runs(args.runs)

    from fmx.inference.other_data import parse_changes
    from fmx.inference.rescoring import Request, reevaluate

    _set_up_process()
    request = Request(
        checkpoint=args.checkpoint,
        data=args.data,
        changes=parse_changes(args.set),
        config_dir=args.config_dir,
        allow=args.allow,
        calibration=args.calibration,
    )
    evaluations, refusals = [], []
    pruned = [run for run in runs if _is_pruned(run)] if len(runs) > 1 else []
    if len(pruned) == len(runs):
        raise DataError(f"all {len(runs)} runs were pruned by a search: there is nothing to score")
    for run in (each for each in runs if each not in pruned):
        try:
            evaluations.append(evaluation := reevaluate(run, request))
            _keep(evaluation, run)
        except DataError as error:
            named = str(error).startswith((f"{run}:", f"{run}/", f"{run} "))
            refusals.append(error if named else DataError(f"{run}: {error}"))
    if not evaluations and len(refusals) == 1:
        raise refusals[0]
    _print(evaluations)
    left_out = [f"{len(pruned)} of {len(runs)} runs, which a search pruned"] if pruned else []
    for each in [*left_out, *map(plain_message, refusals)]:
        print(f"left out: {each}", file=sys.stderr)
    if args.json is not None:
        _write_json(evaluations, args)
    if args.csv is not None:
        _write_csv(evaluations, args)
    return 1 if refusals or any(evaluation.differs for evaluation in evaluations) else 0


def _set_up_process() -> None:
    from fmx.training.hardware import keep_freed_memory

    if is_own_process():  # it cannot be undone
        keep_freed_memory()


def _is_pruned(path: Path) -> bool:
    from fmx.runs.run_dir import open_run

    try:
        return open_run(path, finished=False).pruned
    except DataError:  # reported when it is scored
        return False


def _print(evaluations: Sequence["Evaluation"]) -> None:
    from fmx.process.table import print_table, printable

    if len(evaluations) == 1:
        (only,) = evaluations
        print(printable(f"{only.run}: {only.data}, {_checkpoint(only)}"))
        parts = [part for part in ("val", "test") if only.figures[part]]
        cells = [dict(_cells(only.figures[part])) for part in parts]
        marks = {"val": ON_TEST if only.validated_on_test else ""}
        print_table(
            ["", *(part + marks.get(part, "") for part in parts)],
            [[name, *(cell.get(name, "") for cell in cells)] for name in cells[-1]],
        )
        print(printable(only.verdict))
    elif evaluations:
        metrics = ["val accuracy", *(f"test {name}" for name in METRICS)]
        columns = ["run", "data", "checkpoint", "metrics", *metrics]
        print_table(columns, [_row(e) for e in evaluations], num_left=4)
    for evaluation in evaluations:
        _print_calibration(evaluation)
    if any(evaluation.validated_on_test for evaluation in evaluations):
        print(f"{ON_TEST} validated on the test set, which flatters")
    for evaluation in evaluations:
        if evaluation.differs and len(evaluations) > 1:
            print(printable(f"{evaluation.run}: {evaluation.verdict}"))
        for note in evaluation.notes:
            print(printable(f"note: {evaluation.run + ': ' if len(evaluations) > 1 else ''}{note}"))


def _keep(evaluation: "Evaluation", run: Path) -> None:
    if evaluation.calibration is not None:
        from fmx.reporting.calibration_files import keep_calibration

        keep_calibration(evaluation.calibration, run)


def _print_calibration(evaluation: "Evaluation") -> None:
    """A table of the calibration on both parts, before and after, and the files that were written."""
    if evaluation.calibration is None:
        return
    from fmx.process.table import print_table, printable
    from fmx.reporting.calibration_files import calibration_rows
    from fmx.runs.calibration import CALIBRATION

    print_table(*calibration_rows(evaluation.calibration))
    print(
        f"temperature {evaluation.calibration.temperature:.4g}, fitted on {evaluation.calibration.num_val:,} "
        f"validation images: {printable(evaluation.run)}/{CALIBRATION}, figures/reliability.png; predict and export "
        "use it with --calibrated"
    )


def _row(evaluation: "Evaluation") -> list[str]:
    cells = {part: dict(_cells(evaluation.figures[part] or {})) for part in ("val", "test")}
    return [
        evaluation.run,
        evaluation.data,
        _checkpoint(evaluation),
        {True: "identical", False: "differ", None: "new"}[evaluation.identical],
        cells["val"].get("accuracy", "") + (ON_TEST if evaluation.validated_on_test else ""),
        *(cells["test"].get(name, "") for name in METRICS),
    ]


def _cells(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and formatted value of each metric, and the accuracy of each class."""
    cells = []
    for name, value in metrics.items():
        if isinstance(value, float):
            cells.append((name, f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4f}"))
        elif name == "per_class":
            cells += [
                (f"  {label}", "no images" if accuracy is None else f"{100 * accuracy:.2f} %")
                for label, accuracy in value.items()
            ]
    return cells


def _checkpoint(evaluation: "Evaluation") -> str:
    return f"{evaluation.checkpoint}.ckpt" if evaluation.checkpoint in {"best", "last"} else evaluation.checkpoint


def _write_json(evaluations: Sequence["Evaluation"], args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from fmx.runs.new_file import new_file

    with new_file(args.json, force=args.force) as temporary:
        contents = [asdict(e) for e in evaluations]
        for each in contents:
            if each["calibration"] is None:
                del each["calibration"]
        text = json.dumps(contents, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _write_csv(evaluations: Sequence["Evaluation"], args: argparse.Namespace) -> None:
    """Write one row per run, with all digits."""
    from fmx.runs.new_file import new_file

    parts = [(part, name) for part in ("val", "test") for name in METRICS]
    with (
        new_file(args.csv, force=args.force) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        header = ["run", "data", "checkpoint", "identical", "validated_on_test"]
        writer.writerow([*header, *(f"{part}/{name}" for part, name in parts)])
        for e in evaluations:
            metrics = [(e.figures[part] or {}).get(name, "") for part, name in parts]
            identical, on_test = "" if e.identical is None else e.identical, "yes" if e.validated_on_test else "no"
            writer.writerow([e.run, e.data, e.checkpoint, identical, on_test, *metrics])


if __name__ == "__main__":
    as_command(main)
