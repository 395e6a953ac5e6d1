"""The leaderboard of a sweep as files in its directory."""

from pathlib import Path

from fmx.reporting.leaderboard import leaderboard
from fmx.reporting.outcomes import KnownOutcomes

__all__ = ["write_leaderboard"]


def write_leaderboard(sweep_dir: Path, known: KnownOutcomes | None = None) -> None:
    """Write leaderboard.csv, .md and .html of all runs below a sweep directory, each atomically.

    known: outcomes of earlier calls, without which it takes some milliseconds per run. DataError if a file cannot be
    written.
    """
    from fmx.reporting.html_report import html_report
    from fmx.reporting.leaderboard_text import to_csv, to_markdown
    from fmx.runs.new_file import new_file

    folders = [record.parent for record in sorted(sweep_dir.rglob("run.json"))]
    board = leaderboard(folders, below=sweep_dir, known=known)
    for suffix, write in {"csv": to_csv, "md": to_markdown, "html": html_report}.items():
        with new_file(sweep_dir / f"leaderboard.{suffix}", force=True) as file:
            file.write_text(write(board), encoding="utf-8", newline="\n")
