"""A terminal that is closed, or a connection that breaks, ends work as SIGTERM does: with its state saved."""

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from terminal import Terminal
from test_sweep import here

FMX = [sys.executable, "-m", "fmx.run"]
RUN = ["data=digits", "model=mlp", "logger=none", "trainer.max_epochs=500", "hydra.run.dir=run"]
HANGUP = 128 + signal.SIGHUP


def close(terminal):
    os.close(terminal._master)


def test_a_run_saves_its_state_and_goes_on_later(command, tmp_path):
    terminal = Terminal([*FMX, *RUN], cwd=tmp_path)
    terminal.read(until=lambda: "epoch 2/500  step" in terminal.text)
    close(terminal)
    assert terminal.process.wait(60) == HANGUP
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], record["error"]) == ("interrupted", None)
    assert "SIGHUP: saving the state after step" in (tmp_path / "run/run.log").read_text()
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
    sent = (tmp_path / "piped/checkpoints/last.ckpt", signal.SIGHUP)
    done = command(*RUN[:-1], "hydra.run.dir=piped", cwd=tmp_path, send=sent)
    assert done.returncode == HANGUP, done.stdout + done.stderr
    assert "interrupted; resume=" in done.stdout


def test_a_sweep_and_a_search_save_the_states_of_their_jobs(tmp_path):
    slow = [
        "logger=none",
        "trainer.max_epochs=60",
        "+callbacks.slow={_target_:faults.Slow}",
        "hydra.launcher.workers=2",
    ]
    sweep = ["-m", "data=digits", "model=mlp", *slow, "seed=1,2"]
    for name, more in (("sweep", []), ("search", ["hydra/sweeper=search", "hydra.sweeper.sampler=grid"])):
        (tmp_path / "slow").touch()
        arguments = [*FMX, *sweep, *more, f"hydra.sweep.dir={name}"]
        terminal = Terminal(arguments, cwd=tmp_path, env=here(), lines=40)
        begun = [tmp_path / name / str(number) / "history.csv" for number in (0, 1)]
        terminal.read(until=lambda begun=begun: all(path.exists() for path in begun))
        close(terminal)
        assert terminal.process.wait(100) == HANGUP
        for number in (0, 1):
            record = json.loads((tmp_path / name / str(number) / "run.json").read_text())
            assert (record["status"], record["error"]) == ("interrupted", None), record
            assert (tmp_path / name / str(number) / "checkpoints/last.ckpt").is_file()
    assert [job["status"] for job in json.loads((tmp_path / "sweep/sweep.json").read_text())["jobs"]] == [
        "interrupted"
    ] * 2


def test_below_nohup_nothing_ends(tmp_path):
    run = ["data=digits", "model=mlp", "logger=none", "trainer=smoke", "hydra.run.dir=run"]
    line = 'trap "" HUP; exec "$@" > out 2>&1'
    terminal = Terminal(["bash", "-c", line, "bash", *FMX, *run], cwd=tmp_path)
    terminal.read(until=(tmp_path / "run/run.json").exists)
    close(terminal)
    assert terminal.process.wait(60) == 0, (tmp_path / "out").read_text()


def test_both_processes_of_a_distributed_run_save_one_state(tmp_path):
    ddp = [*FMX, "data=digits", "model=lenet", "augment=none", "logger=none", "trainer=ddp", "trainer.accelerator=cpu"]
    slow = ["trainer.precision=32-true", "+callbacks.slow={_target_:faults.Slow}", "trainer.max_epochs=200"]
    (tmp_path / "slow").touch()
    terminal = Terminal([*ddp, *slow, "hydra.run.dir=run"], cwd=tmp_path, env=here())
    terminal.read(until=(tmp_path / "run/checkpoints/best.ckpt").exists)
    close(terminal)
    assert terminal.process.wait(100) == HANGUP
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_goes_ends_no_training(tmp_path, both):
    """As `fmx … | head -1` does."""
    sweep = ["-m", *RUN[:3], "trainer.max_epochs=2", "seed=1,2", "hydra.sweep.dir=sweep"]
    for arguments, runs in ((["trainer.max_epochs=2", *RUN[:3], RUN[-1]], ["run"]), (sweep, ["sweep/0", "sweep/1"])):
        line = f"{shlex.join([*FMX, *arguments])} {'2>&1' if both else ''} | head -1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
        assert done.stderr == ("" if both else "nobody reads the output any longer; this command goes on\n")
        for run in runs:
            assert json.loads((tmp_path / run / "run.json").read_text())["status"] == "completed"
    assert "test accuracy" in (tmp_path / "run/run.log").read_text()
