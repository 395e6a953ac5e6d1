"""A SLURM of two nodes, each with a network and a host name of its own: what runs over both, and one that fails."""

import html
import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

import slurm_cluster
from test_slurm import DIGITS, SLOW, SLURM, assert_same_training, begun, slurm_jobs, squeue
from test_slurm_search import HELD, adopting
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


DDP = [
    "data=digits", "model=lenet", "augment=none", "logger=none", "trainer=ddp", "trainer.accelerator=cpu", "seed=2",
    "trainer.precision=32-true", "trainer.max_epochs=3", SLOW,
]  # fmt: skip
OVER_BOTH = [*DDP, "trainer.num_nodes=2", "trainer.devices=2"]


@pytest.fixture(scope="module")
def on_one_machine(command, tmp_path_factory):
    """A run by four processes of this machine that nothing disturbs."""
    folder = tmp_path_factory.mktemp("one")
    finished = command(*DDP, "trainer.devices=4", "hydra.run.dir=run", cwd=folder, env=here())
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "run"


def kill_last_process(node, variable):
    """Kill the process of rank 3, which a launcher has told so by an environment variable."""
    ranks = {}
    for pid in node.pids():
        with suppress(OSError):
            ranks[pid] = f"{variable}=3".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (last,) = (pid for pid, is_last in ranks.items() if is_last)
    os.kill(last, signal.SIGKILL)


def test_a_distributed_run_over_both_nodes_one_process_of_which_is_killed(cluster, command, on_one_machine, tmp_path):
    (tmp_path / "slow").touch()
    sweep = start(tmp_path, cluster, *SLURM, *OVER_BOTH)
    run = tmp_path / "sweep/0"
    wait_for((run / "checkpoints/last.ckpt").exists)
    kill_last_process(cluster.nodes[1], "SLURM_PROCID")
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 1, output
    assert "Traceback" not in output
    (tmp_path / "slow").unlink()
    finished = command("--resume-sweep", "sweep", "--allow", "faults", cwd=tmp_path, env=cluster.env)
    logs = "".join(path.read_text() for path in (tmp_path / "sweep/jobs").rglob("*.log"))
    assert finished.returncode == 0, finished.stdout + finished.stderr + logs
    assert "Traceback" not in logs
    assert record(run)["device"]["processes"] == 4
    assert record(run)["host"] == cluster.nodes[0].name
    assert len(record(run)["parts"]) == 1
    assert_same_training(run, on_one_machine)
    evaluated = command("sweep/0", "--allow", "faults", module="evaluate", cwd=tmp_path, env=here())
    assert "identical to metrics.json" in evaluated.stdout, evaluated.stdout + evaluated.stderr
    assert {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()} == {"0", "jobs"}


def test_torchrun_starts_a_run_again_on_two_hosts(cluster, on_one_machine, tmp_path):
    """Both find the run directory without its name; which host notices first is left to chance."""
    (tmp_path / "slow").touch()
    first = cluster.nodes[0]
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d",
        f"--rdzv-endpoint={first.name}:29400", "--max-restarts=1", "-m", "fmx.run", *OVER_BOTH,
    ]  # fmt: skip
    agents = [
        subprocess.Popen(
            [*slurm_cluster.on(node, cluster.folder), *torchrun, "resume=auto"],
            cwd=tmp_path, env=os.environ | here(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in cluster.nodes
    ]  # fmt: skip
    wait_for(lambda: list(tmp_path.glob("outputs/runs/*/checkpoints/last.ckpt")))
    kill_last_process(cluster.nodes[1], "RANK")
    (tmp_path / "slow").unlink()
    outputs = [agent.communicate(timeout=180)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(outputs)
    (run,) = (tmp_path / "outputs/runs").iterdir()
    assert record(run)["status"] == "completed"
    assert len(record(run)["parts"]) == 1
    assert_same_training(run, on_one_machine)


def test_a_trial_of_a_search_over_both_nodes_is_found_again_and_its_printed_commands_repeat_it(
    cluster, command, tmp_path
):
    (tmp_path / "slow").touch()
    sought = ["hydra/sweeper=search", "optim.lr=interval(1e-3,2e-3)", "hydra.sweeper.n_trials=1"]
    over_both = [*(word for word in DDP if word != SLOW), HELD, "trainer.num_nodes=2", "trainer.devices=1"]
    killed = start(tmp_path, cluster, *SLURM, *sought, *over_both)
    run = tmp_path / "sweep/0"
    wait_for((run / "checkpoints/last.ckpt").exists)
    killed.kill()
    killed.communicate()
    resumed = start(tmp_path, cluster, *SLURM, *sought, *over_both)
    said = adopting(resumed, 1)
    (tmp_path / "slow").unlink()
    said += resumed.communicate(timeout=120)[0]
    assert resumed.returncode == 0, said
    assert (record(run)["status"], record(run)["device"]["processes"]) == ("completed", 2)
    best = json.loads((tmp_path / "sweep/search.json").read_text())["best"][0]["command"]
    assert best in said
    reported = command("sweep", "--html", "page.html", module="report", cwd=tmp_path, env=cluster.env)
    assert reported.returncode == 0, reported.stderr
    assert best in html.unescape((tmp_path / "page.html").read_text()), "read from the run directory"
    typed = command(*shlex.split(best)[3:], cwd=tmp_path, env=cluster.env)
    assert typed.returncode == 0, typed.stdout + typed.stderr
    (again,) = tmp_path.glob("outputs/sweeps/*/0")
    assert_same_training(again, run)
    repeated = command("sweep/0", "--allow", "faults", module="reproduce", cwd=tmp_path, env=cluster.env)
    assert "identical" in repeated.stdout, repeated.stdout + repeated.stderr


CHOSEN_BY_FILE = """\
# @package _global_
defaults: [{override /hydra/sweeper: search}, {override /hydra/launcher: slurm}]
hydra: {launcher: {poll_s: 0.5}, sweeper: {n_trials: 1, params: {optim.lr: "interval(0.001,0.01)"}}}
"""


def test_a_search_over_both_nodes_that_a_file_chooses_prints_a_command_with_srun(cluster, command, tmp_path):
    (tmp_path / "my/experiment").mkdir(parents=True)
    (tmp_path / "my/experiment/found.yaml").write_text(CHOSEN_BY_FILE)
    trained = [*(word for word in DDP if word != SLOW), "trainer.num_nodes=2", "trainer.devices=1"]
    search = ["-m", "--config-dir", "my", "experiment=found", "hydra.sweep.dir=sweep", *trained, "trainer.max_epochs=1"]
    done = command(*search, cwd=tmp_path, env=cluster.env)
    assert done.returncode == 0, done.stdout + done.stderr
    best = json.loads((tmp_path / "sweep/search.json").read_text())["best"][0]["command"]
    tools = Path(sys.executable).parent
    env = os.environ | cluster.env | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    typed = subprocess.run(
        best, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert typed.returncode == 0, best + typed.stdout + typed.stderr
    (again,) = tmp_path.glob("sweep_*")
    assert_same_training(again, tmp_path / "sweep/0")


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
