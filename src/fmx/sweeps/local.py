"""Run the jobs of a sweep on this machine, and keep its ledger and leaderboard up to date."""

import logging
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.utils import filter_overrides

from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError, DataError, FmxError
from fmx.process import dry_run
from fmx.process.exits import Interrupted, advice
from fmx.process.lock import is_locked, lock_folder
from fmx.reporting.best_rows import print_best
from fmx.reporting.leaderboard import leaderboard
from fmx.reporting.leaderboard_files import write_leaderboard
from fmx.reporting.outcomes import KnownOutcomes
from fmx.runs.run_dir import SAVE_TIMEOUT_S, has_run_to_resume, open_run, wait_for_process
from fmx.sweeps.checkpoints import keep_best
from fmx.sweeps.display import Display, shared_overrides
from fmx.sweeps.job import Job
from fmx.sweeps.ledger import JOURNAL, LEDGER, Ledger
from fmx.sweeps.machine import Share, shares
from fmx.sweeps.plan import refuse_another_run
from fmx.sweeps.pool import Ended, Pool, Started, Workers
from fmx.sweeps.settings import jobs_per_gpu

__all__ = ["Sweep", "checked_fingerprint", "earlier_ledger", "lock_unless_dry_run"]

log = logging.getLogger(__name__)
BEST = 10  # rows of the table at the end
LEADERBOARD_SHARE = 20  # writing the leaderboard takes at most 1/20 of the time


def earlier_ledger(sweep_dir: Path) -> Ledger:
    """Lock a sweep directory and read its ledger; an empty ledger if there is none.

    ConfigError if another process holds the lock. A dry run takes no lock.
    """
    if (sweep_dir / JOURNAL).is_file():
        raise ConfigError(f"{sweep_dir} holds a search: name another folder with hydra.sweep.dir=DIR")
    from fmx.sweeps.gate import check_jobs_folder

    check_jobs_folder(sweep_dir)
    if not (sweep_dir / LEDGER).is_file():
        return Ledger(sweep_dir, {})
    lock_unless_dry_run(sweep_dir)
    return Ledger.read(sweep_dir)


def lock_unless_dry_run(sweep_dir: Path) -> None:
    """Lock a sweep directory; ConfigError if another process holds the lock. A dry run takes none."""
    if not dry_run.is_asked():
        lock_folder(sweep_dir, key="hydra.sweep.dir")
    elif is_locked(sweep_dir):
        raise ConfigError(f"another process is at work in {sweep_dir}: a dry run would be out of date at once")


def checked_fingerprint(job: Job, allow: Collection[str], root: str | None) -> str:
    """Check a frozen job and return its fingerprint; a refusal names the version of fmx that wrote the sweep."""
    from fmx.sweeps.gate import check_job

    try:
        return check_job(job, allow, root)
    except DataError as error:
        versions = []
        for record in job.sweep_dir.glob("[0-9]*/run.json"):
            with suppress(DataError):
                versions.append(open_run(record.parent, finished=False).other_version)
        raise DataError(f"{error}{max(versions, default='')}") from error


class Sweep:
    """Runs the jobs of a ledger. allow: packages that the user trusts, as in gate.check_job."""

    wait_s = SAVE_TIMEOUT_S

    def __init__(self, ledger: Ledger, allow: Collection[str] = ()) -> None:
        self.ledger = ledger
        self.allow = allow
        self._known = KnownOutcomes()
        self._leaderboard_due = False
        self._leaderboard_wait_until = 0.0  # no new leaderboard before this time

    def run_all(self, numbers: Sequence[int], *, disk: str | None = None) -> list[Ended]:
        """Run those of the given jobs that have not completed; FmxError at the end if one failed.

        disk: a text on the disk space that they will take.
        """
        with advice(lambda: f"to go on: {self.resume_command}"):
            return self._run_all(numbers, disk)

    def preview(self, numbers: Sequence[int], *, num_equal: int = 0, disk: str | None = None) -> None:
        """Log what `run_all` would do.

        num_equal: jobs left out as duplicates. disk: a text on the disk space that all jobs take.
        """
        entries = [self.ledger.entries[number] for number in numbers]
        to_run = [self.ledger.job(entry) for entry in entries if entry.status != "completed"]
        for job in to_run:
            refuse_another_run(job.run_dir, job.fingerprint)
        shared = shared_overrides(entry.overrides for entry in entries)
        display = Display(len(entries), 0, 1, log.info, shared=shared)
        if shared:
            log.info(
                "all jobs: %s", " ".join(filter_overrides([each for each in entries[0].overrides if each in shared]))
            )
        for entry in entries:
            begun = (self.ledger.job(entry).run_dir / "run.json").is_file()
            how = " · done already" if entry.status == "completed" else " · resumes" if begun else ""
            log.info("#%d %s%s", entry.number, display.label(self.ledger.job(entry)), how)
        equal = f" (and {num_equal} equal to others)" if num_equal else ""
        done = len(entries) - len(to_run)
        at_once = f", {self.num_parallel(to_run)} at a time" if to_run else ""
        log.info(
            "%s%s%s%s", _counted(len(entries), "job"), equal, f", {done} of them done already" if done else "", at_once
        )
        log.info("%s%s", f"{disk} · " if disk else "", self.ledger.sweep_dir)
        log.info("dry run: nothing was started or written")

    @property
    def resume_command(self) -> str:
        """The command that resumes this sweep, with --allow for all packages that its jobs name."""
        from fmx.sweeps.gate import packages_of

        trusted = {*self.allow, *packages_of(self.ledger.job(each) for each in self.ledger.entries.values())}
        words = [str(self.ledger.sweep_dir), *(word for each in sorted(trusted) for word in ("--allow", each))]
        return printed_command("fmx", "run", "--resume-sweep", *words)

    def _run_all(self, numbers: Sequence[int], disk: str | None) -> list[Ended]:
        entries = [self.ledger.entries[number] for number in numbers]
        to_run = [self.ledger.job(entry) for entry in entries if entry.status != "completed"]
        for job in to_run:
            refuse_another_run(job.run_dir, job.fingerprint)
        self.ledger.write()  # from here on --resume-sweep works
        num_done = len(entries) - len(to_run)
        num_workers = self.num_parallel(to_run)
        log.info(
            "%s%s, %d at a time · %s",
            _counted(len(entries), "job"),
            f", {num_done} of them done already" if num_done else "",
            num_workers,
            self.ledger.sweep_dir,
        )
        if disk:
            log.info("%s", disk)
        shared = shared_overrides(entry.overrides for entry in self.ledger.entries.values())
        ended = list(self.run(to_run, Display(len(entries), num_done, num_workers, log.info, shared=shared)))
        self.report_result(ended, len(entries))
        return ended

    def run(self, jobs: Iterable[Job], display: Display) -> Iterator[Ended]:
        """Run jobs, taken one by one as workers become free, and yield each as it ends.

        Ctrl-C and SIGTERM first let the running jobs save their states and end, then propagate.
        """
        settings = self.ledger.settings
        known = jobs if isinstance(jobs, Sequence) else []
        pool = self.pool(known)
        with display, pool:
            try:
                for event in pool.run(self._with_arguments(jobs)):
                    if isinstance(event, Started):
                        self.ledger.update(event.job, status="running", cause=None, error=None, seconds=None)
                        display.started(event.job)
                    elif isinstance(event, Ended):
                        self._record_end(event, display)
                        yield event
                        if event.status == "failed" and settings.get(
                            "fail_fast"
                        ):  # absent from ledgers of earlier versions
                            for stopped in pool.stop(signal.SIGINT):
                                self._record_end(stopped, display)
                                yield stopped
                            break
                    else:
                        self._write_leaderboard(now=False)
            except (KeyboardInterrupt, Interrupted) as interrupted:
                signum = interrupted.signum if isinstance(interrupted, Interrupted) else signal.SIGINT
                if not pool.outlived_by_jobs(signum):
                    log.warning("stopping: the running jobs save their states; once more ends them at once")
                for stopped in pool.stop(signum):
                    self._record_end(stopped, display)
                raise
            finally:
                self._write_leaderboard(now=True)
                keep_best(self.ledger, settings.get("keep_checkpoints"))

    def pool(self, jobs: Sequence[Job]) -> Workers:
        """The workers that run the jobs; jobs: those that are known beforehand."""
        return Pool(self.shares(jobs), job_timeout_s=self.ledger.settings["job_timeout_s"])

    def num_parallel(self, jobs: Sequence[Job]) -> int:
        """How many jobs run in parallel."""
        return len(self.shares(jobs))

    def shares(self, jobs: Sequence[Job]) -> list[Share]:
        """The threads and GPUs of each worker."""
        settings = self.ledger.settings
        return shares(
            settings["workers"],
            num_jobs=len(self.ledger.entries),
            processes=max((job.processes for job in jobs), default=1),
            uses_gpu=any(job.on_gpu for job in jobs),
            threads=settings["threads"],
            jobs_per_gpu=jobs_per_gpu(settings),
        )

    def _with_arguments(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, list[str]]]:
        for job in jobs:
            arguments = self.arguments(job)
            if arguments is None:
                log.info("#%d was completed meanwhile", job.number)
                self.ledger.update(job, status="completed", cause=None, error=None)
                self._leaderboard_due = True
            else:
                yield job, arguments

    def arguments(self, job: Job) -> list[str] | None:
        """The extra arguments of a job: `resume` if it has a checkpoint; None if it has completed meanwhile."""
        from fmx.config.quoting import quoted

        entry = self.ledger.entries[job.number]
        if not has_run_to_resume(job.run_dir):
            return []
        if self.wait_s and self.ledger.status(entry) == "running":
            log.info("#%d is still at work: waiting until it has saved its state", job.number)
            wait_for_process(job.run_dir, self.wait_s)
        # Read again: another process may have resumed it. A run that is still at work refuses a second process.
        status = self.ledger.status(entry)
        if status == "completed":
            return None
        return [f"resume={quoted(str(job.run_dir))}"]

    def _record_end(self, ended: Ended, display: Display) -> None:
        self.ledger.update(
            ended.job, status=ended.status, cause=ended.cause, error=ended.error, seconds=round(ended.seconds, 3)
        )
        display.ended(ended)
        self._leaderboard_due = True
        self._write_leaderboard(now=False)

    def _write_leaderboard(self, *, now: bool) -> None:
        """Write the leaderboard if a job has ended since, within its share of the time."""
        began = time.monotonic()
        if not self._leaderboard_due or (began < self._leaderboard_wait_until and not now):
            return
        try:
            write_leaderboard(self.ledger.sweep_dir, self._known)
        except DataError as error:  # a table must not stop the jobs
            log.warning("%s", error)
        spent = time.monotonic() - began
        self._leaderboard_due, self._leaderboard_wait_until = False, began + LEADERBOARD_SHARE * spent

    def _print_table(self) -> None:
        """Print the best configurations."""
        try:
            runs = sorted(record.parent for record in self.ledger.sweep_dir.rglob("run.json"))
            board = leaderboard(runs, below=self.ledger.sweep_dir, known=self._known)
        except DataError as error:
            log.warning("%s", error)
            return
        if not board.rows:
            return
        print_best(board, most=BEST)

    def report_result(self, ended: Sequence[Ended], num_jobs: int) -> None:
        """Print the best configurations; FmxError if a job did not complete."""
        self._print_table()
        log.info("%s (.csv and .html too)", self.ledger.sweep_dir / "leaderboard.md")
        for status, how in (("failed", "failed"), ("interrupted", "were interrupted")):
            these = [each for each in ended if each.status == status]
            if these:
                first = these[0]
                raise FmxError(
                    f"{len(these)} of {num_jobs} jobs {how}, the first: #{first.job.number} {first.job.label}: "
                    f"{first.error}\n{self.resume_command} resumes what is not completed"
                )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
