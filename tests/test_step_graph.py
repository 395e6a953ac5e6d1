"""Training steps as one CUDA graph: for which networks, and that they are the same steps to the bit."""

import os
import warnings

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import nn

from fmx.config.conf_dir import CONF_DIR
from fmx.runs.composition import compose_config
from fmx.training.build import build_classifier, build_data
from fmx.training.callbacks.lean_steps import LeanSteps
from fmx.training.step_graph import StepGraph, can_be_captured, fixed_parts

MODELS = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
AUGMENTS = sorted(path.stem for path in (CONF_DIR / "augment").glob("*.yaml"))
DIGITS = ["data=digits", "data.batch_size=64"]


class Mine(nn.Linear):
    """A network of somebody's own, which may do something else at every step."""


def test_a_step_of_our_own_parts_is_captured_and_nobody_elses():
    assert len(MODELS) >= 10
    assert len(AUGMENTS) >= 4
    data = build_data(compose_config(DIGITS))
    for model in set(MODELS) - {"timm"}:  # whose layers may do anything at a step
        overrides = [f"model={model}", *(["model.net.weights=null"] if model == "pretrained" else [])]
        assert can_be_captured(build_classifier(compose_config([*DIGITS, *overrides])), data), model
    classifier = build_classifier(compose_config([*DIGITS, "model=mlp"]))
    for augment in AUGMENTS:
        grey = ["augment.saturation=0", "augment.hue=0"] if augment == "color" else []
        assert can_be_captured(classifier, build_data(compose_config([*DIGITS, f"augment={augment}", *grey]))), augment
    with torch.autograd.set_detect_anomaly(mode=True, check_nan=False):
        assert not can_be_captured(classifier, data)
    for holder in classifier.net, next(classifier.parameters()):  # somebody wants to be called at each step
        hook = (holder.register_forward_hook if holder is classifier.net else holder.register_hook)(lambda *_: None)
        assert not can_be_captured(classifier, data)
        hook.remove()
        assert can_be_captured(classifier, data)
    classifier.net = nn.Sequential(nn.Flatten(), Mine(784, 10))
    assert not can_be_captured(classifier, data)
    target = "augment._target_=torchvision.transforms.v2.RandomHorizontalFlip"  # the loader applies it, not the step
    theirs = build_data(compose_config([*DIGITS, "augment=flip", target, "~augment.prob"]))
    classifier = build_classifier(compose_config([*DIGITS, "model=mlp"]))
    assert can_be_captured(classifier, theirs)
    theirs.augment = Mine(28, 28)
    assert not can_be_captured(classifier, theirs)


def trained(tmp_path, overrides, *callbacks, accelerator="gpu"):
    cfg = compose_config([*DIGITS, *overrides])
    torch.manual_seed(1)
    classifier, data = build_classifier(cfg), build_data(cfg)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|lightning_utilities")
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
        trainer = Trainer(
        callbacks=[*callbacks], max_epochs=2, log_every_n_steps=10, accelerator=accelerator, devices=1,
        default_root_dir=tmp_path, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        precision="bf16-mixed" if accelerator == "gpu" else "32-true",
        gradient_clip_val=cfg.trainer.gradient_clip_val, deterministic="warn",
    )  # fmt: skip
        trainer.fit(classifier, datamodule=data)
    torch.use_deterministic_algorithms(mode=False)
    return classifier


class Asks(Callback):
    def __init__(self):
        self.answers, self.fixed = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.fixed.append(fixed_parts(pl_module, trainer.datamodule))

    def on_train_epoch_end(self, trainer, pl_module):
        self.answers.append(can_be_captured(pl_module, trainer.datamodule))
        self.fixed.append(fixed_parts(pl_module, trainer.datamodule))


@pytest.mark.parametrize(
    "overrides",
    [["model=mlp"], ["model=dropout_cnn", "augment=erasing"], ["model=cosine_resnet"], ["augment=mixup_cutmix"]],
)
def test_lightning_itself_hooks_in_nowhere_and_changes_no_part(tmp_path, overrides):
    asks = Asks()
    trained(tmp_path, overrides, LeanSteps(at_most_s=10.0), asks, accelerator="cpu")
    assert asks.answers == [True, True]
    assert asks.fixed == asks.fixed[:1] * 4


class Changes(Callback):
    """Changes between two epochs what a step consists of."""

    def __init__(self, how):
        self.how = how

    def on_train_start(self, _, pl_module):
        pl_module.net.features.requires_grad_(self.how is not unfreeze)

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.how(pl_module, trainer.datamodule)


def unfreeze(classifier, _):
    classifier.net.requires_grad_()


def no_smoothing(classifier, _):
    classifier.loss.label_smoothing = 0.0


def no_augmentation(_, data):
    data.augment = nn.Identity()


def elsewhere(classifier, _):
    weight = next(classifier.net.parameters())
    weight.data = weight.data * 0.5


CHANGES = [unfreeze, no_smoothing, no_augmentation, elsewhere]


@pytest.mark.parametrize("how", CHANGES)
def test_a_part_that_somebody_changes_is_noticed(how):
    cfg = compose_config([*DIGITS, "model=lenet", "augment=flip", "loss.label_smoothing=0.1"])
    classifier, data = build_classifier(cfg), build_data(cfg)
    classifier.net.features.requires_grad_(how is not unfreeze)
    before = fixed_parts(classifier, data)
    assert fixed_parts(classifier, data) == before
    how(classifier, data)
    assert fixed_parts(classifier, data) != before


@pytest.fixture
def replays(monkeypatch):
    counted, replay = [], StepGraph.__call__
    monkeypatch.setattr(StepGraph, "__call__", lambda graph, batch: counted.append(True) or replay(graph, batch))
    return counted


@pytest.mark.gpu
@pytest.mark.parametrize(
    "overrides",
    [
        ["model=dropout_cnn", "augment=erasing", "trainer.gradient_clip_val=0.5"],
        ["model=resnet20", "augment=crop_flip", "optim=sgd"],
        ["model=mlp", "augment=none", "schedule=step", "optim=rmsprop"],
        ["model=lenet", "augment=[erasing,mixup]"],
        ["model=lenet", "augment=affine", "+augment.mix={_target_: fmx.data.mix.CutMix, alpha: 1.0}"],
    ],
)
def test_replayed_steps_are_launched_ones_to_the_bit(tmp_path, replays, overrides):
    one = trained(tmp_path, overrides, LeanSteps(at_most_s=10.0))
    assert len(replays) > 20
    replays.clear()
    other = trained(tmp_path, overrides)
    assert not replays
    for (name, ours), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert ours.equal(theirs), name


@pytest.mark.gpu
@pytest.mark.parametrize("how", CHANGES)
def test_what_somebody_changes_is_captured_anew(tmp_path, replays, how):
    overrides = ["model=lenet", "augment=flip", "loss.label_smoothing=0.1"]
    one = trained(tmp_path, overrides, LeanSteps(at_most_s=10.0), Changes(how))
    assert len(replays) > 20
    other = trained(tmp_path, overrides, Changes(how))
    for (name, ours), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert ours.equal(theirs), name


WAITS = """
from torch import nn


class Waits(nn.Flatten):
    __module__ = "torch.made_up"  # or it would not be tried

    def forward(self, images):
        return super().forward(images) * (images.sum().item() > -1e9)  # a number of the GPU's at each step


def network(**_):
    return nn.Sequential(Waits(), nn.Linear(784, 10))
"""


@pytest.mark.gpu
def test_a_step_that_cannot_be_captured_is_a_plain_error(cold_command, tmp_path):
    (tmp_path / "waits.py").write_text(WAITS)
    arguments = ["data=digits", "model=mlp", "~model.net", "+model.net._target_=waits.network", "trainer.max_epochs=1"]
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    refused = cold_command(*arguments, "hydra.run.dir=run", cwd=tmp_path, env=env)
    assert refused.returncode == 1
    assert "cannot be captured as a CUDA graph" in refused.stderr
    done = cold_command(*arguments, "callbacks.lean_steps.at_most_s=0", "hydra.run.dir=other", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
