"""Disk space: of a sweep's completed runs, only the best keep their checkpoints where the user wants it so."""

from fmx.sweep.display import validation_accuracy
from fmx.sweep.ledger import Ledger

__all__ = ["keep_best"]


def keep_best(ledger: Ledger, count: int | None) -> None:
    """Delete the checkpoints of all completed jobs but the `count` best by validation accuracy; None keeps all.

    A job that is not completed keeps its own: it needs them to go on.
    """
    if count is None:
        return
    completed = [ledger.job(entry) for entry in ledger.entries.values() if entry.status == "completed"]
    ranked = sorted(completed, key=lambda job: -(validation_accuracy(job.run_dir) or 0.0))
    for job in ranked[count:]:
        for path in (job.run_dir / "checkpoints").glob("*"):
            path.unlink(missing_ok=True)
