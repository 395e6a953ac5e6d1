"""Numbers that hold: what is not finite stops or is counted, and odd sizes give the right figures without a word."""

import csv
import json
import math
import os
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

SPOILED = """
import torch
from torch import nn


class Spoil(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gradient):
        ctx.gradient = gradient
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.gradient, None


class Spoiled(nn.Module):
    def __init__(self, at, loss, gradient):
        super().__init__()
        self.at, self.step, self.spoils = at, 0, (loss, gradient)

    def forward(self, logits, labels):
        self.step += self.training
        loss = nn.functional.cross_entropy(logits, labels)
        if not self.training or self.step not in self.at:
            return loss
        return Spoil.apply(loss, float(self.spoils[1])) * float(self.spoils[0])
"""
COMMON = ["data=digits", "augment=none", "logger=none", "hydra.run.dir=run", "trainer.max_epochs=2"]


def run(command, cwd, *overrides, spoil=None, code=0):
    (cwd / "spoils.py").write_text(SPOILED)
    (cwd / "conf/loss").mkdir(parents=True, exist_ok=True)
    at, loss, gradient = spoil or ([], 1, 1)
    (cwd / "conf/loss/spoiled.yaml").write_text(
        f"_target_: spoils.Spoiled\nat: {at}\nloss: {loss}\ngradient: {gradient}\n"
    )
    mine = ["--config-dir=conf", "loss=spoiled"] if spoil else []
    done = command(*mine, *COMMON, *overrides, cwd=cwd, env={"PYTHONPATH": f"{cwd}:{os.environ.get('PYTHONPATH', '')}"})
    assert done.returncode == code, done.stdout + done.stderr
    return done


def rows(cwd):
    with (cwd / "run/history.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(([25], "nan", 1), "loss became nan"), (([25], 1, "inf"), "gradient became nan"),
     (([20], 1, "nan"), "gradient became nan")],
)  # fmt: skip
def test_it_stops_with_the_step_and_its_images(command, tmp_path, spoil, said):
    done = run(command, tmp_path, "model=mlp", "data.shuffle=false", spoil=spoil, code=1)
    step = spoil[0][0]
    batch = (step - 1) % 20
    assert f"the training {said} at step {step} (epoch {(step - 1) // 20 + 1}, batch {batch + 1}: " in done.stderr
    images = [int(text) for text in re.search(r"training images ([\d, ]+\d)", done.stderr)[1].split(", ")]
    assert len(images) == (5 if batch == 19 else 8)  # 1,221 images, and no more than eight are listed
    assert images == sorted(images)  # in the order of the file, of which some are held out
    assert 64 * batch <= images[0] < 64 * batch + 216
    kept = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True) if step > 20 else None
    assert kept is None or all(weight.isfinite().all() for weight in kept["state_dict"].values())
    assert not (tmp_path / "run/metrics.json").exists()


SPOILED_WEIGHT = """
from fmx.models.mlp import MLP


class Spoiled(MLP):
    def __init__(self, *, at, bias, **options):
        super().__init__(**options)
        self.step, layers = 0, [module for module in self.modules() if hasattr(module, "bias")]
        for layer in layers if not bias else []:
            layer.register_parameter("bias", None)

        def spoil(grad):
            self.step += 1
            return grad * float("inf" if self.step == at else 1)

        layers[0].weight.register_hook(spoil)
"""


@pytest.mark.parametrize(
    ("at", "bias", "said"),
    [
        # The last step before a checkpoint.
        (20, True, "net.head.0.weight has values that are not finite after step 20"),
        (25, True, "the training loss became nan at step 26"),
        (25, False, "the training gradient became nan at step 25"),
    ],
)
def test_a_weight_alone_that_is_spoiled_reaches_no_checkpoint(command, tmp_path, at, bias, said):
    (tmp_path / "weights.py").write_text(SPOILED_WEIGHT)
    model = ["model=mlp", "model.net._target_=weights.Spoiled", f"+model.net.at={at}", f"+model.net.bias={bias}"]
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = command(*COMMON, *model, cwd=tmp_path, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert said in done.stderr
    kept = list((tmp_path / "run/checkpoints").glob("*.ckpt"))
    assert len(kept) == (2 if at > 20 else 0)
    for path in kept:
        assert all(weight.isfinite().all() for weight in torch.load(path, weights_only=True)["state_dict"].values())


@pytest.mark.parametrize("spoil", [([3, 25], "nan", 1), ([3, 25], 1, "inf")])
def test_it_skips_and_counts_where_that_is_asked_for(command, tmp_path, spoil):
    skip = "callbacks=[default,ema,skip_nonfinite]"
    done = run(command, tmp_path, "model=resnet20", "model.net.width=4", skip, spoil=spoil)
    assert [row["train/skipped"] for row in rows(tmp_path)] == ["1", "2"]
    assert "step 3 is skipped" in done.stdout
    assert "step 25 is skipped" in done.stdout
    kept = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(weight.isfinite().all() for weight in kept.values())
    assert all(math.isfinite(float(row[name])) for row in rows(tmp_path) for name in ("train/loss", "val/loss"))
    refused = run(
        command, tmp_path, "model=mlp", skip, "callbacks.skip_nonfinite.max_steps=1", "hydra.run.dir=run2",
        spoil=spoil, code=1,
    )  # fmt: skip
    assert "2 steps had a loss or gradients that are not finite, the last one at step 25" in refused.stderr


SPOILED_INPUT = """
from fmx.models.resnet import ResNet20


class Spoiled(ResNet20):
    def forward(self, images):
        self.seen = getattr(self, "seen", 0) + self.training
        return super().forward(images * float("nan" if self.training and self.seen == 3 else 1))
"""


def test_a_skipped_step_of_several_batches_leaves_batch_norm_as_it_was(command, tmp_path):
    (tmp_path / "inputs.py").write_text(SPOILED_INPUT)
    model = ["model=resnet20", "model.net.width=4", "model.net._target_=inputs.Spoiled"]
    options = ["callbacks=[default,skip_nonfinite]", "trainer.accumulate_grad_batches=2"]
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = command(*COMMON, *model, *options, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["train/skipped"] for row in rows(tmp_path)] == ["1", "1"]
    kept = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert any("running_mean" in name for name in kept)
    assert all(weight.isfinite().all() for weight in kept.values())


def quiet(done):
    """Nothing on stderr, and no warning that repeats."""
    assert done.stderr == ""
    assert not re.search(r"warning|UserWarning", done.stdout, re.IGNORECASE), done.stdout


def test_a_smaller_last_batch_of_the_validation_counts_as_what_it_is(command, tmp_path):
    run(command, tmp_path, "model=mlp", "data.validation=217", "data.eval_batch_size=72", "select=last")
    figures = json.loads((tmp_path / "run/metrics.json").read_text())  # 3 x 72 and one, there of all at once
    assert math.isclose(float(rows(tmp_path)[-1]["val/loss"]), figures["val"]["loss"], rel_tol=1e-5)


@pytest.mark.parametrize("together", [1, 4])
def test_the_seconds_of_an_epoch_that_goes_on_after_its_last_validation(command, tmp_path, together):
    every = ["trainer.val_check_interval=15", "trainer.check_val_every_n_epoch=null"]  # of 20 batches, 1,221 images
    run(command, tmp_path, "model=mlp", *every, f"trainer.accumulate_grad_batches={together}", "trainer.max_epochs=1")
    (row,) = rows(tmp_path)
    assert int(row["step"]) == 15 // together
    timing = json.loads((tmp_path / "run/run.json").read_text())["timing"]
    epoch = float(row["seconds"]) * (20 / together) / (15 // together)
    assert timing["seconds_per_epoch"] == pytest.approx(epoch, rel=0.01)
    assert timing["images_per_s"] == pytest.approx(1221 / epoch, rel=0.01)


def test_a_class_that_is_not_in_the_validation_set(command, tmp_path):
    quiet(run(command, tmp_path, "model=mlp", "data.validation=5"))
    figures = json.loads((tmp_path / "run/metrics.json").read_text())
    known = {name: value for name, value in figures["val"]["per_class"].items() if value is not None}
    assert len(known) == 5
    assert math.isclose(sum(known.values()) / 5, figures["val"]["accuracy"], abs_tol=1e-6)
    assert None not in figures["test"]["per_class"].values()
    stored = np.load(tmp_path / "run/predictions.npz")
    expected = f1_score(stored["labels"], stored["logits"].argmax(1), average="macro")
    assert math.isclose(figures["test"]["macro_f1"], expected, abs_tol=1e-6)
    done = command("run", module="evaluate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no images") == 5
    assert "identical to metrics.json" in done.stdout


@pytest.mark.parametrize(
    "model", [["model=resnet20", "model.net.width=4"], ["model=pretrained", "model.net.architecture=resnet18"]]
)
def test_a_last_batch_of_one_image_under_batch_norm(command, tmp_path, model):
    """1,437 images, none held out: 1,436 and one. The second network has one number a channel in its last stage."""
    done = run(command, tmp_path, *model, "data.validation=none", "data.batch_size=359", "trainer.max_epochs=1")
    quiet(done)
    (row,) = rows(tmp_path)
    assert row["step"] == "5"
    assert math.isfinite(float(row["train/loss"]))
    weights = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")} == {4}


def test_an_odd_number_of_images_across_ranks(command, tmp_path):
    """217 held out of 1,437; with 216, 1,221 remain: both odd."""
    for number, held_out in enumerate((217, 216)):
        folder = f"run{number}"
        done = run(
            command, tmp_path, "model=mlp", f"data.validation={held_out}", "data.eval_batch_size=10", "trainer=ddp",
            "trainer.accelerator=cpu", "trainer.devices=2", "select=last", f"hydra.run.dir={folder}",
        )  # fmt: skip
        assert not re.search(r"UserWarning|warn\(", done.stdout + done.stderr), done.stderr
        with (tmp_path / folder / "history.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        figures = json.loads((tmp_path / folder / "metrics.json").read_text())  # by one process, all images once
        assert figures["selected_on"] == "last"
        assert math.isclose(float(last["val/accuracy"]), figures["val"]["accuracy"], abs_tol=1e-6)
        assert math.isclose(float(last["val/loss"]), figures["val"]["loss"], rel_tol=1e-4)
        assert last["step"] == "20"
        right = float(last["train/accuracy"]) * (2 * math.ceil((1437 - held_out) / 2))
        assert math.isclose(right, round(right), abs_tol=1e-3)


def weights_after(command, cwd, *overrides):
    """The weights after so many epochs of gradient descent without momentum, whose steps are as long as gradients."""
    folder = f"run{len(list(cwd.glob('run*')))}"
    plain = ["model=mlp", "optim=sgd", "optim.momentum=0", "optim.nesterov=false", "schedule=constant"]
    run(command, cwd, *plain, *overrides, f"hydra.run.dir={folder}")
    return torch.load(cwd / folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    "options",
    [
        ["trainer.limit_train_batches=0.2", "trainer.gradient_clip_val=0.5"],
        ["data.drop_last=true", "data.batch_size=305", "+trainer.max_steps=2", "trainer.max_epochs=9"],
    ],
    ids=["share and clipping", "dropped rest and max_steps"],
)
def test_the_last_window_of_an_epoch_is_divided_by_what_it_holds(command, tmp_path, options):
    """Four batches summed up make one step, whether or not the window has room for more."""
    four, more = (
        weights_after(command, tmp_path, *options, f"trainer.accumulate_grad_batches={window}") for window in (4, 100)
    )
    for name, weight in four.items():
        torch.testing.assert_close(more[name], weight, msg=name)


def test_a_window_of_three_batches_and_one_of_the_fourth_alone(command, tmp_path):
    """Of four batches in one order, the fourth is a step like that of a training which goes on with it alone."""
    fixed = ["data.shuffle=false", "data.batch_size=305", "data.drop_last=true", "trainer.max_epochs=1"]
    window = "trainer.accumulate_grad_batches=3"
    three = weights_after(command, tmp_path, *fixed, window, "trainer.limit_train_batches=3")
    both = weights_after(command, tmp_path, *fixed, window)
    four = weights_after(command, tmp_path, *fixed, "trainer.accumulate_grad_batches=4")
    start = weights_after(command, tmp_path, *fixed, "optim.lr=1e-12", "trainer.limit_train_batches=1")
    # The fourth gradient, at the start instead of after the first step: about the one that was taken there.
    for name, begin in start.items():
        fourth = 4 * (four[name] - begin) - 3 * (three[name] - begin)
        taken = both[name] - three[name]
        assert float(taken.norm() / fourth.norm()) == pytest.approx(1, abs=0.3), name


UNWEIGHTED = "loss.weight=[0,0,0,0,0,0,0,0,0,1]"


@pytest.mark.parametrize(
    "loss", [["loss=cross_entropy", "loss.label_smoothing=0.1"], ["loss=nll", "trainer.precision=bf16-mixed"]]
)
def test_a_batch_whose_images_all_have_weight_0(command, tmp_path, loss):
    options = ["model=mlp", *loss, UNWEIGHTED, "data.batch_size=8", "callbacks=[default,skip_nonfinite]"]
    done = run(command, tmp_path, *options, "data.normalize=unit", "callbacks.history.every_step=true")
    assert "is skipped" not in done.stdout + done.stderr
    with (tmp_path / "run/steps.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 2 * 153
    assert 50 < losses.count(0.0) < len(losses), "nine classes of ten count for nothing"
    assert rows(tmp_path)[-1]["train/skipped"] == "0"
    assert float(rows(tmp_path)[-1]["val/loss"]) > 1, "validation knows no weights"


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("[0,0,0,0,0,0,0,0,0,0]", "loss.weight must be a list of numbers of at least 0, one per class and not all 0"),
        ("[1e-60,0,0,0,0,0,0,0,0,0]", "loss: weight is 0 for every class"),
        ("[1e60,1,1,1,1,1,1,1,1,1]", "loss: weight must hold finite numbers of at least 0 in float32"),
        ("[.nan,1,1,1,1,1,1,1,1,1]", "loss.weight must be a list of numbers of at least 0"),
    ],
)
def test_weights_that_no_loss_can_be_computed_with(command, tmp_path, weights, said):
    refused = command(*COMMON, "model=mlp", "loss=nll", f"loss.weight={weights}", cwd=tmp_path)
    assert refused.returncode == 2, refused.stdout
    assert said in refused.stderr
    assert not (tmp_path / "run").exists()


FEWER = """
from fmx.data.arrays import ImageArrays
from fmx.data.digits import load_digits


def without_nines(**options):
    arrays = load_digits(**options)
    kept = arrays.labels != 9
    return ImageArrays(images=arrays.images[kept], labels=arrays.labels[kept])
"""


def test_weights_of_classes_alone_that_no_training_image_has(command, tmp_path):
    (tmp_path / "fewer.py").write_text(FEWER)
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    options = ["model=mlp", "data.train._target_=fewer.without_nines", UNWEIGHTED]
    refused = command(*COMMON, *options, cwd=tmp_path, env=environment)
    assert refused.returncode == 2, refused.stdout
    assert "loss.weight is 0 for every class that has training images" in refused.stderr
    assert "the classes of a larger weight (9) have none" in refused.stderr


def test_torchs_own_loss_that_has_no_mean_for_a_batch_is_named(command, tmp_path):
    (tmp_path / "conf/loss").mkdir(parents=True)
    (tmp_path / "conf/loss/own.yaml").write_text("_target_: torch.nn.CrossEntropyLoss\nignore_index: 3\n")
    small = ["model=mlp", "data.batch_size=1", "trainer.max_epochs=1"]
    done = command("--config-dir=conf", "loss=own", *COMMON, *small, cwd=tmp_path)
    assert done.returncode == 1
    assert "the training loss became nan at step" in done.stderr
    assert "CrossEntropyLoss leaves out the labels 3 (weight 0, or ignore_index), and has no mean" in done.stderr
