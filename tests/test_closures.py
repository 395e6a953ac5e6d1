"""Optimizers that evaluate the loss several times in a step: LBFGS, and SAM as the page shows it."""

import os
import re
import signal
from pathlib import Path

import pandas as pd
import pytest

from same_runs import assert_same

pytestmark = pytest.mark.usefixtures("no_figures")

PAGE = (Path(__file__).resolve().parents[1] / "docs/own_training.md").read_text(encoding="utf-8")
RUN = ["--config-dir", "my", "data=digits", "model=lenet", "augment=none", "logger=csv", "trainer.max_epochs=2"]
RUN += ["callbacks.history.every_step=true", "trainer.precision=32-true"]
OPTIMIZERS = {
    "lbfgs": ["optim=lbfgs", "schedule=constant", "memory_format=contiguous"],
    "sam": ["optim=sam", "optim.no_decay=norm_and_bias", "optim.lr=0.1"],
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("closures")
    for name, text in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_learns_goes_on_to_the_bit_is_reproduced_and_the_same_without_lean_steps(command, desk, name):
    env = {"PYTHONPATH": f"{desk}:{os.environ.get('PYTHONPATH', '')}"}

    def train(folder, *words, code=0, **how):
        done = command(*RUN, *OPTIMIZERS[name], *words, f"hydra.run.dir={folder}", cwd=desk, env=env, **how)
        assert done.returncode == code, done.stdout + done.stderr

    train(name)
    steps = pd.read_csv(desk / name / "steps.csv")
    assert steps["step"].tolist() == list(range(1, 41)), "one row per step, however often the loss was computed"
    assert steps["loss"].iloc[-5:].mean() < steps["loss"].iloc[:5].mean() - 0.1
    train(f"{name}_each", "callbacks.lean_steps.at_most_s=0")
    assert_same(desk / name, desk / f"{name}_each")
    train(f"{name}_stopped", code=143, send=(desk / f"{name}_stopped/checkpoints/last.ckpt", signal.SIGTERM))
    train(f"{name}_stopped", f"resume={name}_stopped")
    assert_same(desk / name, desk / f"{name}_stopped")
    done = command(f"{name}_stopped", "--dir", f"{name}_again", "--allow", "sam", module="reproduce", cwd=desk, env=env)
    assert (done.returncode, "identical: " in done.stdout) == (0, True), done.stdout + done.stderr
    assert (desk / f"{name}_again/csv/metrics.csv").read_text() == (desk / name / "csv/metrics.csv").read_text()


def test_what_does_not_go_with_lbfgs_is_refused_with_what_to_type(command, desk):
    for words, said in (
        (["optim=lbfgs"], "channels_last (view size is not compatible"),
        (["optim=lbfgs", "trainer.precision=16-mixed"], "type trainer.precision=bf16-mixed or 32-true"),
    ):
        done = command(*RUN, *words, "hydra.run.dir=refused", cwd=desk)
        assert done.returncode == 2, done.stdout + done.stderr
        assert said in done.stderr, done.stderr
        assert not (desk / "refused").exists()
