"""What a search writes besides its trials: search.json, search.md, search.html; and which checkpoints it keeps."""

from collections.abc import Callable
from pathlib import Path

from optuna.trial import TrialState

from fmx.runs.record import write_json
from fmx.sweeps.checkpoints import remove_checkpoints
from fmx.sweeps.search.heartbeat import exclusive
from fmx.sweeps.search.html_page import html_page
from fmx.sweeps.search.study import is_own
from fmx.sweeps.search.summary import Summary

__all__ = ["keep_best", "write_page", "write_summary"]


def write_summary(sweep_dir: Path, current: Callable[[], Summary]) -> None:
    """Write search.json and search.md of what `current` reads.

    It reads under the lock under which all commands of the study write: none writes what another has made out of date.
    """
    with exclusive(sweep_dir):
        summary = current()
        write_json(sweep_dir / "search.json", summary.plain())
        _write(sweep_dir / "search.md", _markdown(summary))


def write_page(sweep_dir: Path, current: Callable[[], Summary]) -> Summary:
    """Write search.html of what `current` reads, and return that; see write_summary."""
    with exclusive(sweep_dir):
        summary = current()
        _write(sweep_dir / "search.html", html_page(summary))
        return summary


def keep_best(summary: Summary, count: int | None) -> None:
    """Delete the checkpoints of completed trials except the `count` best and the Pareto front; None keeps all.

    Those of a trial with several runs that was pruned after one of them are deleted too.
    """
    if count is None:
        return
    kept = {trial.number for trial in [*summary.ranked()[:count], *summary.best]}
    for trial in summary.trials:
        if trial.state in {TrialState.COMPLETE, TrialState.PRUNED} and trial.number not in kept and is_own(trial):
            for run_dir in summary.completed_runs(trial):
                remove_checkpoints(run_dir)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _markdown(summary: Summary) -> str:
    lines = [f"# Search: {summary.options.goal}", "", f"{summary.headline()}, drawn by {summary.options.sampler}."]
    for trial in summary.best:
        values = ", ".join(f"{name} {value:.6g}" for name, value in summary.by_metric(trial.values).items())
        lines += [
            "",
            f"Trial {trial.number}: {values}{summary.spread(trial)}",
            "",
            f"    {summary.command.for_trial(trial.params)}",
        ]
    heads, rows = summary.table()
    lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
