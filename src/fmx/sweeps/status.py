"""The state of what a directory holds: a sweep, a search, a single run, or a folder of these; nothing is written."""

import os
from collections.abc import Iterator
from pathlib import Path

from fmx.config.printed_command import printed_command
from fmx.errors import DataError
from fmx.process.table import printable
from fmx.runs.command_again import command_to_resume
from fmx.runs.run_dir import check_latest, open_run
from fmx.sweeps.job_status import JobStatus, Status, estimate, run_state
from fmx.sweeps.ledger import JOURNAL, LEDGER
from fmx.sweeps.sweep_status import command_is_alive, job_of_sweep, sweep_status

__all__ = ["found_below", "latest_sweep", "read_status"]

DEPTH = 4  # of folders in which sweeps and runs are looked for
PREPARED = "multirun.yaml"  # Hydra's and fmx's, before the first job
OUTPUTS = Path("outputs")


def latest_sweep() -> Path:
    """The sweep or search of outputs/ that was at work last, else the newest run; DataError where there is none."""
    sweeps = [each for each in found_below(OUTPUTS / "sweeps") if (each / LEDGER).is_file() or _is_search(each)]
    if sweeps:
        return max(sweeps, key=_last_change)
    if (OUTPUTS / "latest").exists():
        return OUTPUTS / "latest"
    raise DataError(
        f"there is no sweep in {Path.cwd() / OUTPUTS}: name the directory of a sweep, a search or a run, as in "
        f"`{printed_command('fmx', 'status', 'outputs/sweeps/SWEEP')}`"
    )


def _last_change(sweep_dir: Path) -> float:
    files = (sweep_dir / name for name in (LEDGER, JOURNAL))
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


def _is_search(folder: Path) -> bool:
    return (folder / JOURNAL).is_file()


def found_below(folder: Path, depth: int = DEPTH) -> list[Path]:
    """The directories of sweeps, searches and single runs below a folder, the folder itself included; sorted."""
    names = {LEDGER, JOURNAL, "run.json"}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # not there, or not for us
        return []
    if any(entry.name in names for entry in entries):
        return [folder]
    below = [entry for entry in entries if depth and entry.is_dir(follow_symlinks=False)]
    return [found for entry in below for found in found_below(folder / entry.name, depth - 1)]


def read_status(path: Path) -> Status:
    """The state of a sweep, a search, a run, or a folder of runs; DataError where a directory holds none of these."""
    if not path.exists():
        raise DataError(f"{path} does not exist; sweeps are in outputs/sweeps/, runs in outputs/runs/")
    check_latest(path)
    folder = path.resolve()  # outputs/latest may point elsewhere later
    if (folder / LEDGER).is_file():
        return sweep_status(folder)
    if _is_search(folder):
        from fmx.sweeps.search.options import require_optuna

        require_optuna()
        from fmx.sweeps.search.study_status import search_status

        return search_status(folder)
    if (folder / "run.json").is_file():
        return _run_status(folder)
    return _folder_status(folder)


def _run_status(run_dir: Path) -> Status:
    run = open_run(run_dir, finished=False)
    job = job_of_sweep(run) or run_state(run, run_dir.name, _what(run.record.get("overrides")))
    left_s, why_none = estimate([job], num_parallel=1)
    device = run.record.get("device")
    processes = device.get("processes") if isinstance(device, dict) else None
    several = f" in {processes} processes" if isinstance(processes, int) and processes > 1 else ""
    whole = run_dir.parent if any((run_dir.parent / name).is_file() for name in (LEDGER, JOURNAL)) else None
    resumes = job.state == "interrupted" and whole is None
    return Status(
        path=run_dir,
        kind="run",
        title=f"run{several}{f', a job of {whole}' if whole else ''}",
        jobs=[job],
        is_alive=job.state == "running",
        left_s=left_s,
        left_from=why_none if left_s is None else "from the epochs so far",
        go_on=command_to_resume(run) if resumes else None,
    )


def _what(overrides: object) -> str:
    return printable(" ".join(map(str, overrides))) if isinstance(overrides, list) else ""


def _folder_status(folder: Path) -> Status:
    """The state of several runs without a ledger; DataError where there is none, or where there are sweeps."""
    found = found_below(folder)
    if not found:
        if (folder / PREPARED).is_file():
            return Status(folder, "sweep", "sweep that is being prepared", [], command_is_alive(folder))
        raise DataError(f"{folder} holds no sweep, search or run; sweeps are in outputs/sweeps/, runs in outputs/runs/")
    jobs = [*_jobs(folder, found)]
    num_running = sum(job.state == "running" for job in jobs)
    left_s, left_from = estimate(jobs, num_parallel=num_running)
    title = "folder of runs and sweeps"
    return Status(folder, "folder", title, jobs, None, left_s=left_s, left_from=left_from)


def _jobs(folder: Path, found: list[Path]) -> Iterator[JobStatus]:
    for each in found:
        name = printable(each.relative_to(folder))
        try:
            if (each / "run.json").is_file():
                run = open_run(each, finished=False)
                yield run_state(run, name, _what(run.record.get("overrides")))
            else:
                yield _as_one(name, read_status(each))
        except (DataError, OSError) as error:
            yield JobStatus(name, "unreadable", error=printable(error))


def _as_one(name: str, status: Status) -> JobStatus:
    """A whole sweep as one row of a folder."""
    counts = status.counts
    state = next(
        (each for each in ("running", "queued", "not started", "interrupted", "failed") if counts.get(each)),
        "completed",
    )
    if status.is_alive and state != "queued":
        state = "running"
    best = f" · best {status.best}" if status.best else ""
    return JobStatus(name, state, f"{status.title}: {status.headline}{best}")
