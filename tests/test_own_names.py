"""Parts of one's own may call their keys as fmx's are called, and mean something else by them."""

import os

import pytest

CODE = """
import torch
from pytorch_lightning import Callback
from torch import nn

class Net(nn.Module):
    def __init__(self, *, weights, path, name, root, num_pixels, num_classes):
        super().__init__()
        assert weights == [1, 2] and path == 3 and name is True and root == 2.5
        self.scale = float(sum(weights))
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(num_pixels, num_classes))

    def forward(self, x):
        return self.body(x) * self.scale

class Loss(nn.CrossEntropyLoss):
    def __init__(self, *, weight, label_smoothing, num_classes):
        super().__init__()
        assert weight == "heavy" and label_smoothing == 7
        self.weight = nn.Parameter(torch.zeros(num_classes))

    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits + self.weight, labels)

class Optimizer(torch.optim.SGD):
    def __init__(self, params, *, lr, weight_decay, momentum, fused):
        assert weight_decay == -1 and momentum == 5 and fused is True
        super().__init__(params, lr=lr["base"])

class ReduceLROnPlateau(torch.optim.lr_scheduler.ConstantLR):
    def __init__(self, optimizer, *, mode, step_size, eta_min):
        assert mode == "max" and step_size == 0.5 and eta_min == -2
        super().__init__(optimizer)

class Average(Callback):
    def __init__(self, *, decay, update_every_n_steps, name):
        assert decay == 7 and update_every_n_steps == "all" and name == 4
"""
PLATEAU = (
    "+schedule.scheduler={_target_: ours.ReduceLROnPlateau, _partial_: true, mode: max, step_size: 0.5, eta_min: -2}"
)
OWN = [
    "~model.net", "+model.net={_target_: ours.Net, weights: [1, 2], num_pixels: 784, num_classes: 10}",
    "+model.net.path=3", "+model.net.name=true", "+model.net.root=2.5", "model.name=3",
    "~loss", "+loss={_target_: ours.Loss, weight: heavy, label_smoothing: 7, num_classes: 10}",
    "~optim", "+optim={_target_: ours.Optimizer, _partial_: true, lr: {base: 0.1}, weight_decay: -1, momentum: 5}",
    "+optim.fused=true", "schedule=step", "~schedule.scheduler", PLATEAU,
    "trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=2",
    "+callbacks.ema={_target_: ours.Average, decay: 7, update_every_n_steps: all}", "+callbacks.ema.name=4",
]  # fmt: skip
RUN = ["data=digits", "model=mlp", "augment=none", "trainer=smoke", "trainer.limit_train_batches=4"]


def test_rules_look_at_the_target(command, tmp_path):
    (tmp_path / "ours.py").write_text(CODE, encoding="utf-8")
    env = {"PYTHONPATH": os.fspath(tmp_path)}
    done = command(*RUN, *OWN, "hydra.run.dir=run", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    for verb, says in (("evaluate", "identical to metrics.json"), ("reproduce", "identical")):
        done = command("run", "--allow", "ours", module=verb, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert says in done.stdout


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("optim.lr=-1", "optim.lr must be"),
        ("loss.label_smoothing=7", "loss.label_smoothing must be"),
        ("+loss.weight=[1,2]", "loss.weight must have one number for each"),
        ("schedule.scheduler.pct_start=2", "schedule.scheduler.pct_start must be"),
        ("callbacks.last.every_s=0", "callbacks.last.every_s must be"),
    ],
)
def test_they_hold_for_known_targets(command, tmp_path, word, says):
    done = command(*RUN, word, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
