"""`fmx status`: what a sweep, a search or a run does at the moment."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fmx.commands.verb_parser import VerbParser
from fmx.process.exits import plain_exits
from fmx.process.start import as_command

if TYPE_CHECKING:
    from fmx.sweeps.job_status import JobStatus, Status

__all__ = ["main", "make_parser"]

DESCRIPTION = """\
What a sweep, a search, a run or a folder of runs does at the moment: how many jobs run, wait, have completed
and failed, the best one so far, the time that is left, and where jobs are on a SLURM cluster. It reads files
alone, and writes nothing. If the command of a sweep has ended too early, its last line is the command that goes on.
"""
EXAMPLES = """\
examples:
  fmx status
  fmx status outputs/sweeps/2026-03-01_10-00-00_ab12cd
  fmx status outputs/latest --json status.json
  fmx status outputs --all

The time left is an estimate: the mean time of the jobs that have ended (before the first one: the time that the
running ones will take, from their epochs), times the jobs that are left, by the number that runs at a time.
"""
LISTED = 12  # jobs of a state, without --all
SHOWN = ("running", "failed", "unreadable", "interrupted", "queued")  # states whose jobs are listed, in this order
IN_FULL = ("running", "failed", "unreadable")  # without --all
STDOUT = "-"


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser("status", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR",
                        help="a sweep, a search, a run, or a folder that holds them (the sweep of outputs/ that was "
                        "at work last)")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="list every job")
    parser.add_argument("--json", nargs="?", const=STDOUT, metavar="F", help="print everything as JSON, or write it "
                        "to a file")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    return parser


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    arguments = make_parser().parse_args()
    with plain_exits():
        show_status(arguments.folder, file=arguments.json, force=arguments.force, everything=arguments.all)


def show_status(folder: Path | None, *, file: str | None, force: bool, everything: bool) -> None:
    """Print the state of a folder, and write it to a JSON file. everything: whether every job is listed.

    folder: None for the sweep of outputs/ that was at work last. DataError where it holds no run, ConfigError where
    the file exists without `force`.
    """
    from fmx.process.table import print_lines
    from fmx.runs.new_file import new_file, refuse_existing
    from fmx.sweeps.status import latest_sweep, read_status

    if file is not None and file != STDOUT:
        refuse_existing(Path(file), force=force)
    status = read_status(folder or latest_sweep())
    text = json.dumps(status.plain(), indent=2, ensure_ascii=False) + "\n"
    if file == STDOUT:
        sys.stdout.write(text)
        return
    print_lines(lines(status, everything=everything))
    if file is not None:
        with new_file(Path(file), force=force) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def lines(status: "Status", *, everything: bool = False) -> Iterator[str]:
    """The state in lines."""
    from fmx.sweeps.job_status import STATES, in_time

    yield f"{status.path}: {status.title}"
    if status.kind != "run":
        yield status.headline
    if status.best:
        yield f"best so far: {status.best}"
    if status.left_s is not None:
        yield f"about {in_time(status.left_s)} left, {status.left_from}"
    elif status.left_from:
        yield f"time left: {status.left_from}"
    yield from status.notes
    shown = [*SHOWN, *(each for each in STATES if each not in SHOWN)] if everything or status.kind != "sweep" else SHOWN
    if status.kind == "search" and not everything:
        shown = SHOWN
    for state in shown:
        jobs = [job for job in status.jobs if job.state == state]
        yield from _listed(state, jobs, len(jobs) if everything else LISTED if state in IN_FULL else 3)
    yield from _command(status)


def _listed(state: str, jobs: Sequence["JobStatus"], at_most: int) -> Iterator[str]:
    if jobs:
        yield f"{state}:"
        yield from (f"  {_line(job)}" for job in jobs[:at_most])
        if len(jobs) > at_most:
            yield f"  and {len(jobs) - at_most} more (--all lists them)"


def _line(job: "JobStatus") -> str:
    from fmx.sweeps.job_status import in_time

    parts = [f"#{job.name} {job.what}" if job.name.isdecimal() else f"{job.name}  {job.what}".rstrip()]
    if job.state == "running":
        if job.epoch is not None:
            parts.append(f"epoch {job.epoch:g}{f' of {job.epochs}' if job.epochs else ''}")
        if job.seconds is not None:
            parts.append(in_time(job.seconds))
    parts += [f"{name} {value:.6g}" for name, value in job.values.items()]
    if job.slurm_job and job.place:
        where = f"SLURM job {job.slurm_job} {job.place.state.lower()}"
        parts.append(f"{where} on {job.place.node}" if job.place.node else f"{where} ({job.place.reason})")
    elif job.slurm_job:
        parts.append(f"SLURM job {job.slurm_job}")
    elif job.state == "running" and job.host:
        parts.append(f"on {job.host}")
    if job.error:
        parts.append(job.error)
    return " · ".join(parts)


def _command(status: "Status") -> Iterator[str]:
    """What there is to say of the command that made the sweep, and the line that goes on."""
    if status.kind in {"sweep", "search"}:
        on_cluster = any(job.place and job.state in {"running", "queued"} for job in status.jobs)
        if status.is_alive:
            yield "its command is at work"
        elif status.is_alive is None:
            yield "whether its command is at work is unknown: this disk has no locks"
        elif status.go_on and on_cluster:
            yield "no command waits for it; the jobs in SLURM's queue go on without one"
        elif status.go_on:
            yield "no command is at work on it"
    if status.go_on:
        yield f"to go on: {status.go_on}"


if __name__ == "__main__":
    as_command(main)
