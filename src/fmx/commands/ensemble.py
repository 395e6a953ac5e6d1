"""`fmx ensemble`: the mean probability of several runs, scored like a run."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fmx.commands.verb_parser import VerbParser
from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError
from fmx.process.exits import plain_exits
from fmx.process.start import as_command

if TYPE_CHECKING:
    from fmx.reporting.ensemble import Ensemble, Gain

__all__ = ["main", "make_parser"]

DESCRIPTION = """\
The mean probability of several runs on the same data, scored like a run, in a directory of its own, which
`predict`, `evaluate`, `report`, `compare` and `export` open.

--top K takes the K runs with the best validation accuracy; test accuracies choose nothing. Without it all runs are
members. The members' stored predictions of the test set are combined, so that it is not touched again. The directory
names its members with the SHA-256 sums of their weights, and does not copy them: what is gone or has changed is said.
Members may differ in model, size of images, channels and normalisation, but not in the test images and the classes.
"""
EXAMPLES = """\
examples:
  fmx ensemble outputs/sweeps/2026-03-01_10-00-00_ab12cd --top 5
  fmx ensemble RUN_A RUN_B RUN_C --out outputs/ensembles/three
  fmx predict outputs/ensembles/three shoe.png
"""
ON_TEST = "†"


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser("ensemble", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN|SWEEP", help="run directories, sweeps, globs")
    parser.add_argument("--top", type=_count, metavar="K", help="choose the K best on validation (all)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="(outputs/ensembles/<stamp>_<number>_<data>)")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="trust code the runs name")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 2")
    return int(text)


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    arguments = make_parser().parse_intermixed_args()
    with plain_exits():
        ensemble(arguments)


def ensemble(args: argparse.Namespace) -> None:
    """Choose the members, score the ensemble, print the result and write its directory."""
    if args.out is not None and args.out.exists():
        raise ConfigError(f"{args.out} exists; name another folder with --out")

    from fmx.process.table import printable
    from fmx.reporting.ensemble import make_ensemble, write_ensemble

    made = make_ensemble(args.runs, top=args.top, allow=args.allow)
    for other in made.left_out:
        print(f"left out: {printable(other.name)}: {printable(other.error or other.status)}", file=sys.stderr)
    folder = write_ensemble(made, args.out, command=printed_command("fmx", "ensemble", *sys.argv[1:]))
    _print(made)
    print(folder)


def _print(made: "Ensemble") -> None:
    from fmx.process.table import print_lines, print_table
    from fmx.reporting.intervals import wilson

    chosen = f"the {len(made.members)} of {made.candidates} runs with the best validation accuracy"
    print(f"{made.model} on {made.signature.data}: {chosen if made.chosen else f'all {made.candidates} runs'}")
    rows = [
        [each.name, each.seed, _percent(each.val_accuracy) + (ON_TEST if each.on_test else ""),
         _percent(each.test_accuracy)]
        for each in made.members
    ]  # fmt: skip
    rows.append(["ensemble", "", _percent((made.metrics["val"] or {}).get("accuracy")),
                 _percent(made.metrics["test"]["accuracy"])])  # fmt: skip
    print_table(["", "seed", "val accuracy %", "test accuracy %"], rows)
    test, num = made.metrics["test"], len(made.predictions.labels)
    low, high = wilson(test["accuracy"] * num, num)
    ece_low, ece_high = made.reliability.ece_interval
    lines = [
        _interval("test accuracy", test["accuracy"], low, high, f"Wilson's, of this ensemble on {num:,} images"),
        _interval(f"NLL {test['loss']:.4f}, ECE", made.reliability.ece, ece_low, ece_high, "bootstrap"),
        *map(_gain, made.gains),
        *(f"note: {note}" for note in made.notes),
    ]
    if any(each.on_test for each in made.members):
        lines.append(f"{ON_TEST} validated on the test set, which flatters")
    print_lines(lines)


def _interval(name: str, share: float, low: float, high: float, method: str) -> str:
    return f"{name} {_percent(share)} %, 95 % interval {_percent(low)} to {_percent(high)} ({method})"


def _gain(gain: "Gain") -> str:
    interval = ""
    if gain.interval is not None:
        low, high = gain.interval
        interval = f", 95 % interval {100 * low:+.2f} to {100 * high:+.2f} ({gain.method})"
    p = "" if gain.p_value is None else f", p = {gain.p_value:.3g} (McNemar's exact test)"
    return f"{100 * gain.difference:+.2f} points over {gain.over} ({_percent(gain.accuracy)} %){interval}{p}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


if __name__ == "__main__":
    as_command(main)
