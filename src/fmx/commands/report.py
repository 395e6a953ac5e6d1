"""`fmx report`: a leaderboard of runs and sweeps, on the terminal and as files."""

from collections.abc import Callable
from pathlib import Path

from fmx.commands.verb_parser import VerbParser
from fmx.process.exits import plain_exits
from fmx.process.start import as_command

__all__ = ["main", "make_parser"]

EXAMPLES = """\
examples:
  fmx report outputs/sweeps/2026-03-01_10-00-00_ab12cd
  fmx report outputs/runs 'outputs/sweeps/2026-*' --html report.html
  fmx report outputs --csv table.csv --md table.md --latex table.tex
  fmx report outputs --without pairs.csv     also without the test images that are among the training images

A row is a configuration without its seed. Rows are ranked by mean validation accuracy, separately for each data set;
test accuracy does not affect the ranking. A row of several commits, versions, devices or precisions is marked (mixed).
"""


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser(
        "report",
        description="A leaderboard of runs and sweeps, with means, spreads and 95 % intervals over seeds.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="DIR", help="run directories, sweeps, folders that hold them, or globs"
    )
    parser.add_argument(
        "--html", type=Path, metavar="F", help="write one page that works offline: table, curves, pictures"
    )
    parser.add_argument("--csv", type=Path, metavar="F", help="write the table with full precision, for scripts")
    parser.add_argument("--md", type=Path, metavar="F", help="write the table as Markdown")
    parser.add_argument("--latex", type=Path, metavar="F", help="write the table as a LaTeX tabular (booktabs)")
    parser.add_argument("--without", type=Path, metavar="F.csv", help="give test accuracy also without the test images "
                        "that this list of duplicates pairs with training images")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    return parser


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    arguments = make_parser().parse_args()
    files = {kind: file for kind in ("html", "csv", "md", "latex") if (file := getattr(arguments, kind))}
    with plain_exits():
        report(arguments.runs, files, force=arguments.force, without=arguments.without)


def report(patterns: list[str], files: dict[str, Path], *, force: bool, without: Path | None = None) -> None:
    """Print the leaderboard of the runs that folders and globs name, and write it to files.

    files: paths by kind: html, csv, md, latex. without: a list of pairs, whose test images are left out of a second
    test accuracy. Raises ConfigError where a file exists without `force`, DataError where there is no completed run, or
    the list is of other data than all of them.
    """
    from fmx.data.paired_test_images import read_paired_test_images
    from fmx.errors import DataError
    from fmx.process.table import printable
    from fmx.reporting.html_report import html_report
    from fmx.reporting.leaderboard import leaderboard
    from fmx.reporting.leaderboard_terminal import print_leaderboard
    from fmx.reporting.leaderboard_text import to_csv, to_latex, to_markdown
    from fmx.runs.new_file import new_file, refuse_existing
    from fmx.runs.run_dir import find_runs

    for file in files.values():
        refuse_existing(file, force=force)
    duplicates = None if without is None else read_paired_test_images(without)
    board = leaderboard(find_runs(patterns), duplicates=duplicates)
    if duplicates and board.rows and all(row.data[1] != duplicates.fingerprint for row in board.rows):
        name, fingerprint = board.rows[0].data
        raise DataError(
            f"{without} is of a data set with the fingerprint {printable(duplicates.fingerprint)[:40]}, and the runs "
            f"were tested on {name} with {fingerprint or 'an unknown one'}"
        )
    print_leaderboard(board)
    if not board.rows:
        raise DataError("none of these runs has completed, so there is nothing to rank")
    writers: dict[str, Callable[..., str]] = {"html": html_report, "csv": to_csv, "md": to_markdown, "latex": to_latex}
    for kind, file in files.items():
        with new_file(file, force=force) as temporary:
            temporary.write_text(writers[kind](board), encoding="utf-8", newline="\n")
        print(file)


if __name__ == "__main__":
    as_command(main)
