"""Whole commands where Python lacks what Windows does not have: fcntl, resource, os.fork, SIGHUP and their like."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = ["data=digits", "model=mlp", "logger=none"]

SCRIPT = """
import os, shutil, signal, sys
from types import SimpleNamespace

for module in ("fcntl", "resource", "termios"):
    assert sys.modules[module] is None
assert not {"fork", "setsid", "killpg", "geteuid", "posix_fallocate", "statvfs"} & {*dir(os)}
assert not {"SIGHUP", "SIGPROF", "pthread_sigmask", "setitimer"} & {*dir(signal)}

import fmx
from fmx.__main__ import main
from PIL import Image

def typed(*words):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as ended:
        return ended.code or 0
    return 0

assert typed("resume=run") == 0
assert typed("evaluate", "run") == 0
Image.new("L", (28, 28)).save("0.png")
assert typed("predict", "run", "0.png") == 0

run = fmx.train("data=digits", "model=mlp", "trainer=smoke", "hydra.run.dir=trained")
assert run.predict("0.png").names
assert typed("data=digits", "hydra.run.dir=trained") == 2, "it holds a run already"

shutil.disk_usage = lambda _: SimpleNamespace(free=1000)
try:
    fmx.train("data=digits", "model=mlp", "trainer=smoke", "hydra.run.dir=full")
except fmx.DataError as error:
    assert "No space left on device; make room" in str(error), error
else:
    raise AssertionError
print("all lines hold")
"""


@pytest.fixture
def windows(tmp_path) -> dict[str, str]:
    """The environment in which Python lacks what Windows does."""
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(Path(__file__).with_name("without_posix.py"), site / "sitecustomize.py")
    # USERNAME is set on Windows, where the database of users that it replaces does not exist.
    return os.environ | {"PYTHONPATH": str(site), "PYTHONWARNINGS": "error", "USERNAME": "somebody"}


def test_a_single_run_needs_nothing_of_posix(tmp_path, windows):
    command = [sys.executable, "-m", "fmx.run", *RUN, "trainer.max_epochs=9", "hydra.run.dir=run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=windows, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + 200
    while not (tmp_path / "run/history.csv").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == 143, printed
    assert "Traceback" not in printed
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=windows, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all lines hold"
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], len(record["parts"]), record["peak_memory_mb"]) == ("completed", 1, None)


def test_what_needs_forks_says_so_in_one_line(tmp_path, windows):
    def typed(*words):
        return subprocess.run(
            [sys.executable, "-m", "fmx", *words],
            cwd=tmp_path,
            env=windows,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "resume" in typed("--help").stdout
    sweep = typed("-m", "seed=1,2", *RUN, "trainer=smoke", "hydra.sweep.dir=sweep")
    assert sweep.returncode == 2
    assert sweep.stderr == (
        "sweeps and searches fork their jobs, which this system cannot do; hydra/launcher=basic runs the jobs of a "
        "sweep one after the other\n"
    )
    assert not (tmp_path / "sweep").exists()
