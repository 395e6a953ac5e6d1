"""Run the trials of a search in the pool of its launcher: on this machine, or in SLURM's queue."""

import logging
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from fmx.errors import ConfigError, DataError
from fmx.process.exits import Interrupted, last_signal
from fmx.reporting.leaderboard_files import write_leaderboard
from fmx.reporting.outcomes import KnownOutcomes
from fmx.sweeps import slurm
from fmx.sweeps.display import Display
from fmx.sweeps.job import Job
from fmx.sweeps.machine import shares
from fmx.sweeps.pool import Ended, Pool, Started, Workers
from fmx.sweeps.search.heartbeat import exclusive
from fmx.sweeps.settings import check_settings, jobs_per_gpu
from fmx.sweeps.slurm_queue import check_installed

__all__ = ["check_launcher", "is_on_cluster", "run_trials"]

log = logging.getLogger(__name__)
LEADERBOARD_SHARE = 10  # writing the leaderboard takes at most 1/10 of the time
LOCAL = "fmx.sweeps.launchers.LocalLauncher"
SLURM = "fmx.sweeps.launchers.SlurmLauncher"


def check_launcher(settings: Mapping[str, Any]) -> None:
    """ConfigError for a launcher that cannot run trials, or for invalid settings."""
    if settings["_target_"] not in {LOCAL, SLURM}:
        raise ConfigError(
            "hydra/sweeper=search runs its trials with hydra/launcher=local or slurm; to use several machines without "
            "SLURM, start the same command on each with the same hydra.sweep.dir"
        )
    if is_on_cluster(settings):
        slurm.check_settings(settings)
        check_installed()
    else:
        check_settings(settings)


def is_on_cluster(settings: Mapping[str, Any]) -> bool:
    """Whether trials are SLURM jobs. settings: of hydra.launcher."""
    return bool(settings["_target_"] == SLURM)


def make_pool(
    settings: Mapping[str, Any],
    first: Job,
    *,
    num_jobs: int | None,
    in_queue: Mapping[int, str],
    submitted: Callable[[int, str], None],
) -> tuple[Workers, int]:
    """The pool that runs trials, and how many at a time.

    settings: of hydra.launcher. first: one of the jobs. in_queue, submitted: the SLURM jobs by trial, and what is
    called with those of new trials.
    """
    if is_on_cluster(settings):
        parallel = settings["array_parallelism"]

        def note(job: Job, name: str) -> None:
            submitted(job.number, name)

        pool = slurm.ClusterPool(first.sweep_dir, settings, alive=in_queue, submitted=note, at_most=parallel)
        return pool, parallel
    workers = shares(
        settings["workers"],
        num_jobs=num_jobs,
        processes=first.processes,
        uses_gpu=first.on_gpu,
        threads=settings["threads"],
        jobs_per_gpu=jobs_per_gpu(settings),
    )
    return Pool(workers, job_timeout_s=settings["job_timeout_s"]), len(workers)


def run_trials(
    jobs: Iterator[tuple[Job, list[str]] | None],
    settings: Mapping[str, Any],
    *,
    num_jobs: int | None,
    num_ended: int,
    labelled: Callable[[Job], Job],
    in_queue: Mapping[int, str],
    submitted: Callable[[int, str], None],
) -> Generator[Ended]:
    """Run jobs in parallel, each taken when a worker is free, and yield each as it ends.

    settings: of hydra.launcher. num_jobs, num_ended: of the study; None if unknown. in_queue, submitted: as for
    `make_pool`. Ctrl-C lets running jobs save their states, and so does SIGTERM, but for SLURM jobs, which go on.
    """
    first = next(jobs, None)
    if first is None:
        return
    pool, parallel = make_pool(settings, first[0], num_jobs=num_jobs, in_queue=in_queue, submitted=submitted)
    leaderboard = _Leaderboard(first[0].sweep_dir)
    with Display(num_jobs, num_ended, parallel, log.info) as display, pool:
        try:
            for event in pool.run(chain([first], jobs)):
                if isinstance(event, Started):
                    display.started(labelled(event.job))
                elif isinstance(event, Ended):
                    leaderboard.due = True
                    yield event
                    _show(display, event, labelled)
                    if event.status == "failed" and settings["fail_fast"]:
                        break
                leaderboard.write(now=False)
            yield from pool.stop(signal.SIGINT)
        except (KeyboardInterrupt, Interrupted, GeneratorExit) as left:
            signum = last_signal() or (signal.SIGINT if isinstance(left, KeyboardInterrupt) else signal.SIGTERM)
            if not pool.outlived_by_jobs(signum):
                log.warning("stopping: the running trials save their states; once more ends them at once")
            leaderboard.due = True
            for stopped in pool.stop(signum):
                _show(display, stopped, labelled)
            raise
        finally:
            leaderboard.write(now=True)


def _show(display: Display, ended: Ended, labelled: Callable[[Job], Job]) -> None:
    display.ended(Ended(labelled(ended.job), ended.cause, ended.error, ended.seconds))


class _Leaderboard:
    """Writes the leaderboard of the sweep directory, within its share of the time."""

    def __init__(self, sweep_dir: Path) -> None:
        self._sweep_dir = sweep_dir
        self._known = KnownOutcomes()
        self._wait_until = 0.0
        self.due = False

    def write(self, *, now: bool) -> None:
        """Write it if a trial has ended since."""
        began = time.monotonic()
        if not self.due or (began < self._wait_until and not now):
            return
        try:
            with exclusive(self._sweep_dir):
                write_leaderboard(self._sweep_dir, self._known)
        except (DataError, OSError) as error:  # a table must not stop the trials
            log.warning("the leaderboard was not written: %s", error)
        self.due = False
        self._wait_until = began + LEADERBOARD_SHARE * (time.monotonic() - began)
