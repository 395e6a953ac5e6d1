"""Rare classes: drawn as often as others, or weighted in the loss, and counted where people look."""

import json
import os
import re

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from fmx.data.loader import EpochSampler
from fmx.data.sampling import image_weights
from fmx.errors import ConfigError
from fmx.reporting.html_report import html_report
from fmx.reporting.leaderboard import leaderboard
from fmx.training.losses import NLL, CrossEntropy
from run_directories import make_run
from same_runs import assert_same

pytestmark = pytest.mark.usefixtures("no_figures")

RARE = """
import os
import signal

from pytorch_lightning import Callback

from fmx.data.arrays import ImageArrays
from fmx.data.digits import load_digits


def rare(keep, **options):
    arrays = load_digits(**options)
    seen, kept = {}, []
    for at, label in enumerate(arrays.labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= keep.get(str(label), 10_000):
            kept.append(at)
    return ImageArrays(images=arrays.images[kept], labels=arrays.labels[kept])


class Recorder(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_fit_start(self, trainer, pl_module):
        if pl_module.loss.weight is not None:
            with open(f"{self.folder}/weights.txt", "w") as file:
                print(*pl_module.loss.weight.tolist(), file=file)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with open(f"{self.folder}/labels.txt", "a") as file:
            print(*batch[1].tolist(), file=file)
        if trainer.global_step == int(os.environ.get("STOP_AT", 0)):
            os.kill(os.getpid(), signal.SIGTERM)
"""
YAML = """
defaults: [digits, _self_]
name: rare
train:
  _target_: rare.rare
  keep: {"0": 10, "1": 30}
"""
FAST = ["data=rare", "model=mlp", "model.net.hidden_sizes=[16]", "logger=none", "trainer.max_epochs=2",
        "+callbacks.recorder={_target_: rare.Recorder, folder: '${run_dir}'}"]  # fmt: skip


@pytest.fixture
def rare(command, tmp_path):
    """Runs of digits of which few are 0 or 1."""
    (tmp_path / "rare.py").write_text(RARE)
    (tmp_path / "conf/data").mkdir(parents=True)
    (tmp_path / "conf/data/rare.yaml").write_text(YAML)

    def run(*overrides, code=0, **environment):
        path = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
        done = command("--config-dir=conf", *FAST, *overrides, cwd=tmp_path, env=path | environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def labels_of(folder):
    return torch.tensor([int(text) for text in (folder / "labels.txt").read_text().split()])


def test_a_balanced_epoch_draws_each_class_equally_often_and_resumes_to_the_bit(rare, tmp_path):
    options = ["data.sampler=balanced", "loss.weight=balanced"]
    whole = rare(*options, "hydra.run.dir=whole")
    assert "images of a class: train 9 (0) to 124 (3) · val 1 (0) to 22 (3) · test 35 (2) to 37 (1)" in whole.stdout
    assert "data.sampler=balanced and loss.weight=balanced both make up for rare classes" in whole.stdout + whole.stderr
    counts = json.loads((tmp_path / "whole/run.json").read_text())["data"]["class_counts"]
    sizes = json.loads((tmp_path / "whole/run.json").read_text())["data"]["sizes"]
    assert {part: sum(numbers) for part, numbers in counts.items()} == sizes
    assert counts["train"][0] + counts["val"][0] == 10
    labels = labels_of(tmp_path / "whole")
    assert len(labels) == 2 * sizes["train"]
    shares = torch.bincount(labels, minlength=10) / len(labels)
    assert (shares - 0.1).abs().max() < 4 * (0.1 * 0.9 / len(labels)) ** 0.5  # four standard errors
    weights = [float(text) for text in (tmp_path / "whole/weights.txt").read_text().split()]
    by_hand = [sizes["train"] / (10 * number) for number in counts["train"]]
    assert weights == pytest.approx(by_hand, rel=1e-6)
    everyone = [label for label, number in enumerate(counts["train"]) for _ in range(number)]
    assert weights == pytest.approx(list(compute_class_weight("balanced", classes=np.arange(10), y=everyone)), rel=1e-6)

    steps = -(-sizes["train"] // 64)
    stopped = rare(*options, "resume=auto", "hydra.run.dir=cut", code=143, STOP_AT=str(steps + 5))
    assert "interrupted" in stopped.stdout + stopped.stderr
    assert len(labels_of(tmp_path / "cut")) == sizes["train"] + 5 * 64
    rare(*options, "resume=auto", "hydra.run.dir=cut")
    assert labels_of(tmp_path / "cut").equal(labels)
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_weights_by_hand_are_those_of_single_images(rare, tmp_path):
    rare("data.sampler=[0,1,1,1,1,1,1,1,1,0]", "trainer.max_epochs=1", "hydra.run.dir=run")
    drawn = torch.bincount(labels_of(tmp_path / "run"), minlength=10).tolist()
    assert drawn[0] == drawn[9] == 0
    assert 5 < drawn[1] < 60, "a class of 26 images is drawn as often as it has images"
    assert not (tmp_path / "run/weights.txt").exists()
    refused = rare("data.sampler=balanced", "data.shuffle=false", code=2)
    assert "data.shuffle=false does not go with data.sampler=balanced" in refused.stderr
    (tmp_path / "conf/data/rare.yaml").write_text(YAML.replace('"0": 10', '"0": 0'))
    nothing = rare("data.sampler=[1,0,0,0,0,0,0,0,0,0]", "hydra.run.dir=none", code=2)
    assert "data.sampler is 0 for every class that has training images" in nothing.stderr
    done = rare("data.sampler=balanced", "loss.weight=balanced", "trainer=smoke", "hydra.run.dir=empty")
    assert "there are no training images of '0'" in done.stdout + done.stderr
    assert (tmp_path / "empty/weights.txt").read_text().startswith("0.0 ")


def test_ranks_draw_disjoint_parts_of_the_same_epoch():
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    weights = image_weights("balanced", labels, ["a", "b", "c"])
    assert weights.sum() == pytest.approx(3)

    def sampler(rank, world_size):
        return EpochSampler(torch.arange(1000, 1100), shuffle=True, seed=3, rank=rank, world_size=world_size,
                            equal_shares=True, weights=weights)  # fmt: skip

    whole = sampler(0, 1).indices()
    parts = [sampler(rank, 4) for rank in range(4)]
    assert all(len(part) == len(part.indices()) == 25 for part in parts)
    assert torch.stack([part.indices() for part in parts], dim=1).flatten().equal(whole)
    assert not sampler(0, 1).indices(later=1).equal(whole)
    counts = torch.stack([torch.bincount(labels[sampler(0, 1).indices(n) - 1000], minlength=3) for n in range(200)])
    assert counts.sum(0).double() / counts.sum() == pytest.approx(torch.full((3,), 1 / 3).numpy(), abs=0.015)
    with pytest.raises(ConfigError, match="one weight of at least 0 for each of the 3 classes"):
        image_weights([1.0, float("nan"), 1.0], labels, ["a", "b", "c"])


@pytest.mark.parametrize("make", [lambda w: CrossEntropy(weight=w, label_smoothing=0.0), lambda w: NLL(weight=w)])
def test_balanced_losses_are_those_of_the_weights_by_hand(make):
    logits, labels = torch.randn(8, 3), torch.tensor([0, 0, 0, 0, 1, 1, 2, 0])
    balanced = make("balanced")
    with pytest.raises(ValueError, match="call use_class_counts"):
        balanced(logits, labels)
    plain = balanced.eval()(logits, labels)
    assert plain == make(None).eval()(logits, labels)
    balanced.train().use_class_counts(torch.tensor([5, 2, 1]))
    by_hand = make([8 / (3 * 5), 8 / (3 * 2), 8 / 3])
    assert balanced(logits, labels) == pytest.approx(by_hand(logits, labels))
    listed = make([1.0, 2.0, 3.0])
    listed.use_class_counts(torch.tensor([5, 2, 1]))
    assert listed.weight.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="weight must be a number for each class, balanced or null"):
        make("even")


def test_the_report_counts_the_classes(tmp_path):
    counts = {"train": [50, 15, 5], "val": [10, 7, 3], "test": [10, 10, 1234]}
    run = make_run(tmp_path / "run", data={"name": "pets", "fingerprint": "f", "class_counts": counts})
    page = html_report(leaderboard([run]))
    (table,) = re.findall("<summary>Images of each class</summary>(.*?)</details>", page, re.DOTALL)
    assert re.sub(r"<[^>]*>|\s+", " ", table).split()[-4:] == ["owl", "5", "3", "1,234"]
    for strange in ({"train": 3}, {"train": [1], "val": [1], "test": [1]}, [["<b>"]], {**counts, "val": ["<b>"] * 3}):
        run = make_run(tmp_path / "strange", data={"name": "pets", "fingerprint": "f", "class_counts": strange})
        assert "Images of each class" not in html_report(leaderboard([run]))


def test_fmx_data_counts_the_classes_of_each_part(command, tmp_path):
    shown = command("digits", module="data", cwd=tmp_path)
    assert re.search(r"label +class +training +held out +test\n0 +0 +142 +21 +36\n", shown.stdout), shown.stdout
    assert "held out 216, of the training images" in shown.stdout
    shown = command("digits", "data.folds=3", module="data", cwd=tmp_path)
    assert re.search(r"training +fold 0 +fold 1 +fold 2 +test\n0 +0 +142 +48 +47 +47 +36\n", shown.stdout)
    shown = command("digits", "data.folds=200", module="data", cwd=tmp_path)
    assert "a run would be refused: data.folds=200 is more than the training images of class '8'" in shown.stdout
