"""trainer=ddp from outside: alone and in a multirun, stopped, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

import slurm_cluster
from fmx.process.distributed import lost_connection
from test_sweep import FAULT, alive, here, wait_for

DDP = ["data=digits", "model=lenet", "augment=none", "logger=none", "trainer=ddp", "trainer.accelerator=cpu"]
FULL = "trainer.precision=32-true"
SLOW = "+callbacks.slow={_target_:faults.Slow}"


@pytest.fixture(scope="module")
def alone(command, tmp_path_factory):
    """A run by two processes that nothing disturbs."""
    folder = tmp_path_factory.mktemp("ddp")
    finished = command(*DDP, FULL, SLOW, "trainer.max_epochs=4", "seed=2", "hydra.run.dir=run", cwd=folder, env=here())
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("test accuracy") == 1
    assert finished.stderr == ""
    assert [path.name for path in folder.iterdir()] == ["run"]
    return folder / "run"


def start(folder, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "fmx.run", *DDP, FULL, SLOW, "trainer.max_epochs=4", "seed=2", *arguments],
        cwd=folder, env=os.environ | here(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def second_process(folder):
    """The process that the first one started; None where it has not yet."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in alive(folder)}
    return next((int(pid) for pid, line in lines.items() if "train_ddp_process_1" in line), None)


def history(run_dir):
    return pd.read_csv(run_dir / "history.csv").drop(columns="seconds")


def assert_same_training(run_dir, other):
    pd.testing.assert_frame_equal(history(run_dir), history(other))
    ours, theirs = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (run_dir, other)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_figures_are_those_of_one_device(alone, command):
    record, metrics = (json.loads((alone / name).read_text()) for name in ("run.json", "metrics.json"))
    assert record["device"]["processes"] == 2
    assert len(history(alone)) == 4
    # What both processes together found out while they trained is what one device finds now.
    best = history(alone).iloc[record["best"]["epoch"] - 1]
    assert metrics["val"]["accuracy"] == pytest.approx(best["val/accuracy"], abs=1e-7)
    assert metrics["val"]["loss"] == pytest.approx(best["val/loss"], rel=1e-5)
    evaluated = command("run", "--allow", "faults", module="evaluate", cwd=alone.parent, env=here())
    assert "identical to metrics.json" in evaluated.stdout, evaluated.stdout + evaluated.stderr


def test_a_multirun_trains_each_job_once(alone, command, tmp_path):
    sweep = ["-m", *DDP, FULL, SLOW, "trainer.max_epochs=4", "seed=1,2", "hydra.sweep.dir=sweep"]
    begun = tmp_path / "sweep/0/checkpoints/last.ckpt"
    assert command(*sweep, cwd=tmp_path, env=here(), send=(begun, signal.SIGKILL)).returncode == -signal.SIGKILL
    swept = command(*sweep, cwd=tmp_path, env=here())
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert_same_training(tmp_path / "sweep/1", alone)
    assert not history(tmp_path / "sweep/0").equals(history(alone)), "both seeds trained the same"
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]
    assert {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()} == {"0", "1", "jobs"}
    for job in ("0", "1"):
        assert {p.name for p in (tmp_path / "sweep" / job).iterdir()} == {p.name for p in alone.iterdir()}
        evaluated = command(f"sweep/{job}", "--allow", "faults", module="evaluate", cwd=tmp_path, env=here())
        assert "identical to metrics.json" in evaluated.stdout, evaluated.stdout + evaluated.stderr


@pytest.mark.timeout(1200)  # two processes that wait for one another, on a machine that others use
def test_a_search_of_such_trials_that_is_killed_goes_on(alone, command, tmp_path):
    """In the middle of its first trial; the same command ends it, and leaves no process behind."""
    search = ["-m", "hydra/sweeper=search", *DDP, FULL, SLOW, "trainer.max_epochs=4", "seed=2,1"]
    search += ["hydra.sweeper.sampler=grid", "hydra.sweeper.n_trials=2", "hydra.launcher.workers=1"]
    search.append("hydra.sweep.dir=search")
    (tmp_path / "slow").touch()
    begun = tmp_path / "search/0/checkpoints/last.ckpt"
    assert command(*search, cwd=tmp_path, env=here(), send=(begun, signal.SIGKILL)).returncode == -signal.SIGKILL
    wait_for(lambda: not alive(tmp_path))
    (tmp_path / "slow").unlink()

    done = command(*search, cwd=tmp_path, env=here())
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: not alive(tmp_path))
    assert "resuming after step" in (tmp_path / "search/jobs/0.log").read_text()
    trials = json.loads((tmp_path / "search/search.json").read_text())["history"]
    assert [(trial["trial"], trial["state"]) for trial in trials] == [(0, "completed"), (1, "completed")]
    assert [trial["params"]["seed"] for trial in trials] == ["2", "1"]
    for trial in trials:
        run = tmp_path / "search" / str(trial["trial"])
        assert json.loads((run / "run.json").read_text())["device"]["processes"] == 2
        scores = json.loads((run / "metrics.json").read_text())["val"]
        assert trial["values"] == {"val/accuracy": scores["accuracy"]}
    assert {path.parent.name for path in tmp_path.glob("search/*/run.json")} == {"0", "1"}
    assert_same_training(tmp_path / "search/0", alone)


def test_a_run_that_is_stopped_goes_on_to_the_same_end(alone, tmp_path):
    (tmp_path / "slow").touch()
    run = start(tmp_path, "hydra.run.dir=run")
    wait_for((tmp_path / "run/history.csv").exists)
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 143, output
    assert output.count("SIGTERM: saving the state") == 1
    wait_for(lambda: not alive(tmp_path), timeout_s=10)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    (tmp_path / "slow").unlink()
    again = start(tmp_path, "resume=run")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert_same_training(tmp_path / "run", alone)


def test_gradients_that_are_summed_up_keep_nobody_from_asking(tmp_path):
    """Within the first epoch: the state is saved when it is due, and a signal is heard."""
    (tmp_path / "slow").touch()
    summed = ["trainer.accumulate_grad_batches=2", "data.batch_size=8", "trainer.checkpoint_every_s=0.2"]
    run = start(tmp_path, *summed, "hydra.run.dir=run")
    wait_for((tmp_path / "run/checkpoints/last.ckpt").exists, timeout_s=60)
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 143, output
    assert not (tmp_path / "run/history.csv").exists()
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert 0 < state["global_step"] < 38  # of the 39 steps of an epoch


def test_no_process_outlives_another_that_is_killed(tmp_path):
    (tmp_path / "slow").touch()
    first_dies = start(tmp_path, "hydra.run.dir=a")
    wait_for((tmp_path / "a/history.csv").exists)
    first_dies.kill()
    first_dies.communicate()
    wait_for(lambda: not alive(tmp_path), timeout_s=10)

    second_dies = start(tmp_path, "hydra.run.dir=b")
    wait_for((tmp_path / "b/history.csv").exists)
    os.kill(second_process(tmp_path), signal.SIGKILL)
    output, _ = second_dies.communicate(timeout=30)
    assert second_dies.returncode == 1, output
    assert "process 1 of this run was killed by SIGKILL" in output
    assert "Traceback" not in output
    record = json.loads((tmp_path / "b/run.json").read_text())
    assert (record["status"], record["error"][:9]) == ("failed", "process 1")
    wait_for(lambda: not alive(tmp_path), timeout_s=10)


def test_a_machine_that_is_lost_ends_the_run_plainly_and_the_run_goes_on(alone, tmp_path):
    """Two processes that were started by hand, as on two machines."""
    (tmp_path / "slow").touch()
    by_hand = {**here(), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(slurm_cluster.free_ports(1)[0])}
    words = [*DDP, FULL, SLOW, "trainer.max_epochs=4", "seed=2", "trainer.devices=1", "trainer.num_nodes=2"]

    def both(*more):
        return [
            subprocess.Popen(
                [sys.executable, "-m", "fmx.run", *words, *more],
                cwd=tmp_path, env=os.environ | by_hand | {"NODE_RANK": str(rank)}, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip

    first, second = both("hydra.run.dir=run")
    wait_for((tmp_path / "run/checkpoints/last.ckpt").exists, timeout_s=60)
    first.kill()
    output, _ = second.communicate(timeout=60)
    first.communicate()
    assert second.returncode == 1, output
    assert "the connection to another process of this run broke (" in output
    assert "continues the run from its last saved state" in output
    assert "Traceback" not in output
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], record["error"][:14]) == ("failed", "the connection")
    (tmp_path / "slow").unlink()
    again = both("resume=run")
    outputs = [process.communicate(timeout=120)[0] for process in again]
    assert [process.returncode for process in again] == [0, 0], "\n".join(outputs)
    assert_same_training(tmp_path / "run", alone)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("[/a/gloo/transport/tcp/pair.cc:545] Read error [10.0.0.2]:1: reset by peer. This is", "Read error [10"),
        ("Gloo connectFullMesh failed with [/a/gloo/pair.cc:152] timed out connecting", "timed out connecting"),
        ("no way", None),
    ],
)
def test_which_errors_are_lost_connections(error, said):
    assert (lost_connection(RuntimeError(error)) or "")[: len(said or "x")] == (said or "")
    assert lost_connection(ValueError(error)) is None


@pytest.mark.parametrize("after_s", [1.5, 3, 4.5])
def test_ctrl_c_while_the_second_process_starts(tmp_path, after_s):
    stopped = start(tmp_path, "hydra.run.dir=a", start_new_session=True)
    wait_for(lambda: second_process(tmp_path))
    time.sleep(after_s)
    os.killpg(stopped.pid, signal.SIGINT)
    output, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, output
    assert json.loads((tmp_path / "a/run.json").read_text())["status"] == "interrupted"
    wait_for(lambda: not alive(tmp_path), timeout_s=60)


def test_a_kill_while_the_second_process_starts(tmp_path):
    killed = start(tmp_path, "hydra.run.dir=b")
    wait_for(lambda: second_process(tmp_path))
    killed.kill()
    killed.communicate()
    wait_for(lambda: not alive(tmp_path), timeout_s=60)
    assert json.loads((tmp_path / "b/run.json").read_text())["status"] == "running"


def test_what_fails_in_all_processes_is_said_once(command, tmp_path):
    failed = command(*DDP, "optim.lr=1e30", "hydra.run.dir=run", cwd=tmp_path, env=here())
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert failed.stderr.count("the training loss became") == 1, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "the training loss became" in json.loads((tmp_path / "run/run.json").read_text())["error"]


def test_a_bug_in_all_processes_ends_all(command, tmp_path):
    (tmp_path / "faults.json").write_text(json.dumps({"1": "raise"}))
    failed = command(*DDP, FAULT, "hydra.run.dir=run", cwd=tmp_path, env=here())
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "this seed is out of luck" in json.loads((tmp_path / "run/run.json").read_text())["error"]
    wait_for(lambda: not alive(tmp_path), timeout_s=10)


@pytest.mark.gpu
def test_one_process_on_a_gpu_reduces_there(command, tmp_path):
    """NCCL, which takes no tensor that lies elsewhere; a second process would need a second GPU."""
    one = ["data=digits", "model=lenet", "logger=none", "trainer=ddp", "trainer.accelerator=gpu", "trainer.devices=1"]
    finished = command(*one, "trainer.max_epochs=2", "hydra.run.dir=run", cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert len(history(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("env", "arguments", "said"),
    [
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}, [], "srun started 4 tasks"),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}, ["hydra.run.dir=run"], "--ntasks-per-node"),
        ({}, ["trainer.num_nodes=2"], "PORT of the first, and all with the same hydra.run.dir=DIR"),
        ({}, ["trainer.num_nodes=2"], "(-m hydra/launcher=slurm)"),
        ({}, ["trainer.strategy=fsdp"], "trainer.strategy must be auto, ddp or a kind of it"),
        ({}, ["trainer.strategy=deepspeed_stage_2"], "needs no sharding"),
        ({}, ["trainer.strategy={_target_: pytorch_lightning.strategies.FSDPStrategy}"], "needs no sharding"),
    ],
)
def test_processes_that_would_not_make_one_run_are_refused(command, tmp_path, env, arguments, said):
    refused = command(*DDP, *arguments, cwd=tmp_path, env=env)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert said in refused.stderr
    assert list(tmp_path.iterdir()) == []
