"""A sweep on this machine: plan, run what is not done yet, keep ledger and leaderboard true, say how it went."""

import logging
import shlex
import shutil
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig

from fmx.claim import claim
from fmx.errors import ConfigError, DataError, FmxError
from fmx.exits import Interrupted
from fmx.reporting.leaderboard import write_leaderboard
from fmx.run_dir import LAST_WORDS_S, is_under_way, wait_for_process
from fmx.sweep.checkpoints import keep_best
from fmx.sweep.display import Display
from fmx.sweep.ledger import JOURNAL, LEDGER, Ledger
from fmx.sweep.machine import Share, shares
from fmx.sweep.plan import Job, Plan, refuse_another_run
from fmx.sweep.pool import Ended, Pool, Started, Workers
from fmx.sweep.warm import warm_up

__all__ = ["Sweep", "check_fail_fast", "continue_sweep", "earlier_ledger", "launch"]

log = logging.getLogger(__name__)
MAX_WORKERS = 4096
LEADERBOARD_SHARE = 20  # writing the leaderboard may take one part of so many of the time


def launch(
    context: HydraContext, config: DictConfig, overrides: Sequence[Sequence[str]], settings: Mapping[str, Any]
) -> list[Ended]:
    """Plan and run a multirun's jobs; those that an earlier sweep in the same directory completed are not run again.

    Raises ConfigError before the first job where one cannot run, FmxError at the end where one failed.
    """
    check_settings(settings)
    sweep_dir = Path(str(config.hydra.sweep.dir)).resolve()
    earlier = earlier_ledger(sweep_dir)
    known = {entry.fingerprint: entry.number for entry in earlier.entries.values()}
    jobs = Plan(context, config).jobs(overrides, known)
    earlier.settings = {**settings, "keep_checkpoints": config.sweep.keep_checkpoints}
    earlier.add([job for job in jobs if job.fingerprint not in known])
    return Sweep(earlier).run_all([job.number for job in jobs])


def earlier_ledger(sweep_dir: Path) -> Ledger:
    """The ledger of the sweep that a directory holds, which is then this process's alone; an empty one where none is.

    ConfigError where another process is at work on it.
    """
    if (sweep_dir / JOURNAL).is_file():
        raise ConfigError(f"{sweep_dir} holds a search: name another folder with hydra.sweep.dir=DIR")
    from fmx.sweep.gate import check_jobs_folder

    check_jobs_folder(sweep_dir)
    if not (sweep_dir / LEDGER).is_file():
        return Ledger(sweep_dir, {})
    claim(sweep_dir, key="hydra.sweep.dir")
    return Ledger.read(sweep_dir)


def continue_sweep(sweep_dir: Path, allow: Collection[str] = ()) -> list[Ended]:
    """Run the jobs of an earlier sweep that did not complete, as they were frozen then.

    allow: what the user trusts beside fmx's own parts, as the gate has it. DataError for what else the sweep names.
    """
    from fmx.sweep.gate import check_sweep_dir, pass_job

    sweep_dir = sweep_dir.resolve()  # outputs/latest may come to mean another one
    if (sweep_dir / LEDGER).is_file():  # else reading it says what is wrong
        check_sweep_dir(sweep_dir)
        claim(sweep_dir, key="hydra.sweep.dir")
    ledger = Ledger.read(sweep_dir)
    on_cluster = ledger.settings.get("launcher") == "slurm"
    check_earlier_settings(ledger, allow)
    for entry in ledger.entries.values():
        if entry.status != "completed":
            pass_job(ledger.job(entry), allow)
    if on_cluster:
        from fmx.sweep.slurm import ClusterSweep

        return ClusterSweep(ledger).run_all(list(ledger.entries))
    warm_up()
    return Sweep(ledger).run_all(list(ledger.entries))


def check_earlier_settings(ledger: Ledger, allow: Collection[str]) -> None:
    """DataError where the settings that a sweep was begun with make no sense, or would run lines of a shell."""
    settings, path = ledger.settings, ledger.sweep_dir / LEDGER
    settings.setdefault("fail_fast", False)  # a ledger may be older than the key
    keep = settings.get("keep_checkpoints")
    if keep is not None and (type(keep) is not int or keep < 0):
        raise DataError(f"{path}: sweep.keep_checkpoints must be a whole number of at least 0 or null, got {keep!r}")
    try:
        if settings.get("launcher") == "slurm":
            from fmx.sweep.slurm import check_foreign_settings

            check_foreign_settings(settings, path, allow)
            return
        check_settings(settings)
    except KeyError as error:
        raise DataError(f"{path} does not say {error} of its launcher") from None
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from None
    if (settings["workers"] or 0) > MAX_WORKERS or (settings["threads"] or 0) > MAX_WORKERS:
        raise DataError(f"{path}: hydra.launcher.workers and threads must be at most {MAX_WORKERS:,}")


def check_settings(settings: Mapping[str, Any]) -> None:
    """ConfigError for a setting of the launcher that makes no sense."""
    for key in ("workers", "threads"):
        value = settings[key]
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"hydra.launcher.{key} must be a whole number of at least 1 or null, got {value!r}")
    limit = settings["job_timeout_s"]
    if limit is not None and (not isinstance(limit, int | float) or isinstance(limit, bool) or limit <= 0):
        raise ConfigError(f"hydra.launcher.job_timeout_s must be a number greater than 0 or null, got {limit!r}")
    check_fail_fast(settings)


def check_fail_fast(settings: Mapping[str, Any]) -> None:
    """ConfigError where it is no yes or no."""
    if not isinstance(settings["fail_fast"], bool):
        raise ConfigError(f"hydra.launcher.fail_fast must be true or false, got {settings['fail_fast']!r}")


class Sweep:
    """Runs the jobs of a ledger."""

    patience_s = LAST_WORDS_S

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._leaderboard_due = False
        self._leaderboard_wait = 0.0  # until when the last one's cost is made up for

    def run_all(self, numbers: Sequence[int]) -> list[Ended]:
        """Run what is not completed of the given jobs; FmxError at the end where one failed."""
        entries = [self.ledger.entries[number] for number in numbers]
        to_run = [self.ledger.job(entry) for entry in entries if entry.status != "completed"]
        for job in to_run:
            refuse_another_run(job.run_dir, job.fingerprint)
        num_done = len(entries) - len(to_run)
        num_workers = self.num_at_once(to_run)
        log.info(
            "%d jobs%s, %d at a time · %s",
            len(entries),
            f", {num_done} of them done already" if num_done else "",
            num_workers,
            self.ledger.sweep_dir,
        )
        ended = list(self.run(to_run, Display(len(entries), num_done, num_workers, log.info)))
        self._say_result(ended, len(entries))
        return ended

    def run(self, jobs: Iterable[Job], display: Display) -> Iterator[Ended]:
        """Run jobs, asked for one by one as workers become free, and yield each as it ends.

        Ctrl-C and SIGTERM end the running ones, with their states saved, before they go on to the caller.
        """
        settings = self.ledger.settings
        known = jobs if isinstance(jobs, Sequence) else []
        pool = self.pool(known)
        self.ledger.write()
        with display, pool:
            try:
                for event in pool.run(self._with_arguments(jobs)):
                    if isinstance(event, Started):
                        self.ledger.note(event.job, status="running", cause=None, error=None, seconds=None)
                        display.started(event.job)
                    elif isinstance(event, Ended):
                        self._note(event, display)
                        yield event
                        if event.status == "failed" and settings.get("fail_fast"):  # a ledger may be older than the key
                            for stopped in pool.stop(signal.SIGTERM):
                                self._note(stopped, display)
                                yield stopped
                            break
                    else:
                        display.refresh()
                        self._write_leaderboard(now=False)
            except (KeyboardInterrupt, Interrupted):
                log.warning("stopping: the running jobs save their states; once more ends them at once")
                for stopped in pool.stop(signal.SIGTERM):
                    self._note(stopped, display)
                raise
            finally:
                self._write_leaderboard(now=True)
                keep_best(self.ledger, settings.get("keep_checkpoints"))

    def pool(self, jobs: Sequence[Job]) -> Workers:
        """What runs the jobs; those that are known beforehand are given."""
        return Pool(self.shares(jobs), job_timeout_s=self.ledger.settings["job_timeout_s"])

    def num_at_once(self, jobs: Sequence[Job]) -> int:
        """How many jobs run side by side."""
        return len(self.shares(jobs))

    def shares(self, jobs: Sequence[Job]) -> list[Share]:
        """What each worker computes with."""
        settings = self.ledger.settings
        return shares(
            settings["workers"],
            num_jobs=len(self.ledger.entries),
            processes=max((job.processes for job in jobs), default=1),
            uses_gpu=any(job.on_gpu for job in jobs),
            threads=settings["threads"],
        )

    def _with_arguments(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, list[str]]]:
        for job in jobs:
            arguments = self.arguments(job)
            if arguments is None:
                log.info("#%d was completed meanwhile", job.number)
                self.ledger.note(job, status="completed", cause=None, error=None)
                self._leaderboard_due = True
            else:
                yield job, arguments

    def arguments(self, job: Job) -> list[str] | None:
        """How a job starts: anew where it failed by itself, else from where it was interrupted, if it ever ran.

        None where somebody has brought it to its end since the sweep began.
        """
        from fmx.composition import quoted

        entry = self.ledger.entries[job.number]
        if not is_under_way(job.run_dir):
            return []
        if self.patience_s and self.ledger.status(entry) == "running":
            log.info("#%d is still at work: waiting until it has saved its state", job.number)
            wait_for_process(job.run_dir, self.patience_s)
        # Asked anew: it may have gone on since the sweep began. One that is still at work refuses a second process.
        status = self.ledger.status(entry)
        if status == "completed":
            return None
        if status in {"interrupted", "running"} or entry.cause in {"killed", "timeout", "refused"}:
            return [f"resume={quoted(str(job.run_dir))}"]
        shutil.rmtree(job.run_dir)
        return []

    def _note(self, ended: Ended, display: Display) -> None:
        self.ledger.note(
            ended.job, status=ended.status, cause=ended.cause, error=ended.error, seconds=round(ended.seconds, 3)
        )
        display.ended(ended)
        self._leaderboard_due = True
        self._write_leaderboard(now=False)

    def _write_leaderboard(self, *, now: bool) -> None:
        """Write the leaderboard if a job has ended since, but spend no more than a part of the time on it."""
        began = time.monotonic()
        if not self._leaderboard_due or (began < self._leaderboard_wait and not now):
            return
        try:
            write_leaderboard(self.ledger.sweep_dir)
        except DataError as error:  # a table is not worth the jobs
            log.warning("%s", error)
        spent = time.monotonic() - began
        self._leaderboard_due, self._leaderboard_wait = False, began + LEADERBOARD_SHARE * spent

    def _say_result(self, ended: Sequence[Ended], num_jobs: int) -> None:
        log.info("%s", self.ledger.sweep_dir / "leaderboard.md")
        for status, how in (("failed", "failed"), ("interrupted", "were interrupted")):
            these = [each for each in ended if each.status == status]
            if these:
                first, directory = these[0], shlex.quote(str(self.ledger.sweep_dir))
                raise FmxError(
                    f"{len(these)} of {num_jobs} jobs {how}, the first: #{first.job.number} {first.job.label}: "
                    f"{first.error}\nfmx run --resume-sweep {directory} runs what is not completed again"
                )
