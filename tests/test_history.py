"""history.csv: metrics that first appear later, that disappear, and names that CSV must quote."""

import csv
import io
import json
import os
import signal

import pandas as pd
import pytest

import fmx
from fmx.training.callbacks.history import append, truncate
from same_runs import assert_same, points

pytestmark = pytest.mark.usefixtures("no_figures")

CODE = """
import torch
from pytorch_lightning import Callback

class Late(Callback):
    def on_train_batch_end(self, trainer, module, *_):
        if trainer.current_epoch == 2:
            module.log("third/step", float(trainer.global_step), on_step=True, on_epoch=False)

    def on_validation_epoch_end(self, trainer, module):
        if trainer.current_epoch % 2:
            module.log("even/epochs", float(trainer.current_epoch))
        if trainer.current_epoch == 1:
            module.log('late/a, "quoted"', 0.5)
            trainer.callback_metrics.update({"odd/vector": torch.ones(3), "odd/text": "text"})

    def on_train_epoch_end(self, trainer, module):
        module.log("at the end", trainer.current_epoch + 0.25)
        if trainer.current_epoch == 3:
            module.log("last/epoch", 1.0)
            module.log("lr", 7.0)
"""
RUN = ["data=digits", "model=mlp", "augment=none", "trainer.max_epochs=4", "trainer.limit_train_batches=4",
       "+callbacks.late={_target_: late.Late}", "callbacks.history.every_step=true"]  # fmt: skip
OWN = {
    "even/epochs": [None, 1, None, 3],
    'late/a, "quoted"': [None, 0.5, None, None],
    "third/step": [None, None, 12, None],
    "at the end": [0.25, 1.25, 2.25, 3.25],
    "last/epoch": [None, None, None, 1],
}


@pytest.fixture(scope="module")
def late(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("late")
    (folder / "late.py").write_text(CODE, encoding="utf-8")
    env = {"PYTHONPATH": os.fspath(folder)}
    done = command(*RUN, "hydra.run.dir=run", cwd=folder, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run", env, done.stdout


def test_a_metric_has_a_column_whenever_it_first_appears(late):
    run, _, said = late
    history = fmx.open_run(run, allow=["late"]).history
    for name, values in OWN.items():
        assert history[name].astype(object).where(history[name].notna(), None).tolist() == values, name
    assert [each for each in history if each not in OWN] == [
        "epoch", "step", "lr", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "seconds"
    ]  # fmt: skip
    assert not history["lr"].eq(7).any()
    assert said.count("history.csv is not written for 'odd/text', 'odd/vector'") == 1, said
    assert said.count("history.csv is not written for 'lr'") == 1
    steps = pd.read_csv(run / "steps.csv")
    assert steps["step"].tolist() == [*range(1, 17)]
    assert points(run)["even/epochs"] == [(7, 1.0), (15, 3.0)]


@pytest.mark.parametrize("verb", ["evaluate", "report", "reproduce"])
def test_each_reader_takes_such_a_history(command, late, tmp_path, verb):
    run, env, _ = late
    allow = [] if verb == "report" else ["--allow", "late"]
    done = command(str(run), *allow, module=verb, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    if verb == "reproduce":
        assert "identical" in done.stdout


@pytest.mark.parametrize("die_at", [("history.csv.tmp", 4), (".last.ckpt.part", 7)], ids=str)
def test_a_kill_at_any_moment_leaves_a_whole_file_and_a_run_to_resume(command, late, tmp_path, die_at):
    whole = late[0]
    name, number = die_at
    watch = (
        "import os, sys, signal\nseen = 0\ndef look(event, arguments):\n    global seen\n"
        f"    if event == 'open' and str(arguments[0]).endswith({name!r}):\n        seen += 1\n"
        f"        if seen == {number}:\n            os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "late.py").write_text(CODE + watch + "sys.addaudithook(look)\n", encoding="utf-8")
    own = {"PYTHONPATH": os.fspath(tmp_path)}
    arguments = [*RUN, "callbacks.last.every_s=0.001", "resume=auto", "hydra.run.dir=outputs/runs/mine"]
    assert command(*arguments, cwd=tmp_path, env=own).returncode == -signal.SIGKILL
    run = tmp_path / "outputs/runs/mine"
    left = pd.read_csv(run / "history.csv")
    assert not left.empty
    assert left["val/loss"].notna().all()
    (tmp_path / "late.py").write_text(CODE, encoding="utf-8")
    done = command(*arguments, cwd=tmp_path, env=own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(run, whole)
    assert json.loads((run / "run.json").read_text())["status"] == "completed"


def test_rows_are_written_at_once_and_a_row_that_an_earlier_version_made_too_long_is_cut(tmp_path):
    path = tmp_path / "history.csv"
    append(path, ["epoch"], [{"epoch": "1", "a\nb": "x,y"}])
    append(path, ["epoch"], [{"epoch": "2"}, {"c": '"', "epoch": "3"}])
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert rows == [["epoch", "a\nb", "c"], ["1", "x,y", ""], ["2", "", ""], ["3", "", '"']]
    truncate(path, 2)
    assert len(pd.read_csv(path)) == 2
    path.write_text("epoch,step\n1,10\n2,20,0.5\n", encoding="utf-8")
    truncate(path, 2)
    assert pd.read_csv(path)["step"].tolist() == [10, 20]
