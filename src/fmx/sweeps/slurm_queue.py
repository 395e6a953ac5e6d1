"""SLURM's commands: submit arrays through submitit, ask for the states of jobs, cancel them."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError
from fmx.sweeps.array_task import ArrayTask

__all__ = ["GONE", "PENDING", "RUNNING", "cancel", "check_installed", "states", "submit"]

PENDING, RUNNING, GONE = "PENDING", "RUNNING", "GONE"
QUEUED = {PENDING, "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
LARGEST_ARRAY = 1000  # SLURM's own default
TIMEOUT_S = 60


def check_installed() -> None:
    """ConfigError where submitit or SLURM's commands are missing."""
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


def submit(tasks: Sequence[ArrayTask], folder: Path, resources: Mapping[str, Any]) -> Iterator[str]:
    """Submit one array for each thousand tasks, and yield SLURM's job of each, such as `12_3`.

    folder: takes what submitit and SLURM write. resources: as submitit.SlurmExecutor takes them; those that are None
    are left to the cluster. Raises ConfigError with SLURM's own words where it refuses.
    """
    import submitit

    given = {key: value for key, value in resources.items() if value is not None}
    for first in range(0, len(tasks), LARGEST_ARRAY):
        executor = submitit.SlurmExecutor(folder=folder)
        try:
            executor.update_parameters(**given)
            with executor.batch():
                jobs = [executor.submit(task) for task in tasks[first : first + LARGEST_ARRAY]]
        except ValueError as error:
            raise ConfigError(f"hydra.launcher: {error}") from error
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            lines = [line.strip() for line in str(error).splitlines() if "error:" in line] or [str(error).strip()]
            raise ConfigError(f"SLURM refuses the jobs: {'; '.join(lines)}") from error
        yield from [str(job.job_id) for job in jobs]


def states(ids: Iterable[str]) -> dict[str, str] | None:
    """SLURM's state of each job, GONE for one that it has forgotten; None where SLURM does not answer."""
    ids = list(ids)
    arrays = sorted({name.partition("_")[0] for name in ids})
    told: dict[str, str] = {}
    for array in arrays:  # one by one: a single forgotten one would make squeue fail for all
        answer = _ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={array}")
        if answer.returncode and "Invalid job id" not in answer.stderr:
            return None
        told |= dict(line.strip().split("|", 1) for line in answer.stdout.splitlines() if "|" in line)
    return {name: _plain(told.get(name)) for name in ids}


def _plain(state: str | None) -> str:
    """PENDING, RUNNING (which includes what is just ending), GONE, or the state in which a job has ended."""
    if state is None:
        return GONE
    if state in ENDED:
        return state
    return PENDING if state in QUEUED else RUNNING


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs: waiting ones at once, running ones save their states first."""
    if ids:
        _ask("scancel", *ids)


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=os.environ | {"LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
