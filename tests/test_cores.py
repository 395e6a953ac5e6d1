"""How much of a machine a command takes: what its affinity and its control groups allow."""

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fmx.process.cores import memory_limit, num_cores

CPU = Path("/sys/fs/cgroup/cpu")
SMALL = ["data=digits", "model=mlp", "trainer=smoke"]
FREE = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


@pytest.fixture
def quota():
    """A control group of version 1 with one core, and one inside it that says nothing: a container's."""
    group = CPU / f"fmx_{secrets.token_hex(4)}"
    try:
        (group / "inner").mkdir(parents=True)
        (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        pytest.skip(f"no control group with a CPU quota can be made here: {error.strerror}")
    yield group / "inner"
    for folder in (group / "inner", group):
        while (folder / "cgroup.procs").read_text():  # what a sweep forked from ends a little later
            time.sleep(0.1)
        folder.rmdir()


def told(prefix: list[str], cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "fmx.run", *arguments, *SMALL],
        cwd=cwd, env=FREE, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core")
def test_threads_and_jobs_follow_a_cpu_quota(quota, tmp_path):
    inside = ["sh", "-c", f'echo $$ > {quota}/cgroup.procs; exec "$@"', "sh"]
    told(inside, tmp_path, "hydra.run.dir=run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["device"]["threads"] == 1
    assert "2 jobs, 1 at a time" in told(inside, tmp_path, "-m", "seed=1,2", "hydra.sweep.dir=sweep")
    for run in ("0", "1"):
        assert json.loads((tmp_path / "sweep" / run / "run.json").read_text())["device"]["threads"] == 1


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core")
def test_threads_follow_the_affinity(tmp_path):
    told(["taskset", "-c", str(min(os.sched_getaffinity(0)))], tmp_path, "hydra.run.dir=run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["device"]["threads"] == 1


MANY = {"cpu.max": "9900000 100000", "memory.max": "max"}
GROUPS = {
    "docker, version 2": ("0::/", "/", "", {"cpu.max": "100000 100000", "memory.max": "1000"}),
    "a part of a core": ("0::/", "/", "", {"cpu.max": "50000 100000", "memory.max": "1000"}),
    "the group above": ("0::/slice/job", "/", "slice", {"cpu.max": "100000 100000", "memory.max": "1000"}),
    "seen from outside": ("0::/docker/f00/x", "/docker/f00", "x", {"cpu.max": "100000 100000", "memory.max": "1000"}),
}


@pytest.mark.parametrize("name", GROUPS)
def test_control_groups_of_version_2(name, tmp_path):
    membership, root, limited, limits = GROUPS[name]
    top, process = tmp_path / "top", tmp_path / "process"
    inner = top / os.path.relpath(membership.removeprefix("0::"), root)
    for folder, files in ((inner, MANY), (top / limited, limits)):
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(f"{text}\n")
    process.mkdir()
    (process / "cgroup").write_text(f"{membership}\n")
    (process / "mountinfo").write_text(f"30 20 0:1 {root} {top} rw,relatime shared:9 - cgroup2 cgroup2 rw\n")
    assert (num_cores(process), memory_limit(process)) == (1, 1000)
    (top / limited / "cpu.max").write_text("max 100000\n")
    assert num_cores(process) == len(os.sched_getaffinity(0))
    assert num_cores(tmp_path / "absent") == len(os.sched_getaffinity(0))
    assert memory_limit(tmp_path / "absent") is None


def test_cores_follow_the_variable_that_joblib_reads(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert num_cores() == 1
