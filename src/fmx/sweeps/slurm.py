"""Run the jobs of a sweep on a SLURM cluster, and keep its ledger and leaderboard up to date meanwhile."""

import logging
import re
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError, DataError
from fmx.process import detach
from fmx.process.exits import Interrupted, last_signal
from fmx.runs.latest_link import link_latest
from fmx.runs.run_dir import open_run
from fmx.sweeps import slurm_queue as queue
from fmx.sweeps.array_task import ArrayTask
from fmx.sweeps.job import Job
from fmx.sweeps.ledger import Ledger
from fmx.sweeps.local import Sweep
from fmx.sweeps.multirun import run_multirun
from fmx.sweeps.pool import Cause, Ended, Started, complete_record, last_line
from fmx.sweeps.settings import check_fail_fast
from fmx.sweeps.slurm_queue import slurm_folder

__all__ = ["ClusterPool", "ClusterSweep", "check_settings", "launch"]

log = logging.getLogger(__name__)
COUNTS = {"array_parallelism": 1, "timeout_min": 1, "signal_before_end_s": 0, "max_requeues": 0}
OPTIONAL_COUNTS = {"cpus_per_task": 1, "gpus_per_node": 0}
PLAIN_NAME = re.compile(r"\w[\w.,:&|+*()\[\]@/-]*")  # without a newline, which could add a line to the job's script
WITH_SUBMITIT = ["timeout_min", "mem_gb", "cpus_per_task", "partition", "account", "qos", "constraint"]


def launch(
    context: HydraContext, config: DictConfig, overrides: Sequence[Sequence[str]], settings: Mapping[str, Any]
) -> list[Ended]:
    """Plan a multirun's jobs, submit those that are neither done nor queued already, and wait for all.

    ConfigError before the first job if one cannot run or SLURM refuses it, FmxError at the end if one failed.
    """
    plain: dict[str, Any] = {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in settings.items()
    }
    check_settings(plain)
    queue.check_installed()
    return run_multirun(context, config, overrides, {**plain, "launcher": "slurm"}, sweep=ClusterSweep, here=False)


def check_settings(settings: Mapping[str, Any]) -> None:
    """ConfigError for an invalid setting of the SLURM launcher."""
    for key, least in {**COUNTS, **OPTIONAL_COUNTS}.items():
        value = settings[key]
        optional = key in OPTIONAL_COUNTS
        if not (optional and value is None) and not (type(value) is int and value >= least):
            or_null = " or null" if optional else ""
            raise ConfigError(
                f"hydra.launcher.{key} must be a whole number of at least {least}{or_null}, got {value!r}"
            )
    for key in ("mem_gb", "poll_s"):
        value = settings[key]
        if not (key == "mem_gb" and value is None) and not (type(value) in {int, float} and value > 0):
            raise ConfigError(f"hydra.launcher.{key} must be a number greater than 0, got {value!r}")
    check_fail_fast(settings)
    if settings["signal_before_end_s"] >= 60 * settings["timeout_min"]:
        raise ConfigError(
            f"hydra.launcher.signal_before_end_s={settings['signal_before_end_s']} leaves no time to train in "
            f"hydra.launcher.timeout_min={settings['timeout_min']}"
        )
    if not isinstance(settings["setup"], list):
        raise ConfigError(f"hydra.launcher.setup must be a list of shell lines, got {settings['setup']!r}")
    if not isinstance(settings["additional_parameters"] or {}, dict):
        raise ConfigError(
            "hydra.launcher.additional_parameters must map sbatch's long options to values, as in "
            "'hydra.launcher.additional_parameters={mail-type: END}'"
        )


def check_foreign_settings(settings: Mapping[str, Any], path: Path, allow: Collection[str]) -> None:
    """DataError for untrusted settings of an earlier sweep that would go into a job's script."""
    check_settings(settings)
    for key in ("partition", "account", "qos", "constraint"):
        if settings[key] is not None and not PLAIN_NAME.fullmatch(str(settings[key])):
            raise DataError(
                f"{path} has hydra.launcher.{key}={str(settings[key])[:80]!r}, which is no name on a cluster"
            )
    for key in ("setup", "additional_parameters"):
        if settings[key] and "setup" not in allow:
            raise DataError(
                f"{path} has hydra.launcher.{key}={str(settings[key])[:200]!r}, which goes into each job's script. "
                "If you trust it, add --allow setup"
            )


class ClusterSweep(Sweep):
    """Runs the jobs of a ledger on the cluster, and waits for those that are queued or running there already."""

    wait_s = 0.0  # a job that SLURM does not know has ended

    def __init__(self, ledger: Ledger, allow: Collection[str] = ()) -> None:
        script = any(ledger.settings.get(key) for key in ("setup", "additional_parameters"))
        super().__init__(ledger, {*allow, "setup"} if script else allow)
        # Jobs may have ended without a command, so that nobody has written them into the leaderboard.
        self._leaderboard_due = any(entry.status == "completed" for entry in ledger.entries.values())
        folder = slurm_folder(ledger.sweep_dir)
        submitted = {entry.slurm_job for entry in ledger.entries.values() if entry.slurm_job}
        states = queue.states(submitted, folder)
        found = queue.in_queue(folder) if folder.is_dir() else {}
        if states is None or found is None:
            raise DataError(queue.NO_ANSWER)
        self._alive = {name for name, state in states.items() if state in {queue.PENDING, queue.RUNNING}}
        unrecorded = {
            number: each
            for number, each in found.items()
            if number in ledger.entries and ledger.entries[number].slurm_job not in self._alive
        }
        self._without_task = [each.name for each in unrecorded.values() if not each.has_task]
        for number, each in unrecorded.items():
            if each.has_task:
                ledger.entries[number].slurm_job = each.name
                self._alive.add(each.name)

    def pool(self, jobs: Sequence[Job]) -> "ClusterPool":
        """SLURM's queue as a pool of workers."""
        queue.cancel(self._without_task)  # their runs are submitted again
        alive = {job.number: name for job in jobs if (name := self._slurm_job(job)) in self._alive and name}
        return ClusterPool(self.ledger.sweep_dir, self.ledger.settings, alive=alive, submitted=self._submitted)

    def num_parallel(self, jobs: Sequence[Job]) -> int:
        """How many jobs an array runs in parallel."""
        return min(int(self.ledger.settings["array_parallelism"]), max(1, len(jobs)))

    def arguments(self, job: Job) -> list[str] | None:
        """As in Sweep, but a job that SLURM still has is left alone."""
        return [] if self._slurm_job(job) in self._alive else super().arguments(job)

    def report_result(self, ended: Sequence[Ended], num_jobs: int) -> None:
        """As in Sweep, unless jobs were left to SLURM."""
        waiting = [entry for entry in self.ledger.entries.values() if entry.slurm_job and entry.status != "completed"]
        if not detach.is_asked() or not waiting:
            super().report_result(ended, num_jobs)
            return
        log.info("%d jobs are with SLURM, and this command ends", len(waiting))
        log.info("to look: %s", printed_command("fmx", "status", str(self.ledger.sweep_dir)))
        log.info("to go on, and for the leaderboard: %s", self.resume_command)

    def _slurm_job(self, job: Job) -> str | None:
        return self.ledger.entries[job.number].slurm_job

    def _submitted(self, job: Job, name: str) -> None:
        self.ledger.update(job, slurm_job=name, status="waiting", cause=None, error=None)


@dataclass
class _Submitted:
    job: Job
    name: str  # SLURM's job ID
    began: float | None = None
    ended: str | None = None  # SLURM's final state, once it has been seen


class ClusterPool:
    """Jobs in SLURM's queue, with the interface of Pool. Leaving the context cancels no job.

    settings: of conf/hydra/launcher/slurm.yaml. alive: SLURM's job IDs, by job number, of the jobs that are queued
    already. submitted: called with each job and its SLURM job ID. at_most: how many jobs are queued or running at a
    time; None submits all at once, as arrays.
    """

    def __init__(
        self,
        sweep_dir: Path,
        settings: Mapping[str, Any],
        *,
        alive: Mapping[int, str],
        submitted: Callable[[Job, str], None],
        at_most: int | None = None,
    ) -> None:
        self._folder = slurm_folder(sweep_dir)
        self._at_most = at_most
        self._settings = settings
        self._alive = alive
        self._note_submitted = submitted
        self._jobs: list[_Submitted] = []
        self._refused: tuple[Job, list[str]] | None = None
        self._has_submitted = False
        self._has_warned = False
        self._cancelled = self._detached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._jobs and not self._cancelled and not detach.is_asked():
            log.info("%d jobs keep running without this command", len(self._jobs))

    def run(self, jobs: Iterable[tuple[Job, list[str]] | None]) -> Iterator[Started | Ended | None]:
        """Submit jobs; yield each start and end that SLURM reports, and None at every poll."""
        waiting = iter(jobs)
        if self._at_most is None:
            self._submit([each for each in waiting if each is not None])
            if detach.is_asked():
                self._detached = True
                return
            if self._alive:
                log.info("%d of them were in SLURM's queue already", len(self._alive))
        while True:
            self._fill(waiting)
            if not self._jobs:
                return
            yield from self._poll()
            yield None
            if (signum := last_signal()) is not None:  # its exception was lost
                raise Interrupted(signum)
            if self._jobs:
                time.sleep(self._settings["poll_s"])

    def _fill(self, waiting: Iterator[tuple[Job, list[str]] | None]) -> None:
        """Submit jobs one by one while there is room; one that SLURM refuses is submitted again at a later poll."""
        while self._at_most is not None and len(self._jobs) < self._at_most:
            following, self._refused = self._refused or next(waiting, None), None
            if following is None:
                return
            try:
                self._submit([following])
            except ConfigError as error:
                if not self._jobs:
                    raise
                self._refused = following
                if not self._has_warned:
                    log.warning("%s; trying again while other jobs are in its queue", error)
                self._has_warned = True
                return
            self._has_warned = False

    def outlived_by_jobs(self, signum: int) -> bool:
        """Whether the jobs stay in SLURM's queue: only Ctrl-C cancels them, unless all were left to SLURM."""
        return self._detached or signum != signal.SIGINT

    def stop(self, signum: int) -> Iterator[Ended]:
        """Cancel all jobs, wait until the running ones have saved their states, and yield how they ended.

        Only for SIGINT: other signals leave them.
        """
        if self.outlived_by_jobs(signum):
            return
        self._cancelled = True
        queue.cancel([each.name for each in self._jobs])
        while self._jobs:
            yield from (event for event in self._poll() if isinstance(event, Ended))
            time.sleep(min(1.0, self._settings["poll_s"]))

    def _submit(self, jobs: Sequence[tuple[Job, list[str]]]) -> None:
        """Submit one array for each group of jobs with the same resources."""
        if jobs and not self._has_submitted:
            queue.remove_stale_tasks(self._folder)
            link_latest(jobs[0][0].sweep_dir, Path.cwd())  # jobs may be queued for hours before they do so themselves
            self._has_submitted = True
        groups: dict[tuple[tuple[str, Any], ...], list[tuple[Job, list[str]]]] = {}
        for job, extra in jobs:
            if job.number in self._alive:
                self._jobs.append(_Submitted(job, self._alive[job.number]))
                if self._at_most is not None:
                    log.info("#%d is in SLURM's queue already, as job %s", job.number, self._alive[job.number])
            else:
                groups.setdefault(tuple(self._job_resources(job).items()), []).append((job, extra))
        for resources, group in groups.items():
            tasks = [
                ArrayTask(job.arguments, str(job.run_dir), str(job.log), bool(extra), self._settings["max_requeues"])
                for job, extra in group
            ]
            # Recorded one by one: if SLURM refuses a later array, the earlier ones are in its queue.
            names = queue.submit(tasks, self._folder, {**self._sweep_resources(), **dict(resources)})
            for (job, _), name in zip(group, names, strict=True):
                self._jobs.append(_Submitted(job, name))
                self._note_submitted(job, name)

    def _job_resources(self, job: Job) -> dict[str, Any]:
        """The resources that depend on the job; SLURM starts one task per process."""
        per_node = job.processes // job.nodes
        gpus = self._settings["gpus_per_node"]
        if gpus is None and job.accelerator in {"gpu", "cuda"}:
            gpus = per_node
        return {"nodes": job.nodes, "ntasks_per_node": per_node, "gpus_per_node": gpus or None}

    def _sweep_resources(self) -> dict[str, Any]:
        settings = self._settings
        srun = ["--kill-on-bad-exit=1", "--wait=0"]  # a failed process ends the others, a finished one does not
        if settings["cpus_per_task"] is not None:
            srun.append(f"--cpus-per-task={settings['cpus_per_task']}")  # srun no longer inherits it from sbatch
        names = {"timeout_min": "time", "mem_gb": "mem"}
        given = {names.get(key, key): settings[key] for key in WITH_SUBMITIT}
        if given["mem"] is not None:
            given["mem"] = f"{round(1024 * given['mem'])}M"
        return given | {
            "job_name": "fmx",
            "array_parallelism": settings["array_parallelism"],
            "signal_delay_s": settings["signal_before_end_s"],
            "setup": settings["setup"] or None,
            "additional_parameters": {"requeue": True, **(settings["additional_parameters"] or {})},
            "srun_args": srun,
        }

    def _poll(self) -> Iterator[Started | Ended]:
        states = queue.states((each.name for each in self._jobs), self._folder)
        if states is None:
            return  # the controller does not answer at the moment
        for each in list(self._jobs):
            state = states[each.name]
            if state in {queue.PENDING, queue.RUNNING}:
                each.ended = None
                if state == queue.RUNNING and each.began is None:
                    each.began = time.monotonic()
                    yield Started(each.job)
            elif each.ended is None and not _has_result(each.job):
                each.ended = state  # polled once more: a shared disk may show the job's files with a delay
            else:
                self._jobs.remove(each)
                yield self._outcome(each, state)

    def _outcome(self, each: _Submitted, state: str) -> Ended:
        """How a job ended, from run.json, which is completed if the job could not do so."""
        job, seconds = each.job, 0.0 if each.began is None else time.monotonic() - each.began
        record: dict[str, Any] = {}
        status, pruned = None, False
        with suppress(DataError):
            run = open_run(job.run_dir, finished=False)
            record, status, pruned = run.record, run.status, run.pruned
        if status == "completed":
            return Ended(job, "completed", None, record.get("timing", {}).get("fit_s", seconds))
        if pruned:
            return Ended(job, "pruned", record.get("error"), seconds)
        cause: Cause = "raised"
        if self._cancelled and status != "failed":
            cause, error = "interrupted", None
        elif status == "failed":
            error = record.get("error")
        else:
            cause = "killed"
            error = f"SLURM ended its job {each.name} ({state.lower()})"
            if not record:
                error += f": {line}" if (line := last_line(job) or self._last_error_line(each)) else ""
        if record or cause != "interrupted":
            complete_record(job, record, "interrupted" if cause == "interrupted" else "failed", error)
        return Ended(job, cause, error, seconds)

    def _last_error_line(self, each: _Submitted) -> str | None:
        """The last line that SLURM or Python wrote for a job that printed nothing itself."""
        lines = [
            line.strip()
            for path in sorted(self._folder.glob(f"{each.name}_*_log.err"))
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        ]
        return next((line for line in reversed(lines) if line), None)


def _has_result(job: Job) -> bool:
    """Whether a run has completed, or a search has pruned it."""
    try:
        run = open_run(job.run_dir, finished=False)
    except DataError:
        return False
    return run.status == "completed" or run.pruned
