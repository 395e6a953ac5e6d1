"""Sweeps from outside: jobs that fail, die or hang, a parent that is killed, what is gone on with and what is kept."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from rich.filesize import decimal

from fmx.sweeps.disk import REST_BYTES

pytestmark = pytest.mark.usefixtures("no_figures")

SMALL = ["data=digits", "augment=none", "trainer.max_epochs=2", "logger=none", "trainer.limit_test_batches=2"]
FAULT = "+callbacks.fault={_target_:faults.Fault,seed:${seed}}"
EIGHT = ["model=mlp,lenet", "seed=range(1,5)"]


def here():
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}


def board(sweep):
    """The leaderboard without what the clock says."""
    table = pd.read_csv(sweep / "leaderboard.csv")
    return table[[column for column in table if "second" not in column and "train s" not in column]]


def status(sweep):
    return {p.parent.name: json.loads(p.read_text()).get("status") for p in sweep.glob("*/run.json")}


def alive(marker):
    """The processes whose command line or working folder has to do with a sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(marker) in str((path / "cwd").readlink()) and path.name != str(os.getpid()):
                found.append(path.name)
    return found


def wait_for(condition, timeout_s=300):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_jobs_that_raise_die_or_hang(command, tmp_path):
    sweep = ["-m", *EIGHT, *SMALL, FAULT]
    (tmp_path / "faults.json").write_text(json.dumps({"2": "raise", "3": "kill", "4": "hang"}))
    disturbed = [*sweep, "hydra.sweep.dir=sweep", "hydra.launcher.job_timeout_s=15"]
    first = command(*disturbed, cwd=tmp_path, env=here())
    assert first.returncode == 1, first.stdout + first.stderr
    statuses = status(tmp_path / "sweep")
    assert len(statuses) == 8
    assert sorted(statuses.values()) == ["completed"] * 2 + ["failed"] * 6
    text = (tmp_path / "sweep/leaderboard.md").read_text()
    for said in ("this seed is out of luck", "killed by SIGKILL", "longer than job_timeout_s"):
        assert text.count(said) == 2, text
        assert said in first.stdout
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("[0-9]*/metrics.json")}

    (tmp_path / "faults.json").unlink()
    second = command(*disturbed, cwd=tmp_path, env=here())
    assert second.returncode == 0, second.stdout + second.stderr
    assert "2 of them done already" in second.stdout
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    undisturbed = command(*sweep, "hydra.sweep.dir=whole", cwd=tmp_path, env=here())
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    assert len(board(tmp_path / "whole")) == 2
    pd.testing.assert_frame_equal(board(tmp_path / "sweep"), board(tmp_path / "whole"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_whose_parent_ends(command, tmp_path, how):
    """No orphan trains on, nothing is corrupted, --resume-sweep ends it as if nothing had happened."""
    jobs = ["-m", "model=lenet", "seed=1,2,3", *SMALL, "trainer.max_epochs=8", "hydra.sweep.dir=sweep"]
    jobs.remove("trainer.max_epochs=2")
    process = subprocess.Popen(
        [sys.executable, "-m", "fmx.run", *jobs], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: len(list((tmp_path / "sweep").glob("*/history.csv"))) >= 2)
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()  # it stays small, and starts at once
    process.send_signal(how)
    assert process.wait(60) == (-9 if how == signal.SIGKILL else 130)
    wait_for(lambda: not alive(tmp_path), timeout_s=30)
    assert "running" not in [json.loads(p.read_text())["status"] for p in tmp_path.glob("sweep/*/run.json")]
    assert "interrupted" in status(tmp_path / "sweep").values()
    (tmp_path / "sweep/leaderboard.md").unlink(missing_ok=True)

    left = [each for each in json.loads((tmp_path / "sweep/sweep.json").read_text())["jobs"]
            if status(tmp_path / "sweep").get(str(each["number"])) != "completed"]  # fmt: skip
    takes = f"about {decimal(sum(each['checkpoint_bytes'] + REST_BYTES for each in left))} of disk, of which "
    assert takes in command("--resume-sweep", "sweep", "--dry-run", cwd=tmp_path).stdout
    done = command("--resume-sweep", "sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert takes in done.stdout
    assert "of disk" not in command("--resume-sweep", "sweep", "--dry-run", cwd=tmp_path).stdout, "nothing is left"
    assert "resuming after step" in "".join(path.read_text() for path in tmp_path.glob("sweep/jobs/*.log"))
    jobs[-1] = "hydra.sweep.dir=whole"
    whole = command(*jobs, cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    pd.testing.assert_frame_equal(board(tmp_path / "sweep"), board(tmp_path / "whole"))
    for number in range(3):
        ours, theirs = (pd.read_csv(tmp_path / name / str(number) / "history.csv") for name in ("sweep", "whole"))
        pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"))


def test_a_sweep_that_is_killed_while_it_checks_its_jobs(tmp_path):
    """What checks them in its stead, in a process with the imports behind it, ends as well."""
    sweep = subprocess.Popen(
        [sys.executable, "-m", "fmx.run", "-m", "model=mlp", "seed=1,2", *SMALL, "hydra.sweep.dir=sweep"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(alive(tmp_path)) > 3)  # itself, two of multiprocessing's, and the one that checks
    sweep.kill()
    sweep.wait()
    assert not (tmp_path / "sweep").exists()
    wait_for(lambda: not alive(tmp_path), timeout_s=30)


def test_a_sweep_that_is_killed_while_it_freezes_its_jobs(command, tmp_path):
    """The same command goes on from what it has left, and the folder is no sweep until then."""
    sweep = ["-m", "model=mlp", "seed=1,2,3", "data=digits", "trainer=smoke", "logger=none", "hydra.sweep.dir=sweep"]
    assert command(*sweep, cwd=tmp_path, die_at_change=9).returncode == -signal.SIGKILL
    frozen = [*(tmp_path / "sweep/jobs").iterdir()]
    assert 0 < len(frozen) <= 3
    assert not (tmp_path / "sweep/sweep.json").exists()
    assert "is no sweep of fmx: it has no sweep.json" in command("--resume-sweep", "sweep", cwd=tmp_path).stderr
    done = command(*sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(tmp_path / "sweep") == dict.fromkeys("012", "completed")


def test_a_signal_to_the_whole_process_group_of_a_sweep(tmp_path):
    """As `timeout` and service managers send it: every job saves its state all the same."""
    slow = "+callbacks.slow={_target_:faults.Slow}"
    jobs = ["-m", "model=lenet", "seed=1,2", *SMALL, slow, "trainer.max_epochs=9", "hydra.sweep.dir=sweep"]
    jobs.remove("trainer.max_epochs=2")
    (tmp_path / "slow").touch()
    sweep = subprocess.Popen(
        [sys.executable, "-m", "fmx.run", *jobs], cwd=tmp_path, env=os.environ | here(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: len(list((tmp_path / "sweep").glob("*/history.csv"))) == 2)
    os.killpg(sweep.pid, signal.SIGTERM)
    assert sweep.wait(60) == 143
    wait_for(lambda: not alive(tmp_path), timeout_s=30)
    for number in ("0", "1"):
        assert "SIGTERM: saving the state after step" in (tmp_path / f"sweep/jobs/{number}.log").read_text()
        record = json.loads((tmp_path / f"sweep/{number}/run.json").read_text())
        assert (record["status"], record["error"]) == ("interrupted", None)


def test_a_sweep_that_is_still_at_work_is_left_alone(command, tmp_path):
    """A second command is refused; one that comes right after the first was killed lets its jobs save their states."""
    slow = "+callbacks.slow={_target_:faults.Slow}"
    jobs = ["-m", "model=lenet", "seed=1,2", *SMALL, slow, "trainer.max_epochs=4", "hydra.sweep.dir=sweep"]
    jobs.remove("trainer.max_epochs=2")
    (tmp_path / "slow").touch()
    first = subprocess.Popen(
        [sys.executable, "-m", "fmx.run", *jobs], cwd=tmp_path, env=os.environ | here(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(list((tmp_path / "sweep").glob("*/history.csv"))) == 2)
    kept = {path: path.read_bytes() for path in (tmp_path / "sweep").glob("jobs/*.yaml")}
    for arguments in (["--resume-sweep", "sweep"], jobs):
        second = command(*arguments, cwd=tmp_path, env=here())
        assert second.returncode == 2, second.stdout + second.stderr
        assert f"another process is at work in {tmp_path / 'sweep'}" in second.stderr
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(list((tmp_path / "sweep").glob("*/history.csv"))) == 2

    first.kill()
    first.wait()
    (tmp_path / "slow").unlink()
    lacking = command(
        "--resume-sweep", "sweep", "--allow", "faults", cwd=tmp_path
    )  # without the path to their callback
    assert lacking.returncode == 1, lacking.stdout + lacking.stderr
    assert "no 'faults'" in lacking.stderr
    done = command("--resume-sweep", "sweep", "--allow", "faults", cwd=tmp_path, env=here())
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(tmp_path / "sweep") == {"0": "completed", "1": "completed"}
    for number in ("0", "1"):
        assert len(json.loads((tmp_path / f"sweep/{number}/run.json").read_text())["parts"]) == 1
        assert "resuming after step" in (tmp_path / f"sweep/jobs/{number}.log").read_text()


def test_later_edits_change_no_job(tmp_path):
    """The second job starts after its model's YAML, and the first one's, were spoilt."""
    conf = tmp_path / "conf/model"
    conf.mkdir(parents=True)
    yaml = conf / "own.yaml"
    yaml.write_text(
        "name: own\nnet:\n  _target_: fmx.models.mlp.MLP\n  hidden_sizes: [16]\n  num_classes: ${data.num_classes}\n"
        "  in_channels: ${data.in_channels}\n  image_size: ${data.image_size}\n"
    )
    jobs = ["model=own", "seed=1,2,3", *SMALL, "hydra.sweep.dir=sweep", "hydra.launcher.workers=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fmx.run", "--config-dir", "conf", "-m", *jobs],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for((tmp_path / "sweep/0/run.json").exists)
    yaml.write_text("nonsense: [")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert {json.loads(p.read_text())["params"] for p in tmp_path.glob("sweep/*/run.json")} == {784 * 16 + 16 + 170}
    assert len(status(tmp_path / "sweep")) == 3


def test_jobs_skip_the_check_that_their_sweep_has_made_and_no_other(command, tmp_path):
    """A callback notes each process that makes it: the check in the sweep's own, the run and its check in a job's."""
    (tmp_path / "noted.py").write_text(
        "import os, pathlib\nfrom pytorch_lightning import Callback\n"
        "class Noted(Callback):\n"
        "    def __init__(self): pathlib.Path(os.environ['MADE']).open('a').write(f'{os.getpid()}\\n')\n"
    )
    env = {"PYTHONPATH": str(tmp_path), "MADE": str(tmp_path / "made")}
    jobs = ["data=digits", "model=mlp", "trainer=smoke", "logger=none", "+callbacks.noted._target_=noted.Noted"]
    done = command("-m", *jobs, "seed=1,2", "hydra.sweep.dir=sweep", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    made = (tmp_path / "made").read_text().split()
    assert made.count(str(json.loads((tmp_path / "sweep/0/run.json").read_text())["pid"])) == 1
    assert len(made) == 3  # one check for both seeds
    # Another process, which gets what lies in the folder, checks it.
    shutil.rmtree(tmp_path / "sweep/1")
    done = command("--resume-sweep", "sweep", "--allow", "noted", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    again = str(json.loads((tmp_path / "sweep/1/run.json").read_text())["pid"])
    assert (tmp_path / "made").read_text().split()[3:] == [again] * 2


def test_equal_jobs_checkpoints_and_settings(command, tmp_path):
    jobs = ["-m", "model=mlp", "optim.lr=1e-3,0.001,2e-3,4e-3", *SMALL, "sweep.keep_checkpoints=1"]
    done = command(*jobs, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is the same as job 0: it is run once" in done.stdout
    assert len(status(tmp_path / "sweep")) == 3
    kept = [path.parent.parent.name for path in tmp_path.glob("sweep/*/checkpoints/best.ckpt")]
    accuracy = {
        path.parent.name: json.loads(path.read_text())["val"]["accuracy"]
        for path in tmp_path.glob("sweep/*/metrics.json")
    }
    assert len(kept) == 1
    assert accuracy[kept[0]] == max(accuracy.values())
    # Jobs share the machine, and are recorded as if each had been typed alone.
    record = json.loads((tmp_path / "sweep/0/run.json").read_text())
    assert "optim.lr=0.001" in record["overrides"]
    assert not (tmp_path / "outputs").exists()


def test_all_cores_work_for_few_jobs(command, tmp_path):
    """The cores are divided among the jobs of the whole sweep, whatever is left of it."""
    cores = len(os.sched_getaffinity(0))

    def threads(job):
        return json.loads((tmp_path / f"sweep/{job}/run.json").read_text())["device"]["threads"]

    jobs = ["-m", "model=mlp", *SMALL, FAULT, "hydra.sweep.dir=sweep"]
    (tmp_path / "faults.json").write_text(json.dumps({"2": "raise"}))
    failed = command(*jobs, "seed=1,2", cwd=tmp_path, env=here())
    assert failed.returncode == 1, failed.stdout + failed.stderr
    (tmp_path / "faults.json").unlink()
    done = command("--resume-sweep", "sweep", "--allow", "faults", cwd=tmp_path, env=here())
    assert done.returncode == 0, done.stdout + done.stderr
    assert threads(0) == threads(1) == max(1, cores // 2)

    alone = command(*jobs, "seed=1", "hydra.sweep.dir=alone", cwd=tmp_path, env=here())
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert json.loads((tmp_path / "alone/0/run.json").read_text())["device"]["threads"] == cores


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("workers=0", "hydra.launcher.workers must be a whole number of at least 1 or null, got 0"),
        ("job_timeout_s=-1", "hydra.launcher.job_timeout_s must be a number greater than 0 or null, got -1"),
        ("fail_fast=perhaps", "hydra.launcher.fail_fast must be true or false, got 'perhaps'"),
    ],
)
def test_bad_settings(command, tmp_path, setting, said):
    done = command("-m", "seed=1,2", "data=digits", f"hydra.launcher.{setting}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"{said}\n")


def test_what_does_not_go_with_several_jobs(command, tmp_path):
    for setting, said in (
        ("hydra.sweeper.max_batch_size=1", "hydra.launcher.workers=N"),
        ("trainer.devices=[0]", "a sweep divides CUDA_VISIBLE_DEVICES itself"),
        ("trainer.num_nodes=2", "only SLURM starts the jobs of a sweep on several machines; add hydra/launcher=slurm"),
        ("hydra.sweep.subdir=mine", "hydra.sweep.subdir=mine is not for sweeps of fmx"),
    ):
        done = command("-m", "seed=1,2", "data=digits", setting, cwd=tmp_path)
        assert done.returncode == 2, done.stdout + done.stderr
        assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_refused_sweep_writes_nothing(command, tmp_path):
    """Neither a folder of its own nor into that of an earlier one."""
    jobs = ["-m", "model=mlp", *SMALL]
    assert command(*jobs, "seed=1", "hydra.sweep.dir=sweep", cwd=tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert tmp_path / "sweep/multirun.yaml" in before
    refusals = ["optim.lr=0.1,-1", "model.net.hidden_sizes=[8],[0]", "hydra.launcher.workers=0"]
    for refused, folder in zip(refusals, ("sweep", "new", "sweep"), strict=True):
        done = command(*jobs, "seed=2,3", refused, f"hydra.sweep.dir={folder}", cwd=tmp_path)
        assert done.returncode == 2, done.stdout + done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_with_a_launcher_of_hydra(command, tmp_path):
    done = command("-m", "hydra/launcher=basic", "seed=1,2", "model=mlp", *SMALL, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(tmp_path / "sweep") == {"0": "completed", "1": "completed"}
    before = {path: path.read_bytes() for path in (tmp_path / "sweep").glob("[0-9]*/*") if path.is_file()}
    again = command("-m", "seed=1,2", "model=mlp", *SMALL, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 of them done already" in again.stdout
    (tmp_path / "sweep/sweep.json").unlink()
    other = command("-m", "seed=1,2", "model=mlp", "optim.lr=0.5", *SMALL, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert other.returncode == 2, other.stdout + other.stderr
    assert f"{tmp_path / 'sweep/0'} holds a run that is no job of this sweep" in other.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_outputs_latest_may_come_to_mean_another_folder(command, tmp_path):
    """While a sweep that was named by it goes on, a run begins."""
    first = command("-m", "seed=1,2", "model=mlp", *SMALL, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    (sweep,) = (tmp_path / "outputs/sweeps").iterdir()
    again = command("--resume-sweep", "outputs/latest", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert str(sweep) in again.stdout
    assert "outputs/latest" not in again.stdout


def test_fail_fast(command, tmp_path):
    (tmp_path / "faults.json").write_text(json.dumps({"1": "raise"}))
    jobs = ["-m", "model=mlp", "seed=range(1,9)", *SMALL, FAULT, "hydra.sweep.dir=sweep"]
    done = command(*jobs, "hydra.launcher.fail_fast=true", cwd=tmp_path, env=here())
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(status(tmp_path / "sweep")) < 5
    assert "this seed is out of luck" in done.stderr


def test_no_sweep_to_go_on_with(command, tmp_path):
    done = command("--resume-sweep", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("nowhere is no sweep of fmx: it has no sweep.json\n")


def test_jobs_insist_on_what_the_environment_said_and_may_have_been_killed_before_they_began(command, tmp_path):
    jobs = ["-m", "model=mlp", "seed=1,2", *SMALL, "+vars.tag='${oc.env:TAG,none}-${seed}'", "hydra.sweep.dir=sweep"]
    done = command(*jobs, cwd=tmp_path, env={"TAG": "first"})
    assert done.returncode == 0, done.stdout + done.stderr
    whole = board(tmp_path / "sweep")
    for number in ("0", "1"):
        record = json.loads((tmp_path / f"sweep/{number}/run.json").read_text())
        shutil.rmtree(tmp_path / "sweep" / number)
        if number == "0":  # as a sweep records a job that was killed in its first second
            (tmp_path / "sweep/0").mkdir()
            kept = {key: record[key] for key in ("overrides", "config_fingerprint")}
            (tmp_path / "sweep/0/run.json").write_text(json.dumps(kept | {"status": "interrupted", "error": None}))
    for env in ({}, {"TAG": "second"}):
        refused = command("--resume-sweep", "sweep", cwd=tmp_path, env=env)
        assert refused.returncode == 1
        assert "vars.tag comes from the environment" in refused.stderr
        assert "set TAG to its earlier value" in refused.stderr
    again = command("--resume-sweep", "sweep", cwd=tmp_path, env={"TAG": "first"})
    assert again.returncode == 0, again.stdout + again.stderr
    for number in ("0", "1"):
        assert (
            "tag: ${oc.env:TAG,none}-${seed} (digest "
            in (tmp_path / f"sweep/{number}/.hydra/resolved.yaml").read_text()
        )
    pd.testing.assert_frame_equal(board(tmp_path / "sweep"), whole)
    last = command("--resume-sweep", "sweep", cwd=tmp_path, env={"TAG": "first"})
    assert last.returncode == 0, last.stdout + last.stderr
    assert "2 of them done already" in last.stdout


def test_a_job_that_is_brought_to_its_end_by_hand_is_kept(command, tmp_path):
    slow = "+callbacks.slow={_target_:faults.Slow}"
    jobs = ["-m", "model=mlp", "seed=1,2", *SMALL, slow, "trainer.max_epochs=3", "hydra.sweep.dir=sweep"]
    jobs.remove("trainer.max_epochs=2")
    (tmp_path / "slow").touch()

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "fmx.run", *arguments], cwd=tmp_path, env=os.environ | here(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    sweep = start(*jobs)
    wait_for(lambda: len(list((tmp_path / "sweep").glob("*/history.csv"))) == 2)
    sweep.send_signal(signal.SIGINT)
    sweep.communicate(timeout=60)
    assert status(tmp_path / "sweep") == {"0": "interrupted", "1": "interrupted"}
    ledger = json.loads((tmp_path / "sweep/sweep.json").read_text())
    ledger["settings"]["workers"] = 1
    (tmp_path / "sweep/sweep.json").write_text(json.dumps(ledger))
    sweep = start("--resume-sweep", "sweep", "--allow", "faults")
    wait_for(lambda: status(tmp_path / "sweep")["0"] == "running")
    elsewhere = tmp_path / "elsewhere"  # where nothing is slow
    elsewhere.mkdir()
    by_hand = ["model=mlp", "seed=2", *jobs[3:-1], f"resume={tmp_path / 'sweep/1'}"]
    done = command(*by_hand, cwd=elsewhere, env=here())
    assert done.returncode == 0, done.stdout + done.stderr
    kept = (tmp_path / "sweep/1/metrics.json").stat().st_mtime_ns
    assert status(tmp_path / "sweep")["0"] == "running"
    (tmp_path / "slow").unlink()
    output, _ = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, output
    assert "#1 was completed meanwhile" in output
    assert (tmp_path / "sweep/1/metrics.json").stat().st_mtime_ns == kept
    assert len(board(tmp_path / "sweep")) == 1


def test_what_lies_beside_a_job_that_diverged_stays(command, tmp_path):
    sweep = ["-m", "data=digits", "model=mlp", "trainer=smoke", "logger=none", "optim.lr=1e30", "hydra.sweep.dir=sweep"]
    first = command(*sweep, cwd=tmp_path)
    assert first.returncode == 1, first.stdout + first.stderr
    (tmp_path / "sweep/0/notes.txt").write_text("mine")
    again = command("--resume-sweep", "sweep", cwd=tmp_path)
    assert again.returncode == 1, again.stdout + again.stderr
    assert (tmp_path / "sweep/0/notes.txt").read_text() == "mine"


def test_what_a_failed_job_left_is_gone_on_with_and_never_deleted(command, tmp_path):
    """One that raised after a checkpoint, one before, one that was killed; each with a file of the user's beside it."""
    (tmp_path / "faults.json").write_text(json.dumps({"1": "raise", "2": "kill"}))
    jobs = ["-m", "model=mlp", "seed=1,2,3", *SMALL, FAULT, "trainer.checkpoint_every_s=0.001", "hydra.sweep.dir=sweep"]
    first = command(*jobs, cwd=tmp_path, env=here())
    assert first.returncode == 1, first.stdout + first.stderr
    how = f"fmx run --resume-sweep {tmp_path / 'sweep'} --allow faults resumes what is not completed"
    assert how in first.stderr
    assert status(tmp_path / "sweep") == {"0": "failed", "1": "failed", "2": "completed"}
    shutil.rmtree(tmp_path / "sweep/1/checkpoints")
    for number in range(3):
        (tmp_path / f"sweep/{number}/notes.txt").write_text("mine")
        (tmp_path / f"sweep/{number}/folder").mkdir()
    inodes = {number: (tmp_path / f"sweep/{number}/history.csv").parent.stat().st_ino for number in range(3)}
    (tmp_path / "faults.json").unlink()

    edited = tmp_path / "sweep/jobs/0.yaml"
    text = edited.read_text()
    edited.write_text(text.replace("lr: 0.", "lr: 0.1"))
    assert edited.read_text() != text
    again = command("--resume-sweep", "sweep", "--allow", "faults", cwd=tmp_path, env=here())
    assert again.returncode == 1, again.stdout + again.stderr
    assert "the configuration is not that of" in again.stderr
    assert status(tmp_path / "sweep") == {"0": "failed", "1": "completed", "2": "completed"}
    assert list(tmp_path.glob("sweep/0/checkpoints/*.ckpt"))
    edited.write_text(text)

    last = command("--resume-sweep", "sweep", "--allow", "faults", cwd=tmp_path, env=here())
    assert last.returncode == 0, last.stdout + last.stderr
    assert "resuming after step" in (tmp_path / "sweep/jobs/0.log").read_text()
    assert "no checkpoint to resume from: starting anew" in (tmp_path / "sweep/jobs/1.log").read_text()
    for number in range(3):
        assert (tmp_path / f"sweep/{number}/notes.txt").read_text() == "mine"
        assert (tmp_path / f"sweep/{number}").stat().st_ino == inodes[number]
    whole = command(*jobs[:-1], "hydra.sweep.dir=whole", cwd=tmp_path, env=here())
    assert whole.returncode == 0, whole.stdout + whole.stderr
    pd.testing.assert_frame_equal(board(tmp_path / "sweep"), board(tmp_path / "whole"))


def test_a_job_that_was_killed_before_it_began_keeps_what_is_not_its_own(command, tmp_path):
    jobs = ["-m", "model=mlp", "seed=1", *SMALL, "hydra.sweep.dir=sweep"]
    assert command(*jobs, cwd=tmp_path).returncode == 0
    record = json.loads((tmp_path / "sweep/0/run.json").read_text())
    shutil.rmtree(tmp_path / "sweep/0")
    (tmp_path / "sweep/0").mkdir()
    (tmp_path / "sweep/0/notes.txt").write_text("mine")
    kept = {key: record[key] for key in ("overrides", "config_fingerprint")}
    (tmp_path / "sweep/0/run.json").write_text(json.dumps(kept | {"status": "failed", "error": "killed by SIGKILL"}))
    again = command("--resume-sweep", "sweep", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "sweep/0/notes.txt").read_text() == "mine"
    assert status(tmp_path / "sweep") == {"0": "completed"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("sweep.keep_checkpoints=1 data.validation=none", "data.validation=none leaves none"),
        ("sweep.keep_checkpoints=1 data.validation=100,none", "data.validation=none leaves none"),
        ("sweep.keep_checkpoints=1 data.validation=100,test", "use one data.validation for all"),
        ("sweep.keep_checkpoints=-1", "sweep.keep_checkpoints must be a whole number of at least 0 or null, got -1"),
        ("sweep.keep_checkpoints=best", "sweep.keep_checkpoints must be a whole number of at least 0 or null"),
        ("sweep.keep_checkpoints=1,2", "give it one value on the command line"),
    ],
)
def test_checkpoints_that_would_be_deleted_by_chance(command, tmp_path, settings, said):
    done = command("-m", "seed=1,2", "model=mlp", *SMALL, *settings.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_which_checkpoints_are_kept(command, tmp_path):
    """Of equals those of the lowest loss; all of what has no figures, has failed, or is not fmx's; none of 0."""
    (tmp_path / "faults.json").write_text(json.dumps({"4": "raise"}))
    seeds = ["-m", "model=mlp", *SMALL, FAULT, "select=last", "hydra.sweep.dir=sweep"]
    first = command(*seeds, "seed=1,2,3", cwd=tmp_path, env=here())
    assert first.returncode == 0, first.stdout + first.stderr
    for number, (accuracy, loss) in enumerate([(0.5, 0.9), (0.5, 0.8), (None, None)]):
        path = tmp_path / f"sweep/{number}/metrics.json"
        metrics = json.loads(path.read_text())
        metrics["val"] = None if accuracy is None else metrics["val"] | {"accuracy": accuracy, "loss": loss}
        path.write_text(json.dumps(metrics))
        (path.parent / "checkpoints/mine.txt").write_text("mine")
        (path.parent / "checkpoints/folder").mkdir()
    second = command(*seeds, "seed=1,2,3,4", "sweep.keep_checkpoints=1", cwd=tmp_path, env=here())
    assert second.returncode == 1, second.stdout + second.stderr
    assert "3 of them done already" in second.stdout
    assert sorted(path.parent.parent.name for path in tmp_path.glob("sweep/*/checkpoints/last.ckpt")) == ["1", "2"]
    assert len(list(tmp_path.glob("sweep/*/checkpoints/mine.txt"))) == 3
    assert (tmp_path / "sweep/3/run.json").is_file()
    (tmp_path / "faults.json").unlink()
    third = command(*seeds, "seed=1,2,3,4", "sweep.keep_checkpoints=0", cwd=tmp_path, env=here())
    assert third.returncode == 0, third.stdout + third.stderr
    assert list(tmp_path.glob("sweep/*/checkpoints/*.ckpt")) == []
