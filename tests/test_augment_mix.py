"""MixUp and CutMix: pixels and labels share alike, losses take shares; runs resume and are reproduced to the bit."""

import json
import os
import random
import re
import signal
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fmx.config.conf_dir import CONF_DIR
from fmx.config.trust import check_trusted
from fmx.data.mix import CutMix, MixUp, MixUpOrCutMix
from fmx.data.seeded_dataset import kept_states, seed_generators
from fmx.errors import DataError
from fmx.runs.composition import compose_config
from fmx.training.build import build_data
from fmx.training.losses import NLL, CrossEntropy
from same_runs import assert_same

CLASSES = 10
MIXTURES = {
    "mixup": MixUp(alpha=0.4),
    "cutmix": CutMix(alpha=1.0),
    "both": MixUpOrCutMix(mixup_alpha=0.4, cutmix_alpha=1.0, mixup_prob=0.5),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_pixels_and_labels_are_shared_alike(name):
    """Each image has the value of its class: a pixel shows whose it is, and the mean what the label should be."""
    torch.manual_seed(0)
    labels = torch.arange(400) % CLASSES
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 12, 16)
    mixed, shares = MIXTURES[name](images, labels, CLASSES)
    assert mixed.shape == images.shape
    assert shares.shape == (400, CLASSES)
    torch.testing.assert_close(shares.sum(1), torch.ones(400))
    torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ torch.arange(CLASSES).float())
    partners = labels.roll(1)
    assert not shares[(shares > 0) & ~torch.eye(CLASSES)[labels].bool() & ~torch.eye(CLASSES)[partners].bool()].numel()
    own = shares[torch.arange(400), labels]
    assert len(own.unique()) > 40, "each image has a share of its own"
    values = mixed[:, 0].flatten(1)
    is_cut = ((values == labels[:, None]) | (values == partners[:, None])).all(1)
    assert is_cut.all() if name == "cutmix" else 100 < is_cut.sum() < 300 if name == "both" else is_cut.sum() < 40
    for image, partner in zip(mixed[is_cut][:, 0], partners[is_cut], strict=True):
        inside = image == partner
        assert torch.equal(inside, inside.any(1)[:, None] & inside.any(0)[None]), "a rectangle"


def test_weights_are_those_of_the_papers():
    torch.manual_seed(0)
    images, labels = torch.zeros(4000, 1, 20, 20), torch.arange(4000) % 2
    _, shares = MixUp(alpha=0.3)(images, labels, 2)
    own = shares[torch.arange(4000), labels]
    assert stats.kstest(own.numpy(), stats.beta(0.3, 0.3).cdf).pvalue > 0.01
    images = torch.arange(4000).remainder(2).float().view(-1, 1, 1, 1).expand(-1, 1, 200, 200)
    mixed, _ = CutMix(alpha=1.0)(images, labels, 2)
    inside = mixed[:, 0] != images[:, 0]
    heights, widths = inside.any(2).sum(1), inside.any(1).sum(1)
    middle = inside[:, 100, 0] | inside[:, 0, 100]  # cut off at an edge
    whole = ~(inside[:, 0].any(1) | inside[:, -1].any(1) | inside[:, :, 0].any(1) | inside[:, :, -1].any(1) | middle)
    assert whole.sum() > 500
    assert (heights[whole] - widths[whole]).abs().max() <= 1, "the rectangle has the image's shape"


@pytest.mark.parametrize("wrong", [lambda: MixUp(alpha=0), lambda: CutMix(alpha=-1), lambda: MixUp(alpha=float("nan"))])
def test_impossible_weights_are_refused(wrong):
    with pytest.raises(ValueError, match="alpha must be above 0"):
        wrong()
    with pytest.raises(ValueError, match="mixup_prob must be from 0 to 1"):
        MixUpOrCutMix(mixup_alpha=1, cutmix_alpha=1, mixup_prob=2)


WEIGHTS = [None, [1.0, 2.0, 4.0], [1.0, 0.0, 4.0]]


@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_losses_take_shares_of_classes(weight):
    torch.manual_seed(0)
    logits, labels, partners = torch.randn(8, 3), torch.arange(8) % 3, torch.arange(8).roll(1) % 3
    one_hot = torch.eye(3)[labels]
    shares = 0.7 * one_hot + 0.3 * torch.eye(3)[partners]
    for loss in (NLL(weight=weight), *(CrossEntropy(weight=weight, label_smoothing=s) for s in (0.0, 0.2))):
        torch.testing.assert_close(loss.train()(logits, one_hot), loss(logits, labels))
        parts = [0.7 * loss(logits[[i]], labels[[i]]) * wanted(weight, labels[i]) for i in range(8)]
        parts += [0.3 * loss(logits[[i]], partners[[i]]) * wanted(weight, partners[i]) for i in range(8)]
        total = sum(0.7 * wanted(weight, labels[i]) + 0.3 * wanted(weight, partners[i]) for i in range(8))
        if weight is None or 0 not in weight:  # for a class of weight 0 alone a smoothed loss is 0 by definition
            torch.testing.assert_close(loss(logits, shares), sum(parts) / total)
        torch.testing.assert_close(loss.eval()(logits, one_hot), loss(logits, labels))
    nothing = torch.tensor([[0.0, 1.0, 0.0]])
    assert float(CrossEntropy(weight=[1.0, 0.0, 1.0], label_smoothing=0.0)(logits[:1], nothing)) == 0
    assert float(NLL(weight=[1.0, 0.0, 1.0])(logits[:1], nothing)) == 0


def wanted(weight, label):
    return 1.0 if weight is None else weight[int(label)]


STOP = """
import os
from pathlib import Path

from pytorch_lightning import Callback


class Stop(Callback):
    def __init__(self, step, signum):
        self.step, self.signum = step, signum

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step and Path("cut").exists() and not Path("sent").exists():
            Path("sent").touch()
            os.kill(os.getpid(), self.signum)
"""


@pytest.mark.parametrize(
    "options",
    [
        ["augment=[affine,mixup]", "loss.label_smoothing=0.1"],
        ["augment=[randaugment,mixup_cutmix]", "loss=nll", "data.num_workers=1", "trainer.precision=bf16-mixed"],
    ],
    ids=lambda options: options[0],
)
def test_a_run_that_is_stopped_at_any_step_is_the_same_to_the_bit(command, tmp_path, options):
    (tmp_path / "stop.py").write_text(STOP)
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    step = random.SystemRandom().randrange(8, 18)
    stop = f"+callbacks.stop={{_target_: stop.Stop, step: {step}, signum: {int(signal.SIGTERM)}}}"
    run = ["data=digits", "model=mlp", "logger=none", "trainer.max_epochs=3", "trainer.limit_train_batches=7", *options]
    whole = command(*run, "hydra.run.dir=whole", cwd=tmp_path, env=env)  # by lean steps, which Stop needs none of
    assert whole.returncode == 0, whole.stdout + whole.stderr
    said = "mixes training images, so train/accuracy is of mixtures"
    assert whole.stdout.count(said) == 1, whole.stdout
    done = command(*run, stop, "hydra.run.dir=cut", cwd=tmp_path, env=env)
    assert done.returncode == 143, (step, done.stdout + done.stderr)
    done = command(*run, stop, "resume=cut", cwd=tmp_path, env=env)
    assert done.returncode == 0, (step, done.stdout + done.stderr)
    assert 7 < int(re.search(r"resuming after step (\d+)", done.stdout)[1]) < 21
    assert_same(tmp_path / "cut", tmp_path / "whole")
    reproduced(command, tmp_path / "whole", cwd=tmp_path, env=env)


def reproduced(command, run, **where):
    done = command(str(run), "--dir", "again", module="reproduce", **where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical: " in done.stdout


def test_every_member_runs(command, tmp_path):
    members = {file.stem for file in (CONF_DIR / "augment").glob("*.yaml")} - {"color"}  # digits have no colours
    assert {"affine", "randaugment", "trivial", "mixup", "cutmix", "mixup_cutmix"} < members
    chosen = ",".join([*sorted(members), "[trivial,cutmix]"])
    options = ["data=digits", "model=mlp", "trainer=smoke", "logger=none", "hydra.sweep.dir=sweep"]
    done = command("-m", *options, f"augment={chosen}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    records = {file.parent: json.loads(file.read_text()) for file in (tmp_path / "sweep").glob("*/run.json")}
    assert {record["status"] for record in records.values()} == {"completed"}
    overrides = {text: run for run, record in records.items() for text in record["overrides"] if "augment=" in text}
    assert {*overrides} == {f"augment={member}" for member in [*members, "[trivial,cutmix]"]}
    drawn = {text for text, run in overrides.items() if (run / "figures/augmented.png").is_file()}
    assert drawn == {*overrides} - {"augment=none"}
    assert "[trivial,cutmix]" in (tmp_path / "sweep/leaderboard.csv").read_text()
    reproduced(command, overrides["augment=[trivial,cutmix]"], cwd=tmp_path)


def test_colours_of_a_folder_of_pictures(command, tmp_path):
    for part in ("train", "test"):
        for name in ("red", "blue"):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            for number in range(6):
                colour = (200, 40, 10 * number) if name == "red" else (10 * number, 40, 200)
                Image.new("RGB", (20, 20), colour).save(tmp_path / "pictures" / part / name / f"{number}.png")
    options = ["data=image_folder", "data.root=pictures", "data.image_size=16", "model=mlp", "trainer=smoke"]
    done = command(*options, "augment=color", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    events = EventAccumulator(str(tmp_path / "run/tensorboard"), size_guidance={"images": 0})
    assert "augmented" in events.Reload().Tags()["images"]
    assert "augment: ColorJitter, applied to each image by itself in 2 worker processes" in done.stdout
    reproduced(command, "run", cwd=tmp_path)


@pytest.mark.parametrize("augment", ["augment=[randaugment,mixup_cutmix]", "augment=trivial", "augment=erasing"])
def test_the_figure_shows_what_the_training_gets(augment):
    """The same code makes both, from the images with which the training begins; and nothing is drawn by it."""
    data = build_data(compose_config(["data=digits", augment, "data.batch_size=32"]))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    images, labels = data.augmented_samples(32)
    assert torch.equal(before, torch.get_rng_state())
    assert images.dtype == torch.uint8
    data.trainer = SimpleNamespace(
        training=True, global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )  # fmt: skip
    batch = next(iter(data.train_dataloader()))
    with kept_states():
        seed_generators([data.seed])
        trained, wanted = data.on_after_batch_transfer(batch, 0)
    torch.testing.assert_close(data.normalize(images), trained, rtol=0, atol=0.51 * float(data.normalize.scale.max()))
    assert torch.equal(labels, wanted)
    assert labels.dim() == 1 + ("mix" in augment)


def test_several_processes_mix_too(command, tmp_path):
    options = ["data=digits", "model=mlp", "logger=none", "trainer=ddp", "trainer.accelerator=cpu"]
    options += ["augment=[randaugment,mixup_cutmix]", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    done = command(*options, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("mixes training images") == 1
    assert done.stdout.count("RandAugment, applied to each image by itself in this process") == 1
    assert (tmp_path / "run/figures/augmented.png").is_file()


REFUSED = {
    "augment=color": "images with data.in_channels=1 have no colour",
    "augment=[crop_flip,randaugment]": "the last would replace the others; a YAML file of your own",
    "augment=[mixup,cutmix]": "augment=mixup_cutmix takes either at random",
    "augment=mixup augment.mix.alpha=0": "augment.mix: alpha must be above 0, got 0",
    "augment=mixup augment.mix=3": "augment.mix must be a mapping with a _target_",
    "augment=mixup +augment.mix.K=3": "takes no 'K'",
    "augment=flip ~augment._target_": "augment.prob: augment needs a _target_ that takes it",
    "augment=none ~augment._target_": "augment=none augments nothing",
    "augment=cutmix loss=nll loss._target_=torch.nn.NLLLoss": "the loss NLLLoss does not take them",
    "augment=mixup ~loss +loss._target_=torch.nn.MultiMarginLoss": "loss=cross_entropy or loss=nll, or choose",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_does_not_go_together_is_refused_before_training(command, tmp_path, arguments):
    done = command("data=digits", "model=mlp", *arguments.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert REFUSED[arguments] in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "no run directory"


def test_a_foreign_run_may_mix_by_ours_alone(tmp_path):
    ours = {"augment": {"mix": {"_target_": "fmx.data.mix.CutMix", "alpha": 1.0}}}
    check_trusted(ours, tmp_path)
    for target in ("torch.nn.Linear", "fmx.data.augment.RandomCrop", "os.system", "fmx.data.mix.torch.hub.load"):
        with pytest.raises(DataError, match=r"augment\.mix"):
            check_trusted({"augment": {"mix": {"_target_": target}}}, tmp_path)
