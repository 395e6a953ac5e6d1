"""`callbacks=[default,swa]`: what the mean is, that its own figures are recorded, and that runs with it resume."""

import json
import os
import signal

import pytest
import torch

from fmx.runs.checkpoint_files import load_checkpoint
from fmx.runs.composition import compose_config
from fmx.training.build import build_classifier, build_data
from same_runs import assert_same

pytestmark = pytest.mark.usefixtures("no_figures")

NET = (
    "model.net={_target_: torch.nn.Sequential, _args_: [{_target_: torch.nn.Conv2d, in_channels: 1, out_channels: 4, "
    "kernel_size: 3}, {_target_: torch.nn.BatchNorm2d, num_features: 4}, {_target_: torch.nn.ReLU}, {_target_: "
    "torch.nn.AdaptiveAvgPool2d, output_size: 4}, {_target_: torch.nn.Flatten}, {_target_: torch.nn.Dropout, p: 0.1}, "
    "{_target_: torch.nn.Linear, in_features: 64, out_features: 10}]}"
)
RUN = ["data=digits", "model=mlp", "~model.net", f"+{NET}", "augment=none", "trainer.max_epochs=4", "select=last",
       "callbacks=[default,swa]", "callbacks.swa.start=0.5", "trainer.limit_train_batches=8",
       "callbacks.last.every_s=0.001", "+callbacks.keep={_target_: keep.Keep}"]  # fmt: skip
CODE = """
import os, signal, torch
from pytorch_lightning import Callback

class Keep(Callback):
    \"\"\"Keeps the weights of each epoch; dies where DIE says.\"\"\"

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if os.environ.get("DIE") == str(trainer.global_step):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_epoch_end(self, trainer, module):
        torch.save(module.net.state_dict(), f"epoch{trainer.current_epoch}.pt")
"""


@pytest.fixture(scope="module")
def swa(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("swa")
    (folder / "keep.py").write_text(CODE, encoding="utf-8")
    done = command(*RUN, "hydra.run.dir=run", cwd=folder, env={"PYTHONPATH": os.fspath(folder)})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_mean_of_the_last_epochs_is_tested_with_statistics_of_its_own(swa):
    folder, said = swa
    kept = [torch.load(folder / f"epoch{epoch}.pt") for epoch in (2, 3)]
    weights = load_checkpoint(folder / "run/checkpoints/last.ckpt")["state_dict"]
    for name, weight in weights.items():
        if name.startswith("net.") and "running" not in name and "num_batches" not in name:
            mean = sum(each[name.removeprefix("net.")] for each in kept) / 2
            torch.testing.assert_close(weight, mean)
    data = build_data(compose_config(RUN[:-1]))
    classifier = build_classifier(compose_config(RUN[:-1]))
    classifier.load_state_dict(weights)
    order = torch.Generator().manual_seed(1 << 20)
    chosen = data.indices["train"][torch.randperm(len(data.indices["train"]), generator=order)][: 8 * data.batch_size]
    images = data.normalize(data.sources["train"].images[chosen])
    seen = classifier.net[0](images).mean((0, 2, 3)).detach()
    torch.testing.assert_close(weights["net.1.running_mean"], seen, rtol=1e-4, atol=1e-5)
    assert "from epoch 3 on, the rate is 0.001" in said
    assert "select=last" not in said


def test_its_validation_figure_is_that_of_the_tested_weights(command, swa, tmp_path):
    folder, _ = swa
    env = {"PYTHONPATH": os.fspath(folder)}
    rows = (folder / "run/history.csv").read_text().splitlines()
    recorded = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    val = json.loads((folder / "run/metrics.json").read_text())["val"]
    assert float(recorded["val/accuracy"]) == pytest.approx(val["accuracy"], abs=1e-6)
    assert float(recorded["val/loss"]) == pytest.approx(val["loss"], rel=1e-5)
    assert [row.split(",")[2] for row in rows[3:]] == ["0.001", "0.001"]
    for verb, says in (("evaluate", "identical to metrics.json"), ("reproduce", "identical")):
        done = command(str(folder / "run"), "--allow", "keep", module=verb, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert says in done.stdout


@pytest.mark.parametrize("step", [13, 20, 28])  # before the averaged part, and in each of its epochs
def test_it_resumes_to_the_bit(command, swa, tmp_path, step):
    folder, _ = swa
    arguments = [*RUN, "resume=auto", "hydra.run.dir=outputs/runs/mine"]
    env = {"PYTHONPATH": os.fspath(folder)}
    assert command(*arguments, cwd=tmp_path, env=env | {"DIE": str(step)}).returncode == -signal.SIGKILL
    done = command(*arguments, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path / "outputs/runs/mine", folder / "run")
    assert "resuming after step" in done.stdout


def test_weights_from_before_the_mean_are_named(command, tmp_path):
    run = ["data=digits", "model=mlp", "trainer.max_epochs=2", "trainer.limit_train_batches=3"]
    own = ["callbacks=[default,swa]", "callbacks.swa.lr_factor=1000"]
    done = command(*run, *own, "hydra.run.dir=spoilt", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best.ckpt: epoch 1" in done.stdout
    assert "the weights themselves, from before averaging began; select=last tests the average" in done.stdout
    done = command(*run, *own, "+trainer.max_steps=2", "hydra.run.dir=short", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no complete" in done.stderr
