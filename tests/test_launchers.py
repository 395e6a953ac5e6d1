"""What other launchers leave in the environment, and what they start: srun, torchrun, mpirun, a person."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import slurm_cluster

RUN = ["data=digits", "model=mlp", "trainer=smoke"]
DDP = ["data=digits", "model=mlp", "trainer=ddp", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
ON_CPU = "trainer.accelerator=cpu"
SLURM_TASK = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1"}
TORCHRUN = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
LEFT_OVER = {
    "RANK": {"RANK": "1"},
    "no number": {"RANK": "captain", "LOCAL_RANK": ""},
    "a node": {"NODE_RANK": "1", "GROUP_RANK": "1", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "9"},
    "a shell in an allocation": SLURM_TASK,
    "a shell of a job step": {**SLURM_TASK, "SLURM_STEP_ID": "0", "SLURM_LOCALID": "1", "SLURM_PTY_PORT": "9"},
    "an MPI shell": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"},
    "a worker of torchrun": TORCHRUN,
}


def environment(**more):
    return os.environ | more


def free_port():
    return slurm_cluster.free_ports(1)[0]


def assert_complete(run_dir: Path):
    assert json.loads((run_dir / "run.json").read_text())["status"] == "completed"
    assert list(run_dir.glob("tensorboard/events*"))
    assert list(run_dir.glob("figures/*.png"))
    assert (run_dir / ".hydra/config.yaml").is_file()


@pytest.mark.parametrize("env", LEFT_OVER.values(), ids=LEFT_OVER)
def test_a_single_run_among_what_launchers_left(command, tmp_path, env):
    finished = command(*RUN, "hydra.run.dir=run", cwd=tmp_path, env=env)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "test accuracy" in finished.stdout
    assert_complete(tmp_path / "run")


@pytest.mark.parametrize("env", [{"LOCAL_RANK": "1"}, LEFT_OVER["no number"], SLURM_TASK], ids=str)
def test_in_a_process_that_imports_everything_anew(cold_command, tmp_path, env):
    """Lightning reads the variables when it is imported."""
    finished = cold_command(*RUN, "hydra.run.dir=run", cwd=tmp_path, env=env)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert_complete(tmp_path / "run")


def test_tasks_that_are_runs_of_their_own_are_told_so(command, tmp_path):
    for task in ("0", "1"):
        env = {**SLURM_TASK, "SLURM_STEP_ID": "0", "SLURM_PROCID": task, "SLURM_LOCALID": task}
        finished = command(*RUN, f"hydra.run.dir={task}", cwd=tmp_path, env=env)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert "srun started 2 tasks, but this is a separate run" in finished.stdout
        assert_complete(tmp_path / task)


def test_the_verbs_among_what_launchers_left(command, digits_run, tmp_path):
    env = {**TORCHRUN, **SLURM_TASK, "SLURM_STEP_ID": "0"}
    evaluated = command(str(digits_run), module="evaluate", cwd=tmp_path, env=env)
    assert "identical to metrics.json" in evaluated.stdout, evaluated.stdout + evaluated.stderr
    exported = command(str(digits_run), "--format", "state_dict", module="export", cwd=tmp_path, env=env)
    assert exported.returncode == 0, exported.stdout + exported.stderr
    picture = next(digits_run.glob("figures/*.png"))
    named = command(str(digits_run), str(picture), module="predict", cwd=tmp_path, env=env)
    assert named.returncode == 0, named.stdout + named.stderr
    again = command(str(digits_run), "--dir", "again", module="reproduce", cwd=tmp_path, env=env)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_complete(tmp_path / "again")


def test_a_sweep_and_a_search_on_the_second_node(command, tmp_path):
    """As `srun --nodes=2 --ntasks-per-node=1` starts them; one of the jobs has two processes itself."""
    env = {**SLURM_TASK, "SLURM_NTASKS_PER_NODE": "1", "SLURM_STEP_ID": "0", "SLURM_NODEID": "1"}
    search = ["-m", "hydra/sweeper=search", "optim.lr=tag(log,interval(1e-4,1e-2))", "hydra.sweeper.n_trials=1"]
    finished = command(*search, *DDP, ON_CPU, "hydra.sweep.dir=search", cwd=tmp_path, env=env)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    swept = command("-m", *RUN, "seed=1", "hydra.sweep.dir=sweep", cwd=tmp_path, env={**env, "RANK": "1"})
    assert swept.returncode == 0, swept.stdout + swept.stderr
    for run in ("search/0", "sweep/0"):
        assert_complete(tmp_path / run)
    record = json.loads((tmp_path / "search/0/run.json").read_text())
    assert record["device"]["processes"] == 2


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RANK": "1"}, "env -u RANK"),
        ({"LOCAL_RANK": "1"}, "env -u LOCAL_RANK"),
        ({"WORLD_SIZE": "4", "RANK": "0"}, "WORLD_SIZE=4"),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, "env -u OMPI_COMM_WORLD_SIZE"),
    ],
    ids=str,
)
def test_unknown_launchers_of_a_distributed_run_are_refused(command, tmp_path, env, said):
    refused = command(*DDP, ON_CPU, cwd=tmp_path, env=env)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "without NODE_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"NODE_RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "NODE_RANK must be from 0 to 1"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "without NODE_RANK"),
        ({"NODE_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "3"}, "WORLD_SIZE=3"),
    ],
    ids=str,
)
def test_machines_started_by_hand_need_to_know_one_another(command, tmp_path, env, said):
    several = [*DDP, ON_CPU, "trainer.devices=1", "trainer.num_nodes=2", "hydra.run.dir=run"]
    refused = command(*several, cwd=tmp_path, env=env)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert said in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_machines_started_by_hand(tmp_path):
    """As two processes of this one, which find each other at a port."""
    port = str(free_port())
    several = [*DDP, ON_CPU, "trainer.devices=1", "trainer.num_nodes=2", "hydra.run.dir=run"]
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "fmx.run", *several],
            cwd=tmp_path, env=environment(NODE_RANK=str(node), MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    said = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert [text.count("test accuracy") for text in said] == [1, 0]
    assert_complete(tmp_path / "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["device"]["processes"] == 2


def test_leftovers_that_a_distributed_run_does_not_need(command, tmp_path):
    """A store of an agent that is gone, another host's address: torch would wait for them."""
    stale = {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "192.0.2.1"}
    finished = command(*DDP, "hydra.run.dir=run", cwd=tmp_path, env={**stale, "NODE_RANK": "1"})
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert_complete(tmp_path / "run")
    if not torch.cuda.is_available():
        assert "torch sees no GPU: 2 processes train on the CPU" in finished.stdout


def torchrun(folder, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    return subprocess.run(
        [*command, "-m", "fmx.run", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_torchrun_starts_the_processes_of_one_run(tmp_path):
    finished = torchrun(tmp_path, *DDP, ON_CPU)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("test accuracy") == 1
    (run,) = (tmp_path / "outputs/runs").iterdir()
    assert_complete(run)
    assert json.loads((run / "run.json").read_text())["device"]["processes"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (RUN, "add trainer=ddp trainer.devices=2, or start it without torchrun"),
        (["-m", *RUN, "seed=1,2"], "start a sweep without torchrun"),
    ],
)
def test_what_torchrun_would_train_twice_is_refused(tmp_path, arguments, said):
    refused = torchrun(tmp_path, *arguments)
    assert refused.returncode == 1, refused.stdout + refused.stderr  # torchrun's own code
    assert "exitcode: 2" in refused.stderr
    assert said in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra/launcher=local", "hydra.launcher.workers=3"], "hydra.launcher.workers=3 is for a multirun"),
        (["hydra.sweep.dir=here"], "type: python -m fmx.run -m data=digits"),
        (["hydra.sweeper.max_batch_size=1"], "hydra.sweeper.max_batch_size=1 is for a multirun"),
        (["hydra/launcher=slurm", "hydra.mode=RUN"], "hydra/launcher=slurm is for a multirun"),
        (["hydra/sweeper=search", "hydra.mode=RUN"], "leave out hydra.mode=RUN"),
        (["hydra.mode=MULTIRUN", "hydra.run.dir=here"], "hydra.sweep.dir=DIR"),
        (["hydra/sweeper=search", "optim.lr=interval(0.1,0.2)", "hydra.run.dir=here"], "hydra.sweep.dir=DIR"),
        (["hydra.mode=MULTIRUN", "seed=1,2", "resume=auto"], "resume=auto is for a single run"),
    ],
)
def test_what_would_be_ignored_is_refused(command, tmp_path, arguments, said):
    refused = command(*RUN, *arguments, cwd=tmp_path)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["hydra/launcher=slurm"], ["--config-dir", "my", "experiment=mine"]])
def test_a_launcher_for_clusters_makes_a_multirun_wherever_it_is_named(command, tmp_path, arguments):
    """Nothing is trained here: without a cluster, the command ends with what is missing."""
    mine = tmp_path / "my/experiment/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/launcher: slurm\n"
        "hydra:\n  launcher:\n    additional_parameters: {mail-type: END}\n"
    )
    away = {"PATH": str(tmp_path)}
    refused = command(*arguments, *RUN, cwd=tmp_path, env=away)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "there is no sbatch here" in refused.stderr
    assert not (tmp_path / "outputs/runs").exists()
    back = command(*arguments, *RUN, "hydra/launcher=local", "hydra.run.dir=run", cwd=tmp_path)
    assert back.returncode == 0, back.stdout + back.stderr
    assert_complete(tmp_path / "run")
