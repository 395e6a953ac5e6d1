"""What the tests share: real commands in real processes, and who needs which machine."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import slurm_cluster
from warm_process import COLD, NO_FIGURES

# Tests run side by side, one a core: a second thread each would only make them wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell that starts the tests in the background has SIGINT ignored, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it

Command = Callable[..., subprocess.CompletedProcess[str]]

# What `make test` runs, in a few minutes on two cores: of these files, the tests that need neither data nor services.
MAIN = (
    *("augment", "bad_config", "bad_data", "bounded_readers", "command_line", "compare", "conf", "data_sources"),
    *("evaluate", "extension", "figures", "layout", "loader", "losses", "models", "old_runs", "predict", "python"),
    *("record", "report", "split"),
)
# The files with the longest tests, which start first.
LONG = (
    *(
        "sweep",
        "slurm",
        "slurm_nodes",
        "slurm_search",
        "search",
        "ddp",
        "loggers",
        "moved_data",
        "terminal",
        "tensorboard",
        "compat",
    ),
    *("timm", "ema", "environment", "export", "closed_terminal", "init", "report", "python", "without_posix"),
)
ELSEWHERE = {"browser", "data", "gpu", "long", "nodes", "slow", "slurm"}


def pytest_xdist_auto_num_workers() -> int:
    """How many tests `-n auto` runs at once: much of their time they wait, for a process that ends or a cluster."""
    return 3 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why; start with what takes long, so that no core waits at the end."""
    import torch

    reasons = {
        "data": None if os.environ.get("FMX_DATA_ROOT") else "FMX_DATA_ROOT names no folder with the real data",
        "long": None if os.environ.get("FMX_LONG") else "takes many minutes: FMX_LONG=1 runs it",
        "gpu": None if torch.cuda.is_available() else "torch sees no GPU",
        "slurm": f"{slurm_cluster.missing()} is not installed" if slurm_cluster.missing() else None,
        "browser": None if shutil.which("chromium") else "chromium is not installed",
    }
    if any(item.get_closest_marker("nodes") for item in items):
        reasons["nodes"] = slurm_cluster.missing_for_nodes()
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.path.stem.removeprefix("test_") in MAIN and not any(map(item.get_closest_marker, ELSEWHERE)):
            item.add_marker("main")
    long = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (not item.get_closest_marker("slow"), long.get(item.path.stem, len(long))))


def module_of(verb: str) -> str:
    """The module that runs a verb."""
    return {"run": "fmx.run", "cli": "fmx.__main__"}.get(verb, f"fmx.commands.{verb.replace('-', '_')}")


@pytest.fixture(scope="session")
def cold_command() -> Command:
    """Run a verb as a process of its own, exactly as a person would; costs the seconds of its imports."""

    def run(
        *arguments: str,
        cwd: Path,
        module: str = "run",
        env: dict[str, str] | None = None,
        timeout_s: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module_of(module), *arguments],
            cwd=cwd,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


def send_signal(pid: int, when: float | Path, signum: int, ended: threading.Event) -> None:
    """Send a signal after so many seconds, or as soon as there is such a file; never to a process that has ended."""
    if isinstance(when, Path):
        while not when.exists() and not ended.wait(0.01):
            pass
    else:
        ended.wait(when)
    if not ended.is_set():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Run `python -m fmx.MODULE ARGUMENTS` in a process of its own, forked from one that has the imports behind it."""
    outputs = tmp_path_factory.mktemp("outputs")
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("warm_process.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(
        *arguments: str,
        cwd: Path,
        module: str = "run",
        env: dict[str, str] | None = None,
        timeout_s: float = 300,
        send: tuple[float | Path, int] | None = None,
        die_at_change: int = 0,
    ) -> subprocess.CompletedProcess[str]:
        """send: after how many seconds, or at which file's appearance, the process gets which signal.

        die_at_change: the number of the change to the files below `cwd`, from 1, at which it is killed.
        """
        request = {
            "module": module_of(module),
            "arguments": arguments,
            "cwd": str(cwd),
            "env": os.environ | (env or {}),
            "stdout": str(outputs / "stdout"),
            "stderr": str(outputs / "stderr"),
            "die_at_change": die_at_change,
        }
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        pid = json.loads(server.stdout.readline())["pid"]
        killer = threading.Timer(timeout_s, os.kill, (pid, signal.SIGKILL))
        killer.start()
        ended = threading.Event()
        if send:
            threading.Thread(target=send_signal, args=(pid, *send, ended)).start()
        code = json.loads(server.stdout.readline())["returncode"]
        killer.cancel()
        ended.set()
        encoding = (env or {}).get("PYTHONIOENCODING", "utf-8")
        texts = [(outputs / name).read_text(encoding=encoding) for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(["fmx", module, *arguments], code, *texts)

    yield run
    server.kill()
    server.communicate()


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """Have the warm commands of a file that looks at no figures draw none, which is half of a short run's seconds."""
    os.environ[NO_FIGURES] = "1"
    yield
    del os.environ[NO_FIGURES]


@pytest.fixture(scope="module")
def cold_second_run() -> Iterator[None]:
    """Have `fmx reproduce` start Python anew for its run, as it does for everybody."""
    os.environ[COLD] = "1"
    yield
    del os.environ[COLD]


@pytest.fixture(scope="session")
def digits_run(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a short, complete run on the digits."""
    folder = tmp_path_factory.mktemp("digits")
    finished = command(
        *("data=digits", "model=lenet", "augment=none", "trainer.max_epochs=3", "hydra.run.dir=run"),
        cwd=folder,
        env={NO_FIGURES: ""},
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "run"
