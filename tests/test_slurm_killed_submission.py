"""A command that is killed between sbatch and the record of what SLURM has: the next one submits nothing twice."""

import json
import os
import shutil

import pytest

import slurm_cluster
from test_slurm import DIGITS, squeue
from test_slurm_search import HELD, adopting, searched, slurm_jobs, started, told
from test_sweep import here, status

pytestmark = pytest.mark.slurm
TRAINED = [*DIGITS, "model=mlp", "trainer.limit_train_batches=4", "trainer.max_epochs=2", HELD]
DIES = "+hydra.callbacks.dies={_target_:faults.DiesOnceSubmitted}"
ON_SLURM = ["-m", "hydra/launcher=slurm", "hydra.launcher.poll_s=0.3", DIES]


@pytest.fixture(scope="module")
def slurm():
    with slurm_cluster.cluster() as env:
        yield env | here()


@pytest.fixture
def dying(command, slurm, tmp_path):
    """Run a command that dies: in the moment that sbatch has ended, or before it records what submitit has told it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" && kill -9 $PPID\n')
    (tools / "sbatch").chmod(0o755)

    def run(*arguments, in_sbatch):
        env = dict(slurm)
        if in_sbatch:
            env["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
        else:
            (tmp_path / "die").touch()
        died = command(*arguments, cwd=tmp_path, env=env)
        assert died.returncode == -9, died.stdout + died.stderr
        return queued(slurm)

    return run


def queued(slurm):
    return sorted(squeue(slurm, "--format=%i", "--states=PENDING,RUNNING"))


def assert_trained_once(run_dir):
    record = json.loads((run_dir / "run.json").read_text())
    assert record["status"] == "completed"
    assert "parts" not in record, "another job has gone on with it"


def test_an_array_whose_command_died(slurm, dying, command, tmp_path):
    (tmp_path / "slow").touch()
    sweep = [*ON_SLURM, "hydra.sweep.dir=sweep", *TRAINED, "seed=1,2"]
    without_tasks = dying(*sweep, in_sbatch=True)
    assert len(without_tasks) == 2
    previewed = command(*sweep, "--dry-run", cwd=tmp_path, env=slurm)
    assert previewed.returncode == 0, previewed.stderr
    assert queued(slurm) == without_tasks, "a dry run has cancelled them"
    jobs = dying(*sweep, in_sbatch=False)
    assert len(jobs) == 2
    assert not {*jobs} & {*without_tasks}, "those that cannot run are cancelled"
    with started(tmp_path, slurm, "--resume-sweep", "sweep", "--allow", "faults") as last:
        said = ""
        while "2 of them were in SLURM's queue already" not in said:
            line = last.stdout.readline()
            assert line, said
            said += line
        assert queued(slurm) == jobs, "submitted twice"
        (tmp_path / "slow").unlink()
        said += last.communicate(timeout=120)[0]
    assert last.returncode == 0, said
    assert status(tmp_path / "sweep") == {"0": "completed", "1": "completed"}
    ledger = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert sorted(entry["slurm_job"] for entry in ledger["jobs"]) == jobs
    for number in "01":
        assert_trained_once(tmp_path / "sweep" / number)


def test_a_trial_whose_command_died(slurm, dying, command, tmp_path):
    (tmp_path / "slow").touch()
    sought = [
        "hydra/sweeper=search",
        "hydra.sweep.dir=sweep",
        "optim.lr=interval(0.001,0.1)",
        "hydra.sweeper.n_trials=1",
    ]
    search = [*ON_SLURM, *sought, *TRAINED]
    (without_task,) = dying(*search, in_sbatch=True)
    local = command("-m", *sought, DIES, *TRAINED, cwd=tmp_path, env=slurm)
    assert local.returncode == 0, local.stdout + local.stderr
    assert "#0 is left to a command with hydra/launcher=slurm: its command died while it submitted it" in local.stdout
    assert not (tmp_path / "sweep/0").exists()
    (job,) = dying(*search, in_sbatch=False)
    assert job != without_task
    with started(tmp_path, slurm, *search) as last:
        said = adopting(last, 1)
        assert queued(slurm) == [job], "submitted twice"
        (tmp_path / "slow").unlink()
        said += last.communicate(timeout=120)[0]
    assert last.returncode == 0, said
    assert slurm_jobs(tmp_path / "sweep") == {0: job}
    assert told(tmp_path / "sweep") == {0: 1}
    assert searched(tmp_path / "sweep")["trials"]["completed"] == 1
    assert_trained_once(tmp_path / "sweep/0")
