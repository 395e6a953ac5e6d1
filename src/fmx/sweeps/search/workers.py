"""Run the trials of a search on this machine, in the local launcher's pool."""

import logging
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from fmx.errors import ConfigError, DataError
from fmx.process.exits import Interrupted
from fmx.reporting.leaderboard_files import write_leaderboard
from fmx.sweeps.display import Display
from fmx.sweeps.job import Job
from fmx.sweeps.machine import shares
from fmx.sweeps.pool import Ended, Pool, Started
from fmx.sweeps.search.heartbeat import exclusive
from fmx.sweeps.settings import check_settings, jobs_per_gpu

__all__ = ["check_launcher", "run_trials"]

log = logging.getLogger(__name__)
LEADERBOARD_SHARE = 10  # writing the leaderboard takes at most 1/10 of the time
LOCAL = "fmx.sweeps.launchers.LocalLauncher"


def check_launcher(settings: Mapping[str, Any]) -> None:
    """ConfigError for a launcher other than the local one, or for invalid settings."""
    if settings["_target_"] != LOCAL:
        raise ConfigError(
            "hydra/sweeper=search runs its trials with hydra/launcher=local; to use several machines, start the same "
            "command on each with the same hydra.sweep.dir"
        )
    check_settings(settings)


def run_trials(
    jobs: Iterator[tuple[Job, list[str]]],
    settings: Mapping[str, Any],
    sweep_dir: Path,
    *,
    num_trials: int | None,
    num_begun: int,
    labelled: Callable[[Job], Job],
) -> Generator[Ended]:
    """Run jobs in parallel, each taken when a worker is free, and yield each as it ends.

    settings: of hydra.launcher. Ctrl-C and SIGTERM let running jobs save their states.
    """
    first = next(jobs, None)
    if first is None:
        return
    workers = shares(
        settings["workers"],
        num_jobs=num_trials,
        processes=first[0].processes,
        uses_gpu=first[0].on_gpu,
        threads=settings["threads"],
        jobs_per_gpu=jobs_per_gpu(settings),
    )
    pool = Pool(workers, job_timeout_s=settings["job_timeout_s"])
    leaderboard = _Leaderboard(sweep_dir)
    with Display(num_trials, num_begun, len(workers), log.info) as display, pool:
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
            yield from pool.stop(signal.SIGTERM)
        except (KeyboardInterrupt, Interrupted, GeneratorExit):
            log.warning("stopping: the running trials save their states; once more ends them at once")
            leaderboard.due = True
            for stopped in pool.stop(signal.SIGTERM):
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
        self._wait_until = 0.0
        self.due = False

    def write(self, *, now: bool) -> None:
        """Write it if a trial has ended since."""
        began = time.monotonic()
        if not self.due or (began < self._wait_until and not now):
            return
        try:
            with exclusive(self._sweep_dir):
                write_leaderboard(self._sweep_dir)
        except (DataError, OSError) as error:  # a table must not stop the trials
            log.warning("the leaderboard was not written: %s", error)
        self.due = False
        self._wait_until = began + LEADERBOARD_SHARE * (time.monotonic() - began)
