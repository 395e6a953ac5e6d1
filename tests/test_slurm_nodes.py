"""A SLURM of two nodes, each with a network and a host name of its own: what runs over both, and one that fails."""

import json
import os
import shlex
import signal
import subprocess
import sys

import pandas as pd
import pytest

import slurm_cluster
from test_slurm import DIGITS, SLOW, SLURM, begun, slurm_jobs, squeue
from test_sweep import here, status, wait_for

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster.cluster_of_two() as running:
        running.env |= here()
        yield running


def record(run_dir):
    return json.loads((run_dir / "run.json").read_text())


def start(folder, cluster, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "fmx.run", *arguments],
        cwd=folder, env=os.environ | cluster.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_a_distributed_run_over_both_nodes(cluster, command, tmp_path):
    several = [
        "data=digits",
        "model=mlp",
        "augment=none",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
    ]
    several += ["trainer.num_nodes=2", "trainer.max_epochs=2"]
    finished = command(*SLURM, *several, cwd=tmp_path, env=cluster.env)
    logs = "".join(path.read_text() for path in (tmp_path / "sweep/jobs").rglob("*.log"))
    assert finished.returncode == 0, finished.stdout + finished.stderr + logs
    run = tmp_path / "sweep/0"
    assert record(run)["device"]["processes"] == 2
    assert record(run)["host"] == cluster.nodes[0].name
    evaluated = command("sweep/0", module="evaluate", cwd=tmp_path)
    assert "identical to metrics.json" in evaluated.stdout, evaluated.stdout + evaluated.stderr


def test_a_search_that_srun_starts_on_both_nodes(cluster, tmp_path):
    search = [
        sys.executable, "-m", "fmx.run", "-m", "hydra/sweeper=search", *DIGITS, "trainer.max_epochs=1", "model=mlp",
        "logger=default", "optim.lr=tag(log,interval(1e-4,1e-2))", "hydra.sweeper.n_trials=4",
        "hydra.launcher.workers=1", "hydra.sweep.dir=sweep",
    ]  # fmt: skip
    done = subprocess.run(
        ["srun", "--nodes=2", "--ntasks-per-node=1", "--export=ALL", *search],
        cwd=tmp_path, env=os.environ | cluster.env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, shlex.join(search) + done.stdout + done.stderr
    runs = [record(tmp_path / f"sweep/{number}") for number in range(4)]
    assert {run["status"] for run in runs} == {"completed"}
    assert {run["host"] for run in runs} == {node.name for node in cluster.nodes}
    assert len(pd.read_csv(tmp_path / "sweep/leaderboard.csv")) == 4


def test_ctrl_c_of_an_array_and_a_node_that_fails_under_a_job(cluster, tmp_path):
    """Last of all: the second node does not come back."""
    (tmp_path / "slow").touch()
    grid = [*DIGITS, "model=mlp", "seed=1,2", "trainer.max_epochs=4", SLOW]
    stopped = start(tmp_path, cluster, *SLURM, *grid)
    runs = [tmp_path / "sweep/0", tmp_path / "sweep/1"]
    wait_for(lambda: all(begun(run) for run in runs))
    assert {record(run)["host"] for run in runs} == {node.name for node in cluster.nodes}
    stopped.send_signal(signal.SIGINT)
    output, _ = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, output
    assert squeue(cluster.env, "--format=%T") == []
    assert status(tmp_path / "sweep") == {"0": "interrupted", "1": "interrupted"}

    on = start(tmp_path, cluster, "--resume-sweep", "sweep", "--allow", "faults")
    wait_for(lambda: all(record(run)["status"] == "running" for run in runs))
    first, second = cluster.nodes
    (lost,) = [run for run in runs if record(run)["host"] == second.name]
    second.fail()
    slurm_cluster.asked("scontrol", "update", f"NodeName={second.name}", "State=DOWN", "Reason=power", env=cluster.env)
    name = slurm_jobs(tmp_path / "sweep")[lost.name]
    wait_for(lambda: squeue(cluster.env, "--format=%T", f"--jobs={name}") in (["PENDING"], ["RUNNING"]))
    slurm_cluster.start_requeued(name, env=cluster.env)
    (tmp_path / "slow").unlink()
    output, _ = on.communicate(timeout=180)
    assert on.returncode == 0, output
    assert status(tmp_path / "sweep") == {"0": "completed", "1": "completed"}
    assert record(lost)["host"] == first.name
    assert [part["status"] for part in record(lost)["parts"]] == ["interrupted", "running"]
    assert len(pd.read_csv(tmp_path / "sweep/leaderboard.csv")) == 1
