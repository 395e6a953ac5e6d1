"""search.json, search.md and search.html: what a search came to, whole at any time."""

from pathlib import Path

from fmx.record import write_json
from fmx.search.claims import exclusive
from fmx.search.html_page import html_page
from fmx.search.study import CLAIM
from fmx.search.summary import Summary

__all__ = ["write_page", "write_summary"]


def write_summary(summary: Summary) -> None:
    """Write search.json and search.md; other commands that share the study write them too, one at a time."""
    with exclusive(summary.sweep_dir / CLAIM):
        write_json(summary.sweep_dir / "search.json", summary.plain())
        _write(summary.sweep_dir / "search.md", _markdown(summary))


def write_page(summary: Summary) -> None:
    """Write search.html."""
    page = html_page(summary)
    with exclusive(summary.sweep_dir / CLAIM):
        _write(summary.sweep_dir / "search.html", page)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _markdown(summary: Summary) -> str:
    lines = [f"# Search: {summary.options.goal}", "", f"{summary.headline()}, drawn by {summary.options.sampler}."]
    for trial in summary.best:
        figures = ", ".join(f"{name} {value:.6g}" for name, value in summary.named(trial.values).items())
        lines += ["", f"Trial {trial.number}: {figures}", "", f"    {summary.command.of(trial.params)}"]
    heads, rows = summary.table()
    lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
