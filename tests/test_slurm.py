"""hydra/launcher=slurm on a real SLURM: arrays, preempted jobs, distributed jobs, a launching process that dies."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import slurm_cluster
from test_sweep import FAULT, board, here, status, wait_for

DIGITS = ["data=digits", "augment=none", "logger=none", "trainer=cpu"]
SLOW = "+callbacks.slow={_target_:faults.Slow}"
SLURM = ["-m", "hydra/launcher=slurm", "hydra.launcher.poll_s=0.5", "hydra.sweep.dir=sweep"]


@pytest.fixture(scope="module")
def slurm():
    with slurm_cluster.cluster() as env:
        yield env | here()


def squeue(env, *arguments):
    return slurm_cluster.asked("squeue", "--noheader", "--array", *arguments, env=env).split()


def slurm_jobs(sweep):
    return {
        str(entry["number"]): entry["slurm_job"] for entry in json.loads((sweep / "sweep.json").read_text())["jobs"]
    }


def weights(run_dir):
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def history(run_dir):
    return pd.read_csv(run_dir / "history.csv").drop(columns="seconds")


def assert_same_training(run_dir, other):
    pd.testing.assert_frame_equal(history(run_dir), history(other))
    ours, theirs = weights(run_dir), weights(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def begun(run_dir):
    return (run_dir / "history.csv").exists()


@pytest.mark.slurm
def test_an_array_and_its_failures(slurm, command, tmp_path):
    grid = [*DIGITS, "model=mlp,lenet", "seed=1,2", "trainer.max_epochs=2", FAULT]
    (tmp_path / "faults.json").write_text(json.dumps({"2": "raise"}))
    # Without -m, which is its first word, and with options of sbatch's own.
    more = ["hydra.launcher.additional_parameters={mail-type: NONE, comment: grid}"]
    first = command(*SLURM[1:], *more, *grid, cwd=tmp_path, env=slurm)
    assert first.returncode == 1, first.stdout + first.stderr
    submitted = next((tmp_path / "sweep/jobs/slurm").glob("*.sh")).read_text()
    assert "#SBATCH --mail-type=NONE" in submitted
    assert "#SBATCH --comment=grid" in submitted
    said = [
        path.read_text() for path in (tmp_path / "sweep/jobs").rglob("*") if path.suffix in {".log", ".err", ".out"}
    ]
    assert not [text for text in said if "nanobind" in text]
    assert "Traceback" not in first.stderr
    assert status(tmp_path / "sweep") == {"0": "completed", "1": "failed", "2": "completed", "3": "failed"}
    assert (tmp_path / "sweep/leaderboard.md").read_text().count("this seed is out of luck") == 2
    assert len({name.partition("_")[0] for name in slurm_jobs(tmp_path / "sweep").values()}) == 1, "not one array"

    (tmp_path / "faults.json").unlink()
    second = command(*SLURM, *grid, cwd=tmp_path, env=slurm)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "2 of them done already" in second.stdout
    local = command("-m", *grid, "hydra.sweep.dir=local", cwd=tmp_path, env=here())
    assert local.returncode == 0, local.stdout + local.stderr
    pd.testing.assert_frame_equal(board(tmp_path / "sweep"), board(tmp_path / "local"))
    assert {path.name for path in tmp_path.iterdir()} == {"sweep", "local"}


@pytest.mark.slurm
def test_fail_fast(slurm, command, tmp_path):
    (tmp_path / "slow").touch()
    (tmp_path / "faults.json").write_text(json.dumps({"2": "raise"}))
    grid = [*DIGITS, "model=mlp", "seed=1,2", "trainer.max_epochs=50", FAULT, SLOW]
    done = command(*SLURM, *grid, "hydra.launcher.fail_fast=true", cwd=tmp_path, env=slurm)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "this seed is out of luck" in done.stderr
    assert status(tmp_path / "sweep") == {"0": "interrupted", "1": "failed"}
    assert squeue(slurm, "--format=%T") == []


@pytest.mark.slurm
def test_preempted_and_out_of_time_jobs_go_on_as_if_nothing_had_been(slurm, command, tmp_path):
    grid = [*DIGITS, "model=lenet", "seed=1,2", "trainer.max_epochs=4", SLOW]
    (tmp_path / "slow").touch()
    sweep = subprocess.Popen(
        [sys.executable, "-m", "fmx.run", *SLURM, *grid],
        cwd=tmp_path, env=os.environ | slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    runs = [tmp_path / "sweep/0", tmp_path / "sweep/1"]
    wait_for(lambda: all(begun(run) for run in runs))
    names = slurm_jobs(tmp_path / "sweep")
    slurm_cluster.asked("scontrol", "requeue", names["0"], env=slurm)  # as a preemption does
    slurm_cluster.asked("scancel", "--signal=USR2", names["1"], env=slurm)  # as SLURM does before the time limit
    wait_for(lambda: set(status(tmp_path / "sweep").values()) == {"interrupted"})
    (tmp_path / "slow").unlink()
    for name in names.values():
        wait_for(lambda name=name: squeue(slurm, "--format=%T", f"--jobs={name}") == ["PENDING"])
        slurm_cluster.start_requeued(name, env=slurm)
    output, _ = sweep.communicate(timeout=180)
    assert sweep.returncode == 0, output
    local = command("-m", *grid, "hydra.sweep.dir=local", cwd=tmp_path, env=here())
    assert local.returncode == 0, local.stdout + local.stderr
    for run in runs:
        record = json.loads((run / "run.json").read_text())
        assert [part["status"] for part in record["parts"]] == ["interrupted"]
        assert_same_training(run, tmp_path / "local" / run.name)
    pd.testing.assert_frame_equal(board(tmp_path / "sweep"), board(tmp_path / "local"))


@pytest.mark.slurm
def test_distributed_jobs_get_a_task_a_process(slurm, command, tmp_path):
    grid = [*DIGITS, "trainer=ddp", "trainer.accelerator=cpu", "model=lenet", "seed=1,2", "trainer.max_epochs=2"]
    grid.remove("trainer=cpu")
    finished = command(*SLURM, *grid, cwd=tmp_path, env=slurm)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert len(pd.read_csv(tmp_path / "sweep/leaderboard.csv")) == 1
    alone = command(*[each.replace("seed=1,2", "seed=2") for each in grid], "hydra.run.dir=alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert_same_training(tmp_path / "sweep/1", tmp_path / "alone")
    for run in ("sweep/0", "sweep/1"):
        assert json.loads((tmp_path / run / "run.json").read_text())["device"]["processes"] == 2
        evaluated = command(run, module="evaluate", cwd=tmp_path)
        assert "identical to metrics.json" in evaluated.stdout, evaluated.stdout + evaluated.stderr
        assert {p.name for p in (tmp_path / run).iterdir()} == {p.name for p in (tmp_path / "alone").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"sweep", "alone"}
    assert {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()} == {"0", "1", "jobs"}


@pytest.mark.slurm
def test_jobs_outlive_the_launching_process_and_are_found_again(slurm, tmp_path):
    (tmp_path / "slow").touch()

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "fmx.run", *arguments],
            cwd=tmp_path, env=os.environ | slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    killed = start(*SLURM, *DIGITS, "model=lenet", "seed=1,2", "trainer.max_epochs=20", SLOW)
    runs = [tmp_path / "sweep/0", tmp_path / "sweep/1"]
    wait_for(lambda: all(begun(run) for run in runs))
    killed.kill()
    killed.communicate()
    names = slurm_jobs(tmp_path / "sweep")
    assert sorted(squeue(slurm, "--format=%T")) == ["RUNNING", "RUNNING"]

    found = start("--resume-sweep", "sweep", "--allow", "faults")
    said = ""
    while "queue already" not in said:
        line = found.stdout.readline()
        assert line, said
        said += line
    assert slurm_jobs(tmp_path / "sweep") == names, "submitted twice"
    found.send_signal(signal.SIGINT)
    output, _ = found.communicate(timeout=90)
    assert found.returncode == 130, said + output
    assert output.splitlines()[-1] == f"to go on: fmx run --resume-sweep {tmp_path / 'sweep'} --allow faults", output
    assert squeue(slurm, "--format=%T") == []
    assert status(tmp_path / "sweep") == {"0": "interrupted", "1": "interrupted"}

    (tmp_path / "slow").unlink()
    last = start("--resume-sweep", "sweep", "--allow", "faults")
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert status(tmp_path / "sweep") == {"0": "completed", "1": "completed"}
    assert all(len(json.loads((run / "run.json").read_text())["parts"]) == 1 for run in runs)


@pytest.mark.slurm
def test_detach_submits_and_ends_and_status_says_where_the_jobs_are(slurm, command, tmp_path):
    (tmp_path / "slow").touch()
    sweep = tmp_path / "outputs/sweeps/mine"
    sent = command(*SLURM, *DIGITS, "model=mlp", "seed=range(1,6)", "trainer.max_epochs=1", SLOW, "--detach",
                   f"hydra.sweep.dir={sweep}",
                   cwd=tmp_path, env=slurm)  # fmt: skip
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert (tmp_path / "outputs/latest").resolve() == sweep, "no job has begun, but it is the newest sweep"
    *_, look, go_on = sent.stdout.splitlines()
    assert look == f"to look: fmx status {sweep}"
    assert go_on.endswith(f": fmx run --resume-sweep {sweep} --allow faults")

    def told(env=slurm):
        return command(str(sweep), cwd=tmp_path, module="status", env=env).stdout

    wait_for(lambda: "4 running · 1 queued" in told())
    said, names = told(), slurm_jobs(sweep)
    assert f"SLURM job {names['0']} running on " in said
    assert f"SLURM job {names['4']} pending (Resources)" in said
    assert "the jobs in SLURM's queue go on without one" in said
    without = told(slurm | {"SLURM_CONF": "/nowhere"})
    assert "SLURM does not answer here (squeue)" in without
    (tmp_path / "slow").unlink()
    wait_for(lambda: told().splitlines()[1:2] == ["5 completed"])
    assert not (sweep / "leaderboard.csv").exists()
    done = command("--resume-sweep", str(sweep), "--allow", "faults", cwd=tmp_path, env=slurm)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(board(sweep)) == 1
    (sweep / "2/run.json").unlink()
    again = command("--resume-sweep", str(sweep), "--allow", "faults", "--detach", cwd=tmp_path, env=slurm)
    assert "1 jobs are with SLURM" in again.stdout, again.stdout + again.stderr
    wait_for(lambda: "5 completed" in told())


def test_detach_is_refused_where_the_jobs_need_their_command(command, tmp_path):
    sweep = {"settings": {"workers": None, "threads": None, "job_timeout_s": None, "fail_fast": False}, "jobs": []}
    (tmp_path / "local").mkdir()
    (tmp_path / "local/sweep.json").write_text(json.dumps(sweep))
    for what, *arguments in (
        ("the jobs of this launcher", "-m", "data=digits", "seed=1,2"),
        ("the trials of a search", "-m", "data=digits", "hydra/sweeper=search", "optim.lr=0.1,0.2"),
        ("single runs", "data=digits"),
        ("the jobs of a sweep on one machine", "--resume-sweep", "local"),
    ):
        done = command(*arguments, "--detach", cwd=tmp_path)
        assert (done.returncode, f"{what} need this command: start it under nohup" in done.stderr) == (2, True), what
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slurm
def test_two_workers_of_a_search_on_the_cluster_share_one_study(slurm, tmp_path):
    search = [
        sys.executable, "-m", "fmx.run", "-m", "hydra/sweeper=search", *DIGITS, "trainer.max_epochs=1", "model=mlp",
        "optim.lr=tag(log,interval(1e-4,1e-2))", "hydra.sweeper.n_trials=4", "hydra.launcher.workers=1",
        "hydra.sweep.dir=sweep",
    ]  # fmt: skip
    sent = subprocess.run(
        ["sbatch", "--wait", "--array=0-1", "--output=%a.log", f"--wrap=srun {shlex.join(search)}"],
        cwd=tmp_path, env=os.environ | slurm, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    logs = [(tmp_path / name).read_text() for name in ("0.log", "1.log")]
    assert sent.returncode == 0, sent.stdout + sent.stderr + "".join(logs)
    runs = {number: json.loads((tmp_path / f"sweep/{number}/run.json").read_text()) for number in range(4)}
    assert {run["status"] for run in runs.values()} == {"completed"}
    assert len({tuple(run["overrides"]) for run in runs.values()}) == 4, "a trial was repeated"
    assert all("val " in log for log in logs), "one of the two had nothing to do"
    assert len(pd.read_csv(tmp_path / "sweep/leaderboard.csv")) == 4


@pytest.mark.slurm
def test_what_slurm_refuses_and_what_only_a_node_may_lack(slurm, command, tmp_path):
    refused = command(*SLURM, *DIGITS, "seed=1,2", "hydra.launcher.partition=nowhere", cwd=tmp_path, env=slurm)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "SLURM refuses the jobs" in refused.stderr
    assert "partition" in refused.stderr
    assert "Traceback" not in refused.stderr
    if torch.cuda.is_available():
        return
    gpu = ["data=digits", "model=mlp", "trainer=gpu", "hydra.launcher.gpus_per_node=0", "hydra.sweep.dir=gpu"]
    sent = command("-m", "hydra/launcher=slurm", "hydra.launcher.poll_s=0.5", *gpu, cwd=tmp_path, env=slurm)
    assert sent.returncode == 1, sent.stdout + sent.stderr
    assert "torch sees no such device" in (tmp_path / "gpu/leaderboard.md").read_text()


@pytest.mark.skipif(bool(shutil.which("sbatch")), reason="SLURM is installed")
def test_without_slurm_one_line_says_so(command, tmp_path):
    refuse_plainly(command, tmp_path, "there is no sbatch here")


def test_a_wrong_setting_is_refused_before_anything_is_submitted(command, tmp_path):
    refuse_plainly(command, tmp_path, "hydra.launcher.timeout_min must be", "hydra.launcher.timeout_min=soon")
    refuse_plainly(command, tmp_path, "hydra.launcher.fail_fast must be true or false", "hydra.launcher.fail_fast=yes")
    refuse_plainly(command, tmp_path, "leaves no time to train", "hydra.launcher.timeout_min=1")


def refuse_plainly(command, folder: Path, said, *arguments):
    refused = command(*SLURM, *DIGITS, "seed=1,2", *arguments, cwd=folder)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert not (folder / "sweep/sweep.json").exists()
