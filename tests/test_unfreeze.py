"""`callbacks=[default,unfreeze]`: what is frozen until when, at which rate it is trained then, and that runs go on."""

import os
import signal

import pytest
import torch
from torch import nn

from fmx.runs.composition import compose_config
from fmx.training.build import build_classifier, build_data
from fmx.training.callbacks.unfreeze import Unfreeze
from fmx.training.step_graph import fixed_parts
from same_runs import assert_same, points

pytestmark = pytest.mark.usefixtures("no_figures")

RUN = ["data=digits", "augment=none", "trainer.precision=32-true", "trainer.max_epochs=3", "logger=default"]
UNFREEZE = ["callbacks=[default,unfreeze]", "callbacks.unfreeze.epoch=2"]

# Ends each epoch with a copy of the weights, so that a test sees which of them moved.
SNAPSHOTS = """
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import BaseFinetuning


class Snapshots(Callback):
    def on_train_start(self, trainer, module):
        self.save(trainer, module, 0)

    def on_train_epoch_end(self, trainer, module):
        self.save(trainer, module, trainer.current_epoch + 1)

    def save(self, trainer, module, epoch):
        torch.save(module.net.state_dict(), f"{trainer.default_root_dir}/weights{epoch}.pt")


class Thaws(BaseFinetuning):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def freeze_before_training(self, module):
        self.freeze(module.net.features, train_bn=False)

    def finetune_function(self, module, epoch, optimizer):
        if epoch == self.at:
            self.unfreeze_and_add_param_group(module.net.features, optimizer, train_bn=True)
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thaw")
    (folder / "snapshots.py").write_text(SNAPSHOTS)
    return folder


def moved(run, epoch):
    """The names of the tensors that an epoch changed."""
    one, other = (torch.load(run / f"weights{each}.pt", weights_only=True) for each in (epoch - 1, epoch))
    return {name for name in one if not torch.equal(one[name], other[name])}


def train(command, desk, name, *words, **how):
    env = {"PYTHONPATH": f"{desk}:{os.environ.get('PYTHONPATH', '')}"}
    snapshots = "+callbacks.snapshots={_target_:snapshots.Snapshots}"
    return command(*RUN, snapshots, *words, f"hydra.run.dir={name}", cwd=desk, env=env, **how)


def test_all_but_the_last_layer_is_frozen_with_its_batch_norm_until_the_epoch(command, desk):
    parts = ["model=pretrained", "model.net.architecture=shufflenet_v2_x0_5", "model.net.freeze=true"]
    done = train(command, desk, "norms", *parts, *UNFREEZE, "callbacks.unfreeze.lr_factor=0.25")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "frozen before epoch 2, then trained at 0.25 of the rate, batch norm with its stored" in done.stdout
    assert "from epoch 2 on, all of these are trained" in done.stdout
    run = desk / "norms"
    assert moved(run, 1) == {"net.fc.weight", "net.fc.bias"}
    everything = set(torch.load(run / "weights0.pt", weights_only=True))
    assert moved(run, 2) == moved(run, 3) == everything
    done = train(command, desk, "never", *parts, *UNFREEZE, "callbacks.unfreeze.epoch=null", "trainer=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert moved(desk / "never", 1) == {"net.fc.weight", "net.fc.bias"}
    curves = points(run)
    thawed, base = ([value for _, value in curves[f"lr/{name}"]] for name in ("thawed", "base"))
    assert thawed == pytest.approx([rate / 4 for rate in base], rel=1e-5)


BY_NAME = ["model=lenet", *UNFREEZE, "callbacks.unfreeze.params=features", "callbacks.unfreeze.lr_factor=0.5"]
LATER = "+callbacks.later={_target_:fmx.training.callbacks.unfreeze.Unfreeze,epoch:3,params:head.1,lr_factor:0.1}"
WAYS = {
    "two": [*BY_NAME, LATER, "optim.layer_decay=0.8", "optim.no_decay=norm_and_bias", "schedule=cosine"],
    "own": ["model=lenet", "+callbacks.own={_target_:snapshots.Thaws,at:1}"],
}


@pytest.mark.parametrize("name", WAYS)
def test_a_run_goes_on_to_the_bit_wherever_it_was_stopped_and_is_reproduced(command, desk, name):
    whole = train(command, desk, name, *WAYS[name])
    assert whole.returncode == 0, whole.stdout + whole.stderr
    run = desk / name
    head = {f"head.{number}.{kind}" for number in (1, 3, 5) for kind in ("weight", "bias")}
    features = {f"features.{number}.{kind}" for number in (0, 3) for kind in ("weight", "bias")}
    late = {"head.1.weight", "head.1.bias"} if name == "two" else set()
    assert [moved(run, epoch) for epoch in (1, 2, 3)] == [head - late, head - late | features, head | features]
    for epoch in (1, 2):  # stopped in the epoch after this one: before and after the thaw
        stopped = f"{name}{epoch}"
        marker = desk / stopped / f"weights{epoch}.pt"
        done = train(command, desk, stopped, *WAYS[name], send=(marker, signal.SIGTERM))
        assert done.returncode == 143, done.stdout + done.stderr
        done = train(command, desk, stopped, *WAYS[name], f"resume={stopped}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert_same(desk / stopped, run)
    again, env = f"{name}_again", {"PYTHONPATH": str(desk)}
    done = command(name, "--dir", again, "--allow", "snapshots", module="reproduce", cwd=desk, env=env)
    assert (done.returncode, "identical: " in done.stdout) == (0, True), done.stdout + done.stderr


def test_what_cannot_thaw_is_refused_before_there_is_a_folder(command, tmp_path):
    own = "+callbacks.own={_target_:pytorch_lightning.callbacks.BackboneFinetuning}"
    cases = {
        (
            "callbacks.unfreeze.params=[faetures]",
        ): "callbacks.unfreeze.params: no parameter and no layer is named 'faet",
        ("callbacks.unfreeze.params=*",): "would freeze all parameters",
        ("callbacks.unfreeze.epoch=4",): "callbacks.unfreeze.epoch=4 is after the last epoch (trainer.max_epochs=3)",
        ("callbacks.unfreeze.epoch=1",): "callbacks.unfreeze.epoch must be a whole number of at least 2 or null",
        ("callbacks.unfreeze.lr_factor=0",): "callbacks.unfreeze.lr_factor must be a number greater than 0",
        (LATER,): "another callback freezes head.1.weight, head.1.bias too",
        (own,): "type 'callbacks=[default,unfreeze]'",
    }
    for words, said in cases.items():
        done = command(*RUN, "model=lenet", *UNFREEZE, *words, "hydra.run.dir=run", cwd=tmp_path)
        assert done.returncode == 2, done.stdout + done.stderr
        assert said in done.stderr, done.stderr
        assert not (tmp_path / "run").exists()


def test_a_captured_step_notices_what_is_frozen_and_thawed():
    config = compose_config(["data=digits", "model=resnet20"])
    classifier, data = build_classifier(config), build_data(config)
    seen = [fixed_parts(classifier, data)]
    callback = Unfreeze(epoch=2, params=None, lr_factor=0.1)
    callback.prepare(classifier, classifier.rate_factors)
    for step in (lambda: callback.on_fit_start(None, classifier), lambda: callback._thaw_if_due(Second)):
        step()
        assert fixed_parts(classifier, data) != seen[-1]
        seen.append(fixed_parts(classifier, data))
    norms = [module for module in classifier.net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 19
    assert all(norm.training for norm in norms)


class Second:
    """A trainer in its second epoch."""

    current_epoch = 1
