"""The processes of a distributed run: how many there are, which is the first, and that none outlives the others."""

import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from fmx.errors import ConfigError

if TYPE_CHECKING:
    from pytorch_lightning import Trainer
    from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

__all__ = ["check_started", "end_together", "is_first_process", "num_processes", "started_by_srun"]

PAUSE_S = 0.1  # between two looks at the others; Lightning looks every 5 s, and then kills without a word
PARENT = "FMX_PARENT"  # the process that started the others of its machine
PATIENCE_S = 3.0  # how long after a broken connection the process that broke it may take to end


def num_processes(trainer: Mapping[str, Any]) -> int:
    """How many processes train together by a `trainer` node; 1 where that is left to the machine."""
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        devices = len(devices)
    count = devices if isinstance(devices, int) else 1
    return int(count * nodes)


def started_by_srun(processes: int) -> bool:
    """Whether SLURM started one task for each process of this run, so that nothing else may start them."""
    return processes > 1 and _srun_tasks() == processes


def is_first_process(processes: int) -> bool:
    """Whether this process keeps the records of its run."""
    names = ["RANK", "NODE_RANK", "LOCAL_RANK"]  # torchrun's, and Lightning's own
    if started_by_srun(processes):
        names.append("SLURM_PROCID")
    return all(int(os.environ.get(name) or 0) == 0 for name in names)


def check_started(trainer: Mapping[str, Any], *, names_folder: bool) -> None:
    """ConfigError where processes that someone else started would not make one run.

    names_folder: whether the command line says where the run is; each process would make up a folder of its own.
    """
    processes, tasks = num_processes(trainer), _srun_tasks()
    if processes > 1 and tasks > 1 and tasks != processes:
        raise ConfigError(
            f"srun started {tasks} tasks, but trainer.devices and trainer.num_nodes make {processes} processes; "
            "they must be equal"
        )
    if started_by_srun(processes) and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ConfigError("give srun the number of tasks as --ntasks-per-node=N, with N as trainer.devices")
    several = started_by_srun(processes) or trainer.get("num_nodes", 1) > 1 or "TORCHELASTIC_RUN_ID" in os.environ
    if processes > 1 and several and not names_folder:
        raise ConfigError("the processes of this run are started one by one: tell all of them hydra.run.dir=DIR")


def _srun_tasks() -> int:
    """The tasks of the job step that this process belongs to; 0 outside one (a batch script is none)."""
    return int(os.environ.get("SLURM_NTASKS") or 0) if "SLURM_STEP_ID" in os.environ else 0


class Ending(Protocol):
    """What keeps the record of a run."""

    def end(self, status: str, error: str | None) -> str | None:
        """Record how the run ended; returns the first error on record."""


@contextmanager
def end_together(trainer: "Trainer", record: Ending) -> Iterator[None]:
    """While the processes of a run train together: when one dies, end the others, and say so in the record.

    srun does this for its own tasks, with --kill-on-bad-exit; here it is done for those that Lightning starts.
    """
    from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        yield
        return
    watch: _Watch
    if trainer.local_rank == 0:
        os.environ[PARENT] = str(os.getpid())  # what it starts must know even if this process is gone by then
        watch = _Children(launcher, record)
    else:
        watch = _Parent()
    watch.start()
    try:
        yield
    except BaseException as error:
        if isinstance(error, RuntimeError):  # most likely a connection that broke because its other end died
            watch.join(PATIENCE_S)
        watch.stop()
        for process in launcher.procs:
            process.kill()  # it would wait for this one for ever
        raise
    finally:
        watch.stop()
        os.environ.pop(PARENT, None)


class _Watch(threading.Thread, ABC):
    """Looks at other processes until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(PAUSE_S):
            self.look()

    def stop(self) -> None:
        self._stopped.set()

    @abstractmethod
    def look(self) -> None:
        """Act where something has ended."""


class _Parent(_Watch):
    """Ends this process once the one that started it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self._parent = int(os.environ.get(PARENT) or os.getppid())

    def look(self) -> None:
        if os.getppid() != self._parent:
            os._exit(1)


class _Children(_Watch):
    """Ends this process and those that it started once one of them has failed."""

    def __init__(self, launcher: "_SubprocessScriptLauncher", record: Ending) -> None:
        super().__init__()
        self._launcher = launcher
        self._record = record

    def look(self) -> None:
        processes = list(self._launcher.procs)
        for number, process in enumerate(processes, start=1):
            code = process.poll()
            if not code:
                continue
            self.stop()
            signum = -code if code < 0 else code - 128
            if signum in {signal.SIGINT, signal.SIGTERM}:  # while this one waited for it: it was meant for both
                self._record.end("interrupted", None)
                said: str | None = "interrupted"
                code = 128 + signum
            else:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                said = self._record.end("failed", f"process {number} of this run {how}, so the others were ended")
                code = 1
            for other in processes:
                other.kill()
            sys.stderr.write(f"{said}\n")
            sys.stderr.flush()
            os._exit(code)
