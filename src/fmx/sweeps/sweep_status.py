"""The state of a sweep, from its ledger, its run directories and SLURM's queue; nothing is written."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from hydra.core.utils import filter_overrides

from fmx.config.printed_command import printed_command
from fmx.errors import DataError
from fmx.process.lock import LOCK, is_locked
from fmx.process.table import printable
from fmx.runs.record import present_fingerprint
from fmx.runs.run_dir import Run, open_run
from fmx.sweeps import slurm_queue as queue
from fmx.sweeps.display import shared_overrides, validation_accuracy
from fmx.sweeps.gate import packages_of
from fmx.sweeps.job_status import JobStatus, Status, estimate, run_state
from fmx.sweeps.ledger import LEDGER, Entry, Ledger

__all__ = ["command_is_alive", "job_of_sweep", "sweep_status"]

VAL = "val/accuracy"


def command_is_alive(sweep_dir: Path) -> bool | None:
    """Whether a command holds the lock of a sweep directory; None on a file system without locks."""
    return is_locked(sweep_dir) if (sweep_dir / LOCK).is_file() else False


def sweep_status(sweep_dir: Path) -> Status:
    """The state of a sweep with a ledger; DataError where that cannot be read."""
    ledger = Ledger.as_written(sweep_dir)
    alive = command_is_alive(sweep_dir)
    on_cluster = ledger.settings.get("launcher") == "slurm"
    places, notes = _places(ledger) if on_cluster else ({}, [])
    shared = shared_overrides(entry.overrides for entry in ledger.entries.values())
    jobs = [_job(ledger, entry, shared, alive=alive, places=places) for _, entry in sorted(ledger.entries.items())]
    num_running = sum(job.state == "running" for job in jobs)
    workers = ledger.settings.get("workers")
    num_parallel = num_running if on_cluster or not isinstance(workers, int) else workers
    left_s, left_from = estimate(jobs, num_parallel=num_parallel)
    best, names = _best(jobs)
    is_done = all(job.state == "completed" for job in jobs)
    goes_on = not is_done and not alive
    if goes_on and (packages := _untrusted(ledger, jobs)):
        notes = [*notes, f"going on needs {printed_command(*packages)} too, if you trust what that is"]
    where = "on SLURM" if on_cluster else "on one machine"
    return Status(
        path=sweep_dir,
        kind="sweep",
        title=f"sweep of {len(jobs)} job{'s' if len(jobs) != 1 else ''} {where}",
        jobs=jobs,
        is_alive=alive,
        best=best,
        best_jobs=names,
        left_s=left_s,
        left_from=left_from,
        notes=notes,
        go_on=printed_command("fmx", "run", "--resume-sweep", str(sweep_dir)) if goes_on else None,
    )


def _untrusted(ledger: Ledger, jobs: Iterable[JobStatus]) -> list[str]:
    """The options of --resume-sweep that say that a user trusts what the jobs name besides fmx's own parts."""
    left = [ledger.job(ledger.entries[int(job.name)]) for job in jobs if job.state != "completed"]
    script = {"setup"} if any(ledger.settings.get(key) for key in ("setup", "additional_parameters")) else set[str]()
    return [word for each in sorted(packages_of(left) | script) for word in ("--allow", each)]


def job_of_sweep(run: Run) -> JobStatus | None:
    """The state of a run that is a job of a sweep; None for any other."""
    if not (run.path.parent / LEDGER).is_file() or not run.path.name.isdecimal():
        return None
    try:
        ledger = Ledger.as_written(run.path.parent)
    except DataError:
        return None
    entry = ledger.entries.pop(int(run.path.name), None)
    if entry is None:
        return None
    ledger.entries = {entry.number: entry}
    places, _ = _places(ledger) if ledger.settings.get("launcher") == "slurm" else ({}, [])
    return _job(ledger, entry, set(), alive=command_is_alive(run.path.parent), places=places)


def _places(ledger: Ledger) -> tuple[Mapping[str, queue.Place] | None, list[str]]:
    """Where the submitted jobs are by SLURM's job ID, None if SLURM does not answer; and what to say of it."""
    submitted = [entry.slurm_job for entry in ledger.entries.values() if entry.slurm_job]
    places = queue.places(submitted, queue.slurm_folder(ledger.sweep_dir))
    return places, [queue.SILENT] if places is None else []


def _job(
    ledger: Ledger,
    entry: Entry,
    shared: set[str],
    *,
    alive: bool | None,
    places: Mapping[str, queue.Place] | None,
) -> JobStatus:
    what = " ".join(each for each in filter_overrides(entry.overrides) if each not in shared)
    what = what or " ".join(filter_overrides(entry.overrides)) or "(defaults)"
    name, run_dir = str(entry.number), ledger.sweep_dir / str(entry.number)
    place = (places or {}).get(entry.slurm_job or "")
    slurm = {"slurm_job": entry.slurm_job, "place": place}
    try:
        run = open_run(run_dir, finished=False)
    except OSError as error:  # a folder that is not for us
        return JobStatus(name, "unreadable", what, error.strerror, **slurm)  # type: ignore[arg-type]
    except DataError as error:
        if (run_dir / "run.json").is_file():
            return JobStatus(name, "unreadable", what, printable(error), **slurm)  # type: ignore[arg-type]
        run = None
    fingerprint = present_fingerprint(entry.fingerprint, run_dir)
    if run and present_fingerprint(run.record.get("config_fingerprint"), run_dir) != fingerprint:
        run = None  # a run of another configuration, which is no job of this sweep
    queued = {queue.PENDING: "queued", queue.RUNNING: "running"}.get(place.state) if place else None
    if run and (run.status == "completed" or queued is None):
        more = {} if entry.seconds is None or run.status != "completed" else {"seconds": entry.seconds}
        accuracy = validation_accuracy(run_dir) if run.status == "completed" else None
        return run_state(run, name, what, values={} if accuracy is None else {VAL: accuracy}, **slurm, **more)
    if run and queued:
        return run_state(run, name, what, **slurm, state=queued, error=None)
    if queued:
        return JobStatus(name, queued, what, **slurm)  # type: ignore[arg-type]
    state, why = _without_run(entry, place, alive=alive, is_known=places is not None)
    return JobStatus(name, state, what, why, **slurm)  # type: ignore[arg-type]


def _without_run(
    entry: Entry, place: queue.Place | None, *, alive: bool | None, is_known: bool
) -> tuple[str, str | None]:
    """The state and the error of a job that has no run directory and is not in SLURM's queue."""
    if entry.status == "failed":
        return "failed", entry.error
    if entry.slurm_job and is_known and place:
        return "failed", f"SLURM ended its job {entry.slurm_job} ({place.state.lower()})"
    if entry.slurm_job and is_known and not alive:
        return "not started", f"SLURM has forgotten its job {entry.slurm_job}"
    return "not started" if alive is False and not (entry.slurm_job and not is_known) else "queued", None


def _best(jobs: list[JobStatus]) -> tuple[str, list[str]]:
    """The completed job with the best validation accuracy so far, in words, and its name."""
    ranked = [job for job in jobs if VAL in job.values]
    if not ranked:
        return "", []
    best = max(ranked, key=lambda job: job.values[VAL])
    return f"val {best.values[VAL]:.2%} (#{best.name} {best.what})", [best.name]
