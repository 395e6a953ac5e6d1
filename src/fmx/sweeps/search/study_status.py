"""The state of a search, from its study, its run directories and its commands' heartbeats; nothing is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from fmx.errors import DataError
from fmx.process.table import printable
from fmx.runs.run_dir import open_run
from fmx.runs.settings import show
from fmx.sweeps import slurm_queue as queue
from fmx.sweeps.job_status import JobStatus, Status, estimate, run_state
from fmx.sweeps.search.heartbeat import living
from fmx.sweeps.search.recorded import recorded_summary
from fmx.sweeps.search.space import by_key
from fmx.sweeps.search.study import (
    ERROR,
    OWNER,
    SETTINGS,
    SLURM_JOB,
    VALUES,
    attribute,
    is_own,
    num_given,
    origin,
    recorded_study,
    runs_per_trial,
)
from fmx.sweeps.search.summary_file import command_to_go_on, num_wanted, rank_of

__all__ = ["search_status"]

ENDED = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def search_status(sweep_dir: Path) -> Status:
    """The state of a search; DataError where its study cannot be read."""
    study = recorded_study(sweep_dir)
    metrics: list[str] = study.user_attrs[SETTINGS]["metric"]
    commands = living(sweep_dir)
    everything = study.get_trials(deepcopy=False)
    trials = [trial for trial in everything if is_own(trial)]
    num_runs = runs_per_trial(study.user_attrs[SETTINGS])
    given = [(trial, index) for trial in trials for index in range(max(1, num_given(trial)))]
    submitted = [job for trial, index in given if (job := _slurm_job(trial, index)) and trial.state not in ENDED]
    places = queue.places(submitted, queue.slurm_folder(sweep_dir))
    facts: dict[str, Any] = {"num_runs": num_runs, "sweep_dir": sweep_dir, "metrics": metrics, "commands": commands}
    jobs = [_job(trial, index, at=places or {}, **facts) for trial, index in given]
    wanted = num_wanted(sweep_dir)
    num_more = max(0, (wanted or 0) * num_runs - len(given)) if commands else 0
    num_running = sum(job.state == "running" for job in jobs)
    left_s, left_from = estimate(jobs, num_parallel=num_running, num_more=num_more)
    notes = [] if places is not None else [queue.SILENT]
    if commands and wanted is None:
        notes.append("how many trials there will be is not recorded, so the time is that of the present ones")
    if len(commands) > 1:
        notes.append(f"{len(commands)} commands share the study")
    complete = [trial for trial in everything if trial.state == TrialState.COMPLETE]
    best = study.best_trials if complete else []
    if len(metrics) == 1:
        # The mean's own interval is read where it ranks.
        best = best[:1] if rank_of(sweep_dir) == "mean" else [*recorded_summary(sweep_dir).best]
    is_done = wanted is not None and sum(trial.state in ENDED for trial in trials) >= wanted
    return Status(
        path=sweep_dir,
        kind="search",
        title=_title(len(trials), wanted, num_runs),
        jobs=jobs,
        is_alive=bool(commands),
        best=_in_words(best, metrics, num_runs),
        best_jobs=[str(trial.number * num_runs) for trial in best if is_own(trial)],
        left_s=left_s,
        left_from=left_from,
        notes=notes,
        go_on=None if commands or is_done else command_to_go_on(sweep_dir),
    )


def _slurm_job(trial: FrozenTrial, index: int) -> str | None:
    job = trial.user_attrs.get(attribute(SLURM_JOB, index))
    return job if queue.is_job_id(job) else None


def _job(
    trial: FrozenTrial,
    index: int,
    *,
    num_runs: int,
    sweep_dir: Path,
    metrics: list[str],
    commands: list[str],
    at: Mapping[str, queue.Place],
) -> JobStatus:
    """One run of a trial. at: where SLURM's jobs are."""
    name = str(trial.number * num_runs + index)
    known = trial.user_attrs
    what = " ".join(f"{show(key)}={show(value)}" for key, value in by_key(trial.params).items())
    values = known.get(attribute(VALUES, index)) if num_runs > 1 else None
    if values is not None:
        return JobStatus(name, "completed", what, values=dict(zip(metrics, values, strict=False)))
    if trial.state in ENDED and index >= num_given(trial) - 1:
        seconds = trial.duration.total_seconds() if trial.duration else None
        error = trial.user_attrs.get(ERROR)
        return JobStatus(
            name,
            ENDED[trial.state],
            what,
            None if error is None else printable(error),
            seconds,
            dict(zip(metrics, trial.values or [], strict=False)),
        )
    slurm_job = _slurm_job(trial, index)
    place = at.get(slurm_job) if slurm_job else None
    slurm: dict[str, Any] = {"slurm_job": slurm_job, "place": place}
    in_queue = {queue.PENDING: "queued", queue.RUNNING: "running"}.get(place.state) if place else None
    is_owned = known.get(attribute(OWNER, index)) in commands
    try:
        run = open_run(sweep_dir / name, finished=False)
    except OSError as error:  # a folder that is not for us
        return JobStatus(name, "unreadable", what, error.strerror)
    except DataError:
        return JobStatus(name, in_queue or ("queued" if is_owned else "interrupted"), what, **slurm)
    has_failed = run.status == "failed" and trial.state in ENDED  # as another run of its trial did
    if run.status == "completed" or run.pruned or has_failed:  # its command has not recorded it yet, or died before
        return run_state(run, name, what, **slurm)
    state = in_queue or ("running" if run.status == "running" else "interrupted")
    return run_state(run, name, what, state=state, **slurm)


def _title(num_begun: int, wanted: int | None, num_runs: int) -> str:
    begun = f"search, {num_begun}{f' of {wanted}' if wanted else ''} trials begun"
    return begun if num_runs == 1 else f"{begun}, {num_runs} runs each"


def _in_words(best: list[FrozenTrial], metrics: list[str], num_runs: int) -> str:
    """The best trial in words, or the number of those on the Pareto front."""
    if not best:
        return ""
    mark = "#" if num_runs == 1 else "trial "  # jobs have other numbers than trials then
    if len(metrics) > 1:
        numbers = ", ".join(f"{mark}{each.number}" for each in best)
        return f"{len(best)} trials that no other beats in every metric: {numbers}"
    what = " ".join(f"{show(key)}={show(value)}" for key, value in by_key(best[0].params).items())
    return f"{show(metrics[0])} {(best[0].values or [0.0])[0]:.6g} ({mark}{best[0].number} {what}{_from(best[0])})"


def _from(trial: FrozenTrial) -> str:
    return "" if is_own(trial) else f", taken over from {printable(origin(trial))}"
