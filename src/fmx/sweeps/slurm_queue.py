"""SLURM's commands: submit arrays through submitit, query the states of jobs, cancel them."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fmx.config.bounded_files import read_bytes
from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError, DataError
from fmx.sweeps.array_task import ArrayTask
from fmx.sweeps.job import FROZEN_JOBS

__all__ = [
    "GONE",
    "NO_ANSWER",
    "PENDING",
    "RUNNING",
    "SUBMITTING",
    "InQueue",
    "Place",
    "cancel",
    "check_installed",
    "in_queue",
    "is_job_id",
    "places",
    "remove_stale_tasks",
    "slurm_folder",
    "states",
    "submit",
]

PENDING, RUNNING, GONE = "PENDING", "RUNNING", "GONE"
SUBMITTING = "submitting"  # in place of an ID, while there is none yet
NO_ANSWER = "SLURM does not answer, so nobody knows which jobs are still queued; try again (squeue)"
QUEUED = {PENDING, "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
LARGEST_ARRAY = 1000  # SLURM's default limit
TIMEOUT_S = 60
SILENT = "SLURM does not answer here (squeue), so the states are those that the jobs have recorded"
MOST_NAMED = 1000  # arrays in one query
TASK = "_submitted.pkl"  # as submitit names the files that its jobs unpickle
JOB_ID = re.compile(r"[0-9]{1,20}(_[0-9]{1,20})?")
NUMBER = re.compile(r"[0-9]{1,20}")
RUNS = "# runs of fmx:"  # begins a line of a job's script, before the numbers of its tasks' runs
MAX_SCRIPT_BYTES = 1_000_000
NAMES = 3  # of the folder of the scripts: SWEEP/jobs/slurm


def check_installed() -> None:
    """ConfigError if submitit or a SLURM command is missing."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        how = printed_command("pip", "install", "submitit")
        raise ConfigError(f"hydra/launcher=slurm needs submitit: {how}") from None
    for command in ("sbatch", "srun", "squeue"):
        if shutil.which(command) is None:
            raise ConfigError(
                f"hydra/launcher=slurm: there is no {command} here; start the command on a node from which jobs are "
                "submitted, or use hydra/launcher=local"
            )


def slurm_folder(sweep_dir: Path) -> Path:
    """The folder of the scripts that SLURM runs for a sweep, and of what it says of them."""
    return sweep_dir / FROZEN_JOBS / "slurm"


def is_job_id(text: object) -> bool:
    """Whether a value is an ID as squeue accepts it; never an option."""
    return isinstance(text, str) and bool(JOB_ID.fullmatch(text))


def submit(tasks: Sequence[ArrayTask], folder: Path, resources: Mapping[str, Any]) -> Iterator[str]:
    """Submit one array per thousand tasks, and yield the SLURM job ID of each task, such as `12_3`.

    folder: for the files of submitit and SLURM. resources: parameters of submitit.SlurmExecutor; None leaves one to the
    cluster. ConfigError with SLURM's message if it refuses.
    """
    import submitit

    given = {key: value for key, value in resources.items() if value is not None}
    for first in range(0, len(tasks), LARGEST_ARRAY):
        executor = submitit.SlurmExecutor(folder=folder)
        array = tasks[first : first + LARGEST_ARRAY]
        numbers = " ".join(Path(task.run_dir).name for task in array)
        try:
            executor.update_parameters(**given | {"setup": [f"{RUNS} {numbers}", *given.get("setup", [])]})
            with executor.batch():
                jobs = [executor.submit(task) for task in array]
        except ValueError as error:
            raise ConfigError(f"hydra.launcher: {error}") from error
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            lines = [line.strip() for line in str(error).splitlines() if "error:" in line] or [str(error).strip()]
            raise ConfigError(f"SLURM refuses the jobs: {'; '.join(lines)}") from error
        yield from [str(job.job_id) for job in jobs]


def remove_stale_tasks(folder: Path) -> None:
    """Remove the pickled tasks of jobs that are no longer in SLURM's queue; ConfigError if it does not answer.

    A job unpickles the file that has its ID, so one that an untrusted folder came with could be another job's task.
    """
    found = {path.name.removesuffix(TASK): path for path in folder.glob(f"*{TASK}")}
    known = states(filter(is_job_id, found), folder)
    if known is None:
        raise ConfigError("SLURM does not answer, so nothing was submitted; try again (squeue)")
    for name, path in found.items():
        if known.get(name) not in {PENDING, RUNNING}:
            path.unlink(missing_ok=True)


class InQueue(NamedTuple):
    """A job in SLURM's queue: its ID, and whether the file with its task is there, without which it cannot run."""

    name: str
    has_task: bool


def in_queue(folder: Path) -> dict[int, InQueue] | None:
    """The pending and running jobs whose scripts are in a folder, by the number of their run; None if SLURM is silent.

    They are found by their scripts alone, so also those of a command that died before it could record their IDs.
    """
    answer = _run("squeue", "--noheader", "--array", "--format=%i|%T|%o")
    if answer.returncode:
        return None
    numbers: dict[str, list[int]] = {}
    found = {}
    for line in answer.stdout.splitlines():
        name, state, script = [*line.strip().split("|", 2), "", ""][:3]
        if not is_job_id(name) or not _is_of(script, folder) or _simplified(state) not in {PENDING, RUNNING}:
            continue
        file, task = Path(script).name, int(name.partition("_")[2] or 0)
        if file not in numbers:
            numbers[file] = _numbers(folder / file)
        if task < len(numbers[file]):
            found[numbers[file][task]] = InQueue(name, (folder / f"{name}{TASK}").is_file())
    return found


def _numbers(script: Path) -> list[int]:
    """The numbers of the runs that a script's tasks are; none if it does not say."""
    try:
        text = read_bytes(script, at_most=MAX_SCRIPT_BYTES).decode(errors="replace")
    except DataError:  # submitit has just moved it
        return []
    line = next((line for line in text.splitlines() if line.startswith(RUNS)), RUNS)
    return [int(each) for each in line.removeprefix(RUNS).split() if NUMBER.fullmatch(each)]


def states(ids: Iterable[str], folder: Path) -> dict[str, str] | None:
    """SLURM's state of each job, GONE for one that it has forgotten; None if SLURM does not answer.

    folder: from which the jobs were submitted. A job of that ID from elsewhere counts as GONE: the IDs may come from an
    untrusted file, and jobs are cancelled by them.
    """
    ids = list(ids)
    reported = _reported(sorted({name.partition("_")[0] for name in ids}), folder)
    return None if reported is None else {name: _simplified(reported.get(name)) for name in ids}


def _reported(arrays: Sequence[str], folder: Path) -> dict[str, str] | None:
    if not arrays:
        return {}
    named = [f"--jobs={','.join(arrays)}"] if len(arrays) <= MOST_NAMED else []
    answer = _run("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%o", *named)
    if answer.returncode:
        if "Invalid job id" not in answer.stderr:
            return None
        if len(arrays) == 1:
            return {}
        one_by_one = [_reported([each], folder) for each in arrays]  # some versions fail if one of them is forgotten
        known = [each for each in one_by_one if each is not None]
        return {name: state for each in known for name, state in each.items()} if known == one_by_one else None
    reported = {}
    for line in answer.stdout.splitlines():
        name, state, script = [*line.strip().split("|", 2), "", ""][:3]
        if _is_of(script, folder):
            reported[name] = state
    return reported


class Place(NamedTuple):
    """Where a job is on the cluster. state: as of `states`; reason: why it waits, in SLURM's word."""

    state: str
    node: str
    reason: str


def places(ids: Iterable[str], folder: Path) -> dict[str, Place] | None:
    """The place of each job that SLURM knows; None if it does not answer. One query, however many jobs there are.

    folder: as of `states`.
    """
    wanted = {*ids}
    if not wanted:
        return {}
    arrays = sorted({name.partition("_")[0] for name in wanted})
    query = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N|%o"]
    answer = _run(*query, *([f"--jobs={','.join(arrays)}"] if len(arrays) <= MOST_NAMED else []))
    if answer.returncode and "Invalid job id" in answer.stderr:  # SLURM has forgotten one of them
        answer = _run(*query)
    if answer.returncode:
        return None
    found = {}
    for line in answer.stdout.splitlines():
        name, state, reason, node, script = [*line.strip().split("|", 4), *5 * [""]][:5]
        if name in wanted and _is_of(script, folder):
            found[name] = Place(_simplified(state), node, "" if reason == "None" else reason)
    return found


def _is_of(script: str, folder: Path) -> bool:
    """Whether a job's script is in a folder, by its last names: machines may mount the disk in different places."""
    return Path(script).parent.parts[-NAMES:] == folder.parts[-NAMES:]


def _simplified(state: str | None) -> str:
    """PENDING, RUNNING (which includes COMPLETING), GONE, or the final state of a job."""
    if state is None:
        return GONE
    if state in ENDED:
        return state
    return PENDING if state in QUEUED else RUNNING


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs; running ones save their states first."""
    if ids:
        _run("scancel", *ids)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=os.environ | {"LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
