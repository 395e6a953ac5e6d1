"""A finished run that goes on as a new one: bit for bit as if it had been longer, and what of it may change."""

import json
import signal

import numpy as np
import pandas as pd
import pytest
import torch

pytestmark = pytest.mark.usefixtures("no_figures")

SHORT = ["data=digits", "model=mlp", "model.net.hidden_sizes=[16]", "augment=erasing", "logger=none", "trainer=smoke"]


@pytest.fixture(scope="module")
def desk(command, tmp_path_factory):
    """Finished runs of two epochs: `step`, whose schedule has no length, and `cycle`, whose schedule has."""
    folder = tmp_path_factory.mktemp("extend")
    for name, words in {
        "step": ["schedule=step", "schedule.scheduler.step_size=1", "callbacks=[default,ema]"],
        "cycle": ["trainer.limit_train_batches=10"],
    }.items():
        done = command(*SHORT, *words, "trainer.max_epochs=2", f"hydra.run.dir={name}", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def weights(run, name="last"):
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def test_it_is_as_if_the_run_had_been_longer(command, desk):
    before = {path: path.read_bytes() for path in (desk / "step").rglob("*") if path.is_file()}
    done = command("extend=step", "trainer.max_epochs=4", "hydra.run.dir=more", cwd=desk)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"extend: goes on with {desk}/step, after epoch 2 (step 6), to epoch 4" in done.stdout
    assert "extend: changed: trainer.max_epochs was 2, is 4" in done.stdout
    assert "extend: schedule and optimizer go on from their state" in done.stdout
    assert {path: path.read_bytes() for path in (desk / "step").rglob("*") if path.is_file()} == before
    words = ["schedule=step", "schedule.scheduler.step_size=1", "callbacks=[default,ema]", "trainer.max_epochs=4"]
    long = command(*SHORT, *words, "hydra.run.dir=long", cwd=desk)
    assert long.returncode == 0, long.stderr
    first, second = (pd.read_csv(desk / run / "history.csv").drop(columns="seconds") for run in ("long", "more"))
    pd.testing.assert_frame_equal(first, second)
    assert first["lr"].is_monotonic_decreasing
    for name in ("best", "last"):
        one, other = weights(desk / "long", name), weights(desk / "more", name)
        assert all(one[key].equal(other[key]) for key in one)
    record = json.loads((desk / "more/run.json").read_text())
    assert record["extends"] == {
        "run": str(desk / "step"),
        "epoch": 2,
        "step": 6,
        "schedule": "goes on",
        "changed": {"trainer.max_epochs": [2, 4]},
    }
    assert record["overrides"] == ["extend=step", "trainer.max_epochs=4"]
    (desk / "elsewhere").mkdir()
    again = command("../more", "--dir", "again", module="reproduce", cwd=desk / "elsewhere")
    assert "identical: history" in again.stdout, again.stdout + again.stderr
    board = command("step", "more", "long", module="report", cwd=desk)
    assert board.returncode == 0, board.stderr
    assert "extend" in board.stdout


def test_a_schedule_of_the_length_of_the_training_starts_anew(command, desk):
    done = command(
        *("-m", "extend=cycle", "trainer.max_epochs=5", "optim.lr=1e-3,1e-4", "hydra.sweep.dir=sweep"), cwd=desk
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for job, rate in ((0, 1e-3), (1, 1e-4)):
        history = pd.read_csv(desk / f"sweep/{job}/history.csv")
        assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
        # One cycle of three epochs, with its top in the first, whose last rate is high and those after it ever lower.
        added = history["lr"].to_numpy()[2:]
        assert rate / 2 < added[0] <= rate
        assert np.all(np.diff(added) < 0)
        assert added[-1] < rate / 1e4
        assert json.loads((desk / f"sweep/{job}/run.json").read_text())["extends"]["schedule"] == "anew"
    log = (desk / "sweep/0/run.log").read_text()
    assert "the schedule starts anew, over the added epochs; the optimizer keeps its state" in log
    assert "optim.lr was 0.002, is 0.001; schedule.scheduler.max_lr was 0.002, is 0.001" in log
    whole = command(*SHORT, *("trainer.limit_train_batches=10", "trainer.max_epochs=5", "optim.lr=1e-3"),
                    "extend=cycle", "hydra.run.dir=whole", cwd=desk)  # fmt: skip
    assert whole.returncode == 0, whole.stdout + whole.stderr
    one, other = weights(desk / "whole"), weights(desk / "sweep/0")
    assert all(one[key].equal(other[key]) for key in one), "the whole command typed again is the same"


def test_an_interrupted_extension_resumes(command, desk):
    words = ["extend=cycle", "trainer.max_epochs=30", "schedule=constant"]
    started = command(*words, "hydra.run.dir=broken", cwd=desk, send=(desk / "broken/history.csv", signal.SIGTERM))
    assert started.returncode == 143, started.stdout + started.stderr
    assert json.loads((desk / "broken/run.json").read_text())["status"] == "interrupted"
    refused = command("resume=broken", "trainer.max_epochs=5", cwd=desk)
    assert refused.returncode == 2
    assert "resume=broken goes on with the run as it was begun, and takes no trainer.max_epochs=5" in refused.stderr
    assert f"then extend={desk}/broken trainer.max_epochs=5 is a new run" in refused.stderr
    early = command("extend=broken", "trainer.max_epochs=500", cwd=desk)
    assert early.returncode == 2
    assert "that run is interrupted, and only a finished one goes on: resume=broken ends it first" in early.stderr
    resumed = command("resume=broken", cwd=desk)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    history = pd.read_csv(desk / "broken/history.csv")
    assert history["epoch"].tolist() == [*range(1, 31)]
    assert (history["lr"][2:] == 0.002).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["extend=step"], "that run was trained for 2 epochs already; add some, as in trainer.max_epochs=4"),
        (["extend=nowhere", "trainer.max_epochs=4"], "extend=nowhere: nowhere is not a run directory"),
        (["extend=step", "trainer.max_epochs=4", "seed=3"], "but seed was 1, is 3; init=step starts a new run"),
        (
            ["extend=step", "trainer.max_epochs=4", "model=lenet"],
            "goes on with the model of that run: leave out model=",
        ),
        (["extend=step", "trainer.max_epochs=4", "data.validation=9"], "data.validation was 0.15, is 9"),
        (
            ["extend=step", "trainer.max_epochs=4", "model.net.hidden_sizes=[8]"],
            "model.net.hidden_sizes was [16], is [8]",
        ),
        (["extend=step", "trainer.max_epochs=4", "init=cycle"], "init=cycle would be without effect"),
        (
            ["resume=step", "trainer.max_epochs=4"],
            "takes no trainer.max_epochs=4. A new run that goes on with it: extend=",
        ),
        (["resume=step"], "is complete; there is nothing to continue. A new run that goes on with it: extend="),
    ],
)
def test_what_cannot_go_on_is_refused_with_the_remedy(command, desk, words, said):
    done = command(*words, "--dry-run", cwd=desk)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
