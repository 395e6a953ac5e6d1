"""A search whose trials are SLURM jobs: no trial is lost, repeated or given away, whatever happens to its command."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager

import pandas as pd
import pytest

import slurm_cluster
from test_slurm import DIGITS, assert_same_training, begun, squeue
from test_sweep import here, status, wait_for

LR = "optim.lr=tag(log,interval(1e-6,1e-1))"
HELD = "+callbacks.held={_target_:faults.Held}"
RUN = [*DIGITS, "model=mlp", "trainer.limit_train_batches=4", HELD]
SEARCH = ["-m", "hydra/sweeper=search", "hydra.sweep.dir=sweep", LR, *RUN, "hydra.sweeper.sampler=random"]
ON_SLURM = ["hydra/launcher=slurm", "hydra.launcher.poll_s=0.3"]


@contextmanager
def started(folder, env, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "fmx.run", *arguments],
        cwd=folder, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def adopting(command, jobs):
    """What a command says until it has found that many jobs in SLURM's queue."""
    said = ""
    while said.count("is in SLURM's queue already, as job") < jobs:
        line = command.stdout.readline()
        assert line, said
        said += line
    return said


def journal(sweep):
    return [json.loads(line) for line in (sweep / "study.journal").read_text().splitlines()]


def slurm_jobs(sweep):
    """SLURM's job of each trial, by its number."""
    given = [line for line in journal(sweep) if "slurm_job" in line.get("user_attr", {})]
    return {line["trial_id"]: line["user_attr"]["slurm_job"] for line in given}


def told(sweep):
    """How often each trial was told how it ended."""
    return Counter(line["trial_id"] for line in journal(sweep) if line["op_code"] == 6 and line["state"] != 0)


def searched(sweep):
    return json.loads((sweep / "search.json").read_text())


def assert_told_once(sweep, trials):
    assert told(sweep) == dict.fromkeys(range(trials), 1)
    assert len(set(slurm_jobs(sweep).values())) == trials
    for trial in searched(sweep)["history"]:
        run_dir = sweep / str(trial["trial"])
        if trial["state"] == "completed":
            metrics = json.loads((run_dir / "metrics.json").read_text())
            assert trial["values"] == {"val/accuracy": metrics["val"]["accuracy"]}
        else:
            assert trial["state"] == "pruned", trial
            assert json.loads((run_dir / "run.json").read_text())["pruned"]["epoch"] == max(map(int, trial["reports"]))


def assert_status_says_where(said, job):
    assert said.splitlines()[1] == "4 running", said
    assert f"SLURM job {job} running on " in said
    assert "the jobs in SLURM's queue go on without one\nto go on: python -m fmx.run " in said


@pytest.mark.nodes
@pytest.mark.timeout(2400)
def test_killed_preempted_and_on_a_node_that_fails_it_repeats_no_trial(command, tmp_path):
    trials = 24 if os.environ.get("FMX_LONG") else 6
    sweep = tmp_path / "sweep"
    asha = ["hydra.sweeper.pruning=asha", "hydra.sweeper.reduction=2", "hydra.sweeper.warmup=2", "trainer.max_epochs=4"]
    search = [*SEARCH, *ON_SLURM, *asha, "hydra.launcher.array_parallelism=4"]
    (tmp_path / "slow").touch()
    with slurm_cluster.cluster_of_two() as cluster:
        env = cluster.env | here()
        first, second = cluster.nodes

        def at(node):
            records = {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/run.json")}
            return [int(number) for number, record in records.items() if record.get("host") == node.name]

        with started(tmp_path, env, *search, f"hydra.sweeper.n_trials={trials}") as killed:
            wait_for(lambda: len([run for run in range(4) if begun(sweep / str(run))]) == 4 or killed.poll())
            killed.kill()
        before = slurm_jobs(sweep)
        assert sorted(before) == [0, 1, 2, 3]
        assert squeue(env, "--format=%T") == ["RUNNING"] * 4
        assert_status_says_where(command(str(sweep), cwd=tmp_path, module="status", env=env).stdout, before[0])

        # A command that cannot wait for SLURM's jobs takes none of them.
        local = command(*SEARCH, *asha, "hydra.sweeper.n_trials=4", cwd=tmp_path, env=env)
        assert local.returncode == 0, local.stdout + local.stderr
        assert local.stdout.count("is left to a command with hydra/launcher=slurm") == 4
        assert searched(sweep)["trials"]["running"] == 4

        preempted, lost = at(first)[0], at(second)
        slurm_cluster.asked("scontrol", "requeue", before[preempted], env=env)
        second.fail()
        down = ["scontrol", "update", f"NodeName={second.name}", "State=DOWN", "Reason=power"]
        slurm_cluster.asked(*down, env=env)
        again = [before[number] for number in (preempted, *lost)]
        for name in again:
            wait_for(lambda name=name: squeue(env, "--format=%T", f"--jobs={name}") == ["PENDING"])
        with started(tmp_path, env, *search, f"hydra.sweeper.n_trials={trials}") as resumed:
            said = adopting(resumed, 4)
            (tmp_path / "slow").unlink()
            for name in again:
                slurm_cluster.start_requeued(name, env=env)
            output, _ = resumed.communicate(timeout=70 * trials)
    assert resumed.returncode == 0, said + output
    assert {number: slurm_jobs(sweep)[number] for number in before} == before, "submitted twice"
    assert_told_once(sweep, trials)
    found = searched(sweep)
    assert found["trials"]["pruned"] >= 2

    # The same draws on this machine, in one go: each trial that ended both there and here has the same figures.
    done = command(*SEARCH, "trainer.max_epochs=4", f"hydra.sweeper.n_trials={trials}", "hydra.sweep.dir=here",
                   cwd=tmp_path, env=here())  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for trial in found["history"]:
        number = str(trial["trial"])
        if trial["state"] == "completed":
            assert_same_training(sweep / number, tmp_path / "here" / number)
        ours, theirs = (pd.read_csv(folder / number / "history.csv") for folder in (sweep, tmp_path / "here"))
        columns = [name for name in ours if name != "seconds"]
        pd.testing.assert_frame_equal(ours[columns], theirs[columns].head(len(ours)))
    again = command(*shlex.split(found["best"][0]["command"])[3:], "hydra.run.dir=again", cwd=tmp_path, env=here())
    assert again.returncode == 0, again.stderr
    metrics = json.loads((tmp_path / "again/metrics.json").read_text())
    assert metrics["val"]["accuracy"] == found["best"][0]["values"]["val/accuracy"]


@pytest.mark.slurm
def test_sigterm_leaves_the_jobs_and_ctrl_c_cancels_them(tmp_path):
    (tmp_path / "slow").touch()
    search = [*SEARCH, *ON_SLURM, "hydra.launcher.array_parallelism=2", "trainer.max_epochs=4"]
    sweep = tmp_path / "sweep"
    with slurm_cluster.cluster() as cluster:
        env = cluster | here()
        with started(tmp_path, env, *search) as terminated:
            wait_for(lambda: all(begun(sweep / str(run)) for run in range(2)) or terminated.poll())
            terminated.send_signal(signal.SIGTERM)
            output, _ = terminated.communicate(timeout=120)
        assert terminated.returncode == 143, output
        assert "2 jobs keep running without this command" in output
        assert "save their states" not in output
        assert output.splitlines()[-1].startswith("to go on: python -m fmx.run -m hydra/sweeper=search"), output
        assert squeue(env, "--format=%T") == ["RUNNING", "RUNNING"]
        with started(tmp_path, env, *search) as stopped:
            said = adopting(stopped, 2)
            stopped.send_signal(signal.SIGINT)
            output, _ = stopped.communicate(timeout=120)
        assert stopped.returncode == 130, said + output
        assert squeue(env, "--format=%T") == []
    assert status(sweep) == {"0": "interrupted", "1": "interrupted"}
    assert not told(sweep)
