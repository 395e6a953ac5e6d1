"""A run inside a process that is not its own: a notebook's kernel, a script, an interpreter, a profiler.

Such a process goes on afterwards as it was, and what it prints is its own. A command of its own ends at once, but lets
others finish first.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

RUN = ["data=digits", "model=mlp", "trainer=smoke"]
STATE = """
import gc, logging, os, random, signal, sys, warnings
import matplotlib, numpy, torch
from hydra.core.global_hydra import GlobalHydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl

def state():
    return {
        "gc": (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()),
        "signals": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "path": [*sys.path], "argv": [*sys.argv], "cwd": os.getcwd(), "environment": dict(os.environ),
        "filters": [str(each) for each in warnings.filters], "backend": matplotlib.get_backend(),
        "handlers": [*logging.getLogger().handlers], "level": logging.getLogger().level,
        "python": random.getstate(), "numpy": str(numpy.random.get_state()), "torch": torch.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "threads": torch.get_num_threads(),
        "hydra": (GlobalHydra.instance().is_initialized(), ConfigLoaderImpl.load_configuration),
        "put off": [name for name, module in sys.modules.items() if type(module).__name__ == "_DeferredModule"],
        "locks": [each for each in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{each}")
                  and os.readlink(f"/proc/self/fd/{each}").endswith(("/.lock", "run.log"))],
    }
"""


def script(tmp_path, text, *flags, env=None, module=None):
    (tmp_path / "script.py").write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, *flags, *(["-m", *module] if module else ["script.py"])],
        cwd=tmp_path,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_goes_on_after_runs_with_nothing_changed_and_ends_without_complaints(tmp_path):
    done = script(
        tmp_path,
        STATE
        + f"""
import fmx.run
sys.argv = ["script.py"]
before = state()
codes = []
for words in ({RUN}, ["lr=0.1"], {RUN}, ["data=digits", "data.batch_size=0"], ["--version"]):
    sys.argv[1:] = words
    try:
        fmx.run.main()
        codes.append(0)
    except SystemExit as ended:
        codes.append(ended.code)
    assert sys.argv[1:] == words
sys.argv[1:] = []
changed = [name for name, value in state().items() if value != before[name]]
print("CODES", codes, "CHANGED", changed)
""",
    )
    assert done.stdout.splitlines()[-1] == "CODES [0, 2, 0, 2, 0] CHANGED []", done.stdout + done.stderr
    assert done.stderr.splitlines() == [line for line in done.stderr.splitlines() if line.startswith(("lr: ", "data."))]
    assert done.returncode == 0
    assert len([*tmp_path.glob("outputs/runs/*/metrics.json")]) == 2


NOTEBOOK = [
    STATE + "before = state()",
    "%run -m fmx.run data=digits model=mlp trainer=smoke hydra.run.dir=first",
    "import json; print('STATUS', json.load(open('first/run.json'))['status'])",
    "%run -m fmx.run data=digits optim.lr=-1",
    "%run -m fmx.run data=digits model=mlp trainer.max_epochs=1000 hydra.run.dir=second",  # Ctrl-C comes here
    "print('STATUS', json.load(open('second/run.json'))['status'])",
    "%run -m fmx.run data=digits model=mlp trainer=smoke hydra.run.dir=third",
    "%run -m fmx report first",
    "print('CHANGED', [name for name, value in state().items() if value != before[name]])",
]


def test_a_notebooks_kernel_goes_on_after_runs_errors_and_ctrl_c(tmp_path):
    manager = pytest.importorskip("jupyter_client.manager")
    kernels, client = manager.start_new_kernel(cwd=str(tmp_path), startup_timeout=120)
    try:
        outputs = []
        for cell in NOTEBOOK:
            number = client.execute(cell)
            if "max_epochs=1000" in cell:
                await_file(tmp_path / "second" / "history.csv")
                kernels.interrupt_kernel()
            outputs.append(texts_of(client, number))
        assert kernels.is_alive()
    finally:
        client.stop_channels()
        kernels.shutdown_kernel(now=True)
    assert "test accuracy" in outputs[1]
    assert outputs[2] == "STATUS completed\n"
    assert "optim.lr must be a number greater than 0, got -1" in outputs[3]
    assert "interrupted; resume=second continues it" in outputs[4].replace(f"{tmp_path}/", "")
    assert outputs[5] == "STATUS interrupted\n"
    assert "val accuracy" in outputs[7]
    assert outputs[8] == "CHANGED []\n"


def await_file(path: Path) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def texts_of(client, number) -> str:
    """What a cell prints, its errors included, until the kernel is idle again."""
    told = ""
    while True:
        message = client.get_iopub_msg(timeout=300)
        content = message["content"]
        if message["parent_header"].get("msg_id") != number:
            continue
        if message["msg_type"] == "stream":
            told += content["text"]
        elif message["msg_type"] == "error":
            told += f"{content['ename']}: {content['evalue']}\n"
        elif message["msg_type"] == "status" and content["execution_state"] == "idle":
            return told


@pytest.mark.parametrize(
    "module",
    [
        ["cProfile", "-o", "profile", "-m", "fmx.run"],
        ["pdb", "-c", "continue", "-c", "quit", "-m", "fmx.run"],
        ["fmx.run"],
    ],
)
def test_profilers_debuggers_and_interpreters_see_the_end(tmp_path, module):
    flags = ["-i"] if module == ["fmx.run"] else []
    done = subprocess.run(
        [sys.executable, *flags, "-m", *module, "--version"],
        cwd=tmp_path,
        input="print('GOES ON')\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "fmx 0." in done.stdout
    if module[0] == "cProfile":
        assert (tmp_path / "profile").stat().st_size
    elif module[0] == "pdb":
        assert "The program finished and will be restarted" in done.stdout
    else:
        assert "GOES ON" in done.stdout
    assert "nanobind" not in done.stderr


LOGGER = """
import atexit, logging, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pytorch_lightning.loggers import Logger

def later(name):
    time.sleep(1.5)
    Path(name).write_text("sent")

class Remote(Logger):
    name = version = "remote"
    log_metrics = log_hyperparams = lambda *_, **__: None
    def __init__(self):
        super().__init__()
        self.pool = ThreadPoolExecutor()
    def finalize(self, status):
        self.pool.submit(later, "executor")
        threading.Thread(target=later, args=("thread",)).start()
        atexit.register(lambda: Path("atexit").write_text(f"{Path('thread').exists()} {Path('executor').exists()}"))
"""


@pytest.mark.parametrize("entry", [[Path(sys.executable).with_name("fmx")], [sys.executable, "-m", "fmx.run"]], ids=len)
def test_a_command_waits_for_the_threads_and_executors_of_a_logger(tmp_path, entry):
    (tmp_path / "remote.py").write_text(LOGGER)
    done = subprocess.run(
        [*entry, *RUN, "+logger.remote._target_=remote.Remote"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert [(tmp_path / name).read_text() for name in ("thread", "executor", "atexit")] == ["sent", "sent", "True True"]


def test_ctrl_c_while_a_logger_is_waited_for_ends_the_command(tmp_path):
    (tmp_path / "remote.py").write_text(LOGGER.replace("1.5", "600"))
    process = subprocess.Popen(
        [Path(sys.executable).with_name("fmx"), *RUN, "+logger.remote._target_=remote.Remote", "hydra.run.dir=run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    await_file(tmp_path / "run" / "run.json")
    while json.loads((tmp_path / "run" / "run.json").read_text())["status"] != "completed":
        time.sleep(0.2)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_a_sweep_from_a_script_without_a_main_guard_trains_each_job_once(tmp_path):
    done = script(
        tmp_path,
        """
        import sys
        import fmx.run
        print("BEGUN")
        sys.argv[1:] = ["-m", "data=digits", "model=mlp", "trainer=smoke", "seed=1,2", "hydra.sweep.dir=sweep"]
        fmx.run.main()
        """,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("BEGUN") == 1
    assert len([*tmp_path.glob("sweep/[01]/metrics.json")]) == 2
    assert done.stderr == ""


def test_a_run_in_a_thread_of_a_script(tmp_path):
    done = script(
        tmp_path,
        f"""
        import sys, threading
        import fmx.run
        sys.argv[1:] = {RUN}
        thread = threading.Thread(target=fmx.run.main)
        thread.start()
        thread.join()
        """,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "test accuracy" in done.stdout
