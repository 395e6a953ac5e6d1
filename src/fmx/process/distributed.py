"""The processes of a distributed run: who started them, which is the first, and how they end together.

Launchers' environment variables outlive the launcher, in a shell for example. They count only where the configuration
has several processes, or where the launcher is still running.
"""

import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fmx.compat import script_launcher
from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError, first_line

if TYPE_CHECKING:
    from pytorch_lightning import Trainer
    from torch.distributed import Store  # type: ignore[attr-defined]

__all__ = [
    "agree_on",
    "can_agree",
    "check_no_torchrun",
    "check_started",
    "drop_invalid_ranks",
    "end_together",
    "environment_without_ranks",
    "is_first_process",
    "launcher_hint",
    "lost_connection",
    "num_processes",
    "port_of_restart",
    "start_on_machines",
    "started_by",
    "torchrun_processes",
    "with_srun",
]

PAUSE_S = 0.1  # between polls of the other processes; Lightning polls every 5 s and kills without a message
PARENT = "FMX_PARENT"  # the process that started the others on its machine
PATIENCE_S = 3.0  # after a broken connection, how long the process that broke it may take to end
ANSWER_S = 3.0  # how long the store of torchrun's agent may take to answer
BROKEN = {"DistBackendError", "DistNetworkError", "DistStoreError"}  # torch's errors; Gloo's are a plain RuntimeError
READ_AT_IMPORT = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # Lightning parses them as integers
SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
TASKS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
PER_PROCESS = (  # prefixes of the variables that launchers set for each process
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_", "OMPI_COMM_", "PMI_"),
    *("PMIX_", "SLURM_STEP", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
    PARENT,
)
RENDEZVOUS_PORT = 29400  # torchrun's default
Starter = Literal["fmx", "torchrun", "srun", "hand", "nobody"]

# Removed from the environment, so that child processes do not inherit it.
_parent = int(os.environ.pop(PARENT, None) or 0)


def num_processes(trainer: Mapping[str, Any]) -> int:
    """The number of processes of a `trainer` node; 1 where devices are chosen automatically."""
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        devices = len(devices)
    count = devices if isinstance(devices, int) else 1
    return int(count * nodes)


def started_by(trainer: Mapping[str, Any]) -> Starter:
    """Who started this process of a distributed run.

    fmx: the run's first process on this machine. hand: the user, one on each machine. nobody: it is the only process,
    or the first.
    """
    processes = num_processes(trainer)
    if _parent and _number("LOCAL_RANK") > 0:
        return "fmx"
    if torchrun_processes() == processes:
        return "torchrun"
    if processes > 1 and _srun_tasks() == processes:
        return "srun"
    return "hand" if trainer.get("num_nodes", 1) > 1 else "nobody"


def with_srun(trainer: Mapping[str, Any]) -> list[str]:
    """The words that begin a command whose processes SLURM starts on several machines."""
    nodes = trainer["num_nodes"]
    per_node = num_processes(trainer) // nodes
    gpus = [f"--gpus-per-node={per_node}"] if trainer.get("accelerator") in {"gpu", "cuda"} else []
    return ["srun", f"--nodes={nodes}", f"--ntasks-per-node={per_node}", *gpus, "--kill-on-bad-exit=1"]


def start_on_machines(trainer: Mapping[str, Any], first_host: str) -> tuple[list[str], bool]:
    """The words that start a run of a `trainer` node, up to its overrides, and whether it needs hydra.run.dir.

    Where the run has several machines, SLURM starts its processes; without it, torchrun on each of the machines, which
    meet on `first_host`.
    """
    nodes = trainer.get("num_nodes", 1)
    if nodes == 1:
        return ["python", "-m", "fmx.run"], False
    if shutil.which("srun"):
        return [*with_srun(trainer), "python", "-m", "fmx.run"], True
    return [
        *("torchrun", f"--nnodes={nodes}", f"--nproc-per-node={num_processes(trainer) // nodes}"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={first_host}:{RENDEZVOUS_PORT}", "-m", "fmx.run"),
    ], False


def is_first_process(trainer: Mapping[str, Any]) -> bool:
    """Whether this process has rank 0 and writes the run's records."""
    names = {"torchrun": "RANK", "srun": "SLURM_PROCID", "hand": "NODE_RANK"}
    starter = started_by(trainer)
    return starter != "fmx" and _number(names.get(starter, "")) == 0


def launcher_hint(trainer: Mapping[str, Any]) -> str | None:
    """A warning where a launcher started several processes of a single-process run; None where none did."""
    if num_processes(trainer) > 1 or started_by(trainer) != "nobody":
        return None
    if (tasks := _srun_tasks()) > 1:
        who, count = f"srun started {tasks} tasks", tasks
    elif name := next((name for name in SIZES if _number(name) > 1), None):
        who, count = f"the environment has {name}={_number(name)}", _number(name)
    else:
        return None
    return f"{who}, but this is a separate run (for one run of all processes: trainer=ddp trainer.devices={count})"


def check_started(trainer: Mapping[str, Any], *, names_folder: bool, resume: str | None) -> None:
    """ConfigError where the processes that a launcher or the user started would not form one run.

    names_folder: whether the command line names the run directory; otherwise each process would create its own.
    resume: the configuration's.
    """
    starter, processes, nodes = started_by(trainer), num_processes(trainer), trainer.get("num_nodes", 1)
    if starter == "fmx":
        return
    _check_torchrun(trainer)
    if processes == 1:
        return
    if starter == "torchrun" and _number("TORCHELASTIC_MAX_RESTARTS") and resume is None:
        raise ConfigError(
            "torchrun may restart this run (--max-restarts): add resume=auto, and it goes on from its last saved state"
        )
    tasks = _srun_tasks()
    if starter in {"hand", "nobody"} and tasks > 1:
        raise ConfigError(
            f"srun started {tasks} tasks, but trainer.devices and trainer.num_nodes make {processes} processes; "
            "they must be equal"
        )
    if starter == "srun" and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ConfigError("give srun the number of tasks as --ntasks-per-node=N, with N as trainer.devices")
    if starter == "hand":
        _check_by_hand(nodes, names_folder=names_folder)
    if starter != "nobody" and not names_folder:
        raise ConfigError(
            "the processes of this run are started one by one: give each of them the same hydra.run.dir=DIR"
        )
    if starter == "hand":
        _check_stray_variables(["LOCAL_RANK"], [name for name in SIZES if _number(name) not in {0, processes}])
    elif starter == "nobody":
        _check_stray_variables(["LOCAL_RANK", "RANK"], [name for name in SIZES if _number(name) > 1])


def check_no_torchrun() -> None:
    """ConfigError where torchrun started several processes of a command that is not a distributed run."""
    if (started := torchrun_processes()) > 1:
        raise ConfigError(
            f"torchrun started {started} processes, and each would run all jobs; start a sweep without torchrun: with "
            "-m trainer=ddp trainer.devices=N each job starts its own processes"
        )


def _check_torchrun(trainer: Mapping[str, Any]) -> None:
    started, processes = torchrun_processes(), num_processes(trainer)
    nodes = _number("GROUP_WORLD_SIZE") or 1
    if started in {0, processes}:
        return
    more = f" trainer.num_nodes={nodes}" if nodes > 1 else ""
    alone = f", or start it without torchrun: {printed_command('python', '-m', 'fmx.run', *sys.argv[1:])}"
    raise ConfigError(
        f"torchrun started {started} processes, but this configuration makes a run of {processes}: add trainer=ddp "
        f"trainer.devices={started // nodes}{more}{alone if trainer.get('num_nodes', 1) == 1 else ''}"
    )


def _check_by_hand(nodes: int, *, names_folder: bool) -> None:
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        folder = "" if names_folder else ", and all with the same hydra.run.dir=DIR"
        raise ConfigError(
            f"trainer.num_nodes={nodes} without {', '.join(missing)}: start it with srun or torchrun, as jobs of "
            "SLURM (-m hydra/launcher=slurm), or on each "
            f"machine with NODE_RANK=0 (to {nodes - 1}), and MASTER_ADDR=HOST and MASTER_PORT=PORT of the first{folder}"
        )
    if not os.environ["NODE_RANK"].isdigit() or _number("NODE_RANK") >= nodes:
        raise ConfigError(f"NODE_RANK must be from 0 to {nodes - 1}, got {os.environ['NODE_RANK']!r}")
    if not os.environ["MASTER_PORT"].isdigit():
        raise ConfigError(f"MASTER_PORT must be a number, got {os.environ['MASTER_PORT']!r}")


def _check_stray_variables(ranks: Sequence[str], sizes: Sequence[str]) -> None:
    """ConfigError where rank or size variables are set, but no known launcher started this process."""
    stray = [name for name in ranks if _number(name) > 0] + list(sizes)
    if stray:
        values = ", ".join(f"{name}={os.environ[name]}" for name in stray)
        without = " ".join(["env", *(f"-u {name}" for name in stray)])
        raise ConfigError(
            f"{values}: who started this process as one of several? Neither torchrun nor srun did. Begin the command "
            f"with `{without}`, and it starts the others itself; or start all of them with torchrun or srun"
        )


@cache
def torchrun_processes() -> int:
    """The number of processes that torchrun started; 0 where it did not start this one.

    Variables alone may be stale, so its agent must answer at MASTER_PORT.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0
    address, port = os.environ.get("MASTER_ADDR"), _number("MASTER_PORT")
    if not address or not port:
        return 0
    if _agent_has_store():
        try:
            socket.create_connection((address, port), timeout=ANSWER_S).close()
        except (OSError, OverflowError):
            return 0
    return _number("WORLD_SIZE")


def _agent_has_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def can_agree() -> bool:
    """Whether torchrun started several processes and its store is available to `agree_on`."""
    return torchrun_processes() > 1 and _agent_has_store()


def agree_on(name: str, text: str) -> str:
    """The text that the first of torchrun's processes, also of those before a restart, proposed for a name.

    `text` itself without torchrun.
    """
    if not can_agree():
        return text
    proposed: bytes = _agent_store().compare_set(f"fmx/{name}", "", text)
    return proposed.decode()


def port_of_restart() -> int | None:
    """The port at which the processes of a torchrun that may restart meet; None where it restarts nothing.

    torchrun's own store keeps the addresses of processes that have ended, and its count of restarts differs between
    machines. So the first process offers a new port each time, and the others wait until it answers there.
    """
    if not can_agree() or not _number("TORCHELASTIC_MAX_RESTARTS"):
        return None
    store, key = _agent_store(), "fmx/port"
    if _number("RANK") == 0:
        with socket.create_server(("", 0)) as free:
            port = int(free.getsockname()[1])
        store.set(key, str(port))
        return port
    while True:  # torchrun ends this process where the first one fails
        port = int(store.get(key))
        with suppress(OSError):
            socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=ANSWER_S).close()
            return port
        time.sleep(PAUSE_S)


def _agent_store() -> "Store":
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


def lost_connection(error: BaseException) -> str | None:
    """What torch said where the connection to another process of the run broke; None for any other error."""
    text = first_line(error)
    if isinstance(error, RuntimeError) and (type(error).__name__ in BROKEN or "gloo" in text):
        return re.sub(r"^.*?\.(cc|cpp):\d+\]\s*", "", text).partition(". ")[0]
    return None


def environment_without_ranks() -> dict[str, str]:
    """Copy of the environment without launchers' variables, for a child that is a single-process run."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PER_PROCESS)}


def drop_invalid_ranks() -> None:
    """Remove rank variables that are not integers: Lightning's import would fail on them."""
    for name in READ_AT_IMPORT:
        if not os.environ.get(name, "0").isdigit():
            del os.environ[name]


def _srun_tasks() -> int:
    """The number of tasks of this process's srun job step; 0 in a batch script or a shell."""
    if "SLURM_STEP_ID" not in os.environ or "SLURM_PTY_PORT" in os.environ:
        return 0
    return next((_number(name) for name in TASKS if name in os.environ), 0)


def _number(name: str) -> int:
    """An environment variable as an integer; 0 where it is not one."""
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else 0


class EndRecorder(Protocol):
    """Records how a run ended."""

    def end(self, status: str, error: str | None) -> str | None:
        """Record how the run ended; returns the first recorded error."""


@contextmanager
def end_together(trainer: "Trainer", record: EndRecorder) -> Iterator[None]:
    """In the block, when one process of a distributed run dies, end the others and record the failure.

    For the processes that Lightning starts; srun does this for its own tasks with --kill-on-bad-exit.
    """
    launcher = script_launcher(trainer)
    if launcher is None:
        yield
        return
    watch: _WatchThread
    if trainer.local_rank == 0:
        os.environ[PARENT] = str(os.getpid())  # child processes compare it with their parent
        watch = _ChildrenWatch(launcher, record)
    else:
        watch = _ParentWatch()
    watch.start()
    try:
        yield
    except BaseException as error:
        if isinstance(error, RuntimeError):  # most likely a broken connection to a process that died
            watch.join(PATIENCE_S)
        watch.stop()
        for process in launcher.procs:
            process.kill()  # it would wait for this process forever
        raise
    finally:
        watch.stop()
        os.environ.pop(PARENT, None)


class _WatchThread(threading.Thread, ABC):
    """Polls other processes until stopped."""

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
        """Poll once, and act where a process has ended."""


class _ParentWatch(_WatchThread):
    """Ends this process once its parent has ended."""

    def __init__(self) -> None:
        super().__init__()
        self._parent = _parent or os.getppid()

    def look(self) -> None:
        if os.getppid() != self._parent:
            os._exit(1)


class _ChildrenWatch(_WatchThread):
    """Ends this process and its children once a child has failed."""

    def __init__(self, launcher: Any, record: EndRecorder) -> None:
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
            if signum in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)}:  # sent to the whole run
                self._record.end("interrupted", None)
                message: str | None = "interrupted"
                code = 128 + signum
            else:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                message = self._record.end("failed", f"process {number} of this run {how}, so the others were ended")
                code = 1
            for other in processes:
                other.kill()
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()
            os._exit(code)
