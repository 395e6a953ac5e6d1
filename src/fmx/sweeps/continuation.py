"""`--resume-sweep`: run the jobs of an earlier sweep that did not complete."""

from collections.abc import Collection
from pathlib import Path

from fmx.errors import ConfigError, DataError
from fmx.process import detach, dry_run
from fmx.runs.run_dir import check_latest
from fmx.sweeps.disk import jobs_in_words
from fmx.sweeps.ending import call_recorded_callbacks
from fmx.sweeps.ledger import LEDGER, Ledger
from fmx.sweeps.local import Sweep, checked_fingerprint, lock_unless_dry_run
from fmx.sweeps.pool import Ended
from fmx.sweeps.settings import MAX_WORKERS, check_settings
from fmx.sweeps.warm import warm_up

__all__ = ["check_earlier_settings", "continue_sweep"]


def continue_sweep(sweep_dir: Path, allow: Collection[str] = (), root: str | None = None) -> list[Ended]:
    """Run the jobs of an earlier sweep that did not complete, from their frozen configurations.

    allow: packages that the user trusts besides fmx's own, as in gate.check_job; DataError for any other.
    root: the present folder of the data, if it has moved.
    """
    from fmx.sweeps.gate import check_sweep_dir

    check_latest(sweep_dir)
    sweep_dir = sweep_dir.resolve()  # outputs/latest may point elsewhere later
    if (sweep_dir / LEDGER).is_file():  # otherwise Ledger.read says what is wrong
        check_sweep_dir(sweep_dir)
        lock_unless_dry_run(sweep_dir)
    ledger = Ledger.read(sweep_dir)
    on_cluster = ledger.settings.get("launcher") == "slurm"
    check_earlier_settings(ledger, allow)
    for entry in ledger.entries.values():
        if entry.status != "completed":
            present = checked_fingerprint(ledger.job(entry), allow, root)
            if entry.status == "waiting":  # earlier versions counted data.root in fingerprints
                entry.fingerprint = present
                entry.status = ledger.status(entry)
    if on_cluster:
        from fmx.sweeps.slurm import ClusterSweep

        sweep: Sweep = ClusterSweep(ledger, allow)
    else:
        detach.refuse("the jobs of a sweep on one machine")
        warm_up()
        sweep = Sweep(ledger, allow)
    numbers = list(ledger.entries)
    disk = jobs_in_words(ledger, [number for number, entry in ledger.entries.items() if entry.status != "completed"])
    if dry_run.is_asked():
        sweep.preview(numbers, disk=disk)
        return []
    with call_recorded_callbacks(ledger, allow):
        return sweep.run_all(numbers, disk=disk)


def check_earlier_settings(ledger: Ledger, allow: Collection[str]) -> None:
    """DataError for settings of an earlier sweep that are invalid, or that hold shell lines the user does not trust."""
    settings, path = ledger.settings, ledger.sweep_dir / LEDGER
    settings.setdefault("fail_fast", False)  # absent from ledgers of earlier versions
    keep, num_data = settings.get("keep_checkpoints"), settings.get("num_data_sets")
    if num_data is not None and (type(num_data) is not int or not 0 < num_data <= len(ledger.entries)):
        raise DataError(f"{path}: num_data_sets must be the number of its jobs' data sets, got {num_data!r}")
    if keep is not None and (type(keep) is not int or keep < 0):
        raise DataError(f"{path}: sweep.keep_checkpoints must be a whole number of at least 0 or null, got {keep!r}")
    try:
        if settings.get("launcher") == "slurm":
            from fmx.sweeps.slurm import check_foreign_settings

            check_foreign_settings(settings, path, allow)
            return
        check_settings(settings)
    except KeyError as error:
        raise DataError(f"{path} does not say {error} of its launcher") from None
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from None
    if (settings["workers"] or 0) > MAX_WORKERS or (settings["threads"] or 0) > MAX_WORKERS:
        raise DataError(f"{path}: hydra.launcher.workers and threads must be at most {MAX_WORKERS:,}")
