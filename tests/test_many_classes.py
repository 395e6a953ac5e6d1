"""A thousand classes are scored in the memory of ten, but for their logits, and the figures are right."""

import json
import os

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassPrecision

from fmx.reporting.figures.confusion import confusion_matrix
from fmx.training.counts import update

IMAGES = """
import torch

from fmx.data.arrays import ImageArrays


def load(*, images, num_classes):
    labels = torch.arange(images) % num_classes
    pixels = torch.randint(256, (images, 1, 8, 8), generator=torch.Generator().manual_seed(images))
    return ImageArrays(images=pixels.to(torch.uint8), labels=labels)
"""
DATA = """
defaults: [/_loader@_here_, _self_]
name: many
num_classes: 1000
class_names: ${numbers:${data.num_classes}}
translations: {}
in_channels: 1
image_size: 8
mean: [0.5]
std: [0.5]
validation: 300
split: tail
"""
OWN = {  # the first batch of the validation has no image of class 280
    "precision": MulticlassPrecision(num_classes=1000, ignore_index=280),
    "top_5": MulticlassAccuracy(num_classes=1000, top_k=5),
}


def run(command, cwd, num_classes, *overrides):
    """A run that is tested on 3,000 images, of which none is of a class from 900 on."""
    (cwd / "many.py").write_text(IMAGES)
    (cwd / "conf/data").mkdir(parents=True, exist_ok=True)
    names = [f"class {number}" for number in range(num_classes)]
    parts = {"train": (3300, num_classes), "test": (3000, num_classes * 9 // 10)}
    text = DATA.replace("${numbers:${data.num_classes}}", json.dumps(names)).replace("1000", str(num_classes))
    text += "".join(
        f"{part}: {{_target_: many.load, images: {images}, num_classes: {labels}}}\n"
        for part, (images, labels) in parts.items()
    )
    (cwd / f"conf/data/many{num_classes}.yaml").write_text(text)
    env = {"PYTHONPATH": f"{cwd}:{os.environ.get('PYTHONPATH', '')}"}
    options = [f"data=many{num_classes}", "model=mlp", "augment=none", "trainer.max_epochs=1", *overrides]
    done = command("--config-dir=conf", *options, f"hydra.run.dir=run{num_classes}", cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / f"run{num_classes}", env


def test_a_thousand_classes(command, tmp_path):
    ten, _ = run(command, tmp_path, 10)
    own = {"precision": "ignore_index: 280", "top_5": "top_k: 5"}
    nodes = [f"+metrics.{name}={{_target_: torchmetrics.classification.{type(OWN[name]).__name__}, num_classes: 1000, "
             f"{option}}}" for name, option in own.items()]  # fmt: skip
    thousand, env = run(command, tmp_path, 1000, *nodes)
    peaks = [json.loads((each / "run.json").read_text())["peak_memory_mb"] for each in (ten, thousand)]
    assert peaks[1] - peaks[0] < 10 * 3000 * 1000 * 4 / 2**20  # MiB: ten times the logits

    stored = np.load(thousand / "predictions.npz")
    labels, said = stored["labels"], stored["logits"].argmax(1)
    figures = json.loads((thousand / "metrics.json").read_text())["test"]
    assert figures["accuracy"] == pytest.approx(np.mean(labels == said))
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, said, average="macro", zero_division=0.0), abs=1e-6)
    assert [figures["per_class"][f"class {k}"] for k in range(900)] == pytest.approx(
        [np.mean(said[labels == k] == k) for k in range(900)]
    )
    assert all(figures["per_class"][f"class {k}"] is None for k in range(900, 1000))
    for name, metric in OWN.items():
        expected = metric(torch.from_numpy(stored["logits"]), torch.from_numpy(labels))
        assert figures[name] == pytest.approx(float(expected), abs=1e-7), name
    report = (thousand / "report.txt").read_text()
    assert all(f"class {k} " in report for k in range(900))
    scored = command(str(thousand), "--allow", "many", module="evaluate", cwd=tmp_path, env=env)
    assert "identical to metrics.json" in scored.stdout, scored.stdout + scored.stderr


@pytest.mark.parametrize("deterministic", [False, True])
def test_counts_are_those_of_torchmetrics(deterministic):
    """Of the same metrics by themselves, whose own way for so few classes takes little."""
    options = {"num_classes": 7}
    metrics = MetricCollection(
        {
            "none": MulticlassAccuracy(average="none", **options),
            "micro": MulticlassAccuracy(average="micro", **options),
            "weighted": MulticlassPrecision(average="weighted", **options),
            "ignored": MulticlassPrecision(average="none", ignore_index=2, **options),
            "top": MulticlassAccuracy(average="none", top_k=3, **options),
            "matrix": MulticlassConfusionMatrix(**options),
        },
        compute_groups=False,
    )
    alone = {name: metric.clone() for name, metric in metrics.items()}
    generator = torch.Generator().manual_seed(0)
    torch.use_deterministic_algorithms(deterministic)
    try:
        for images in (1, 50, 33):
            logits, labels = (
                torch.randn(images, 7, generator=generator),
                torch.randint(5, (images,), generator=generator),
            )
            update(metrics, logits, labels)
            for metric in alone.values():
                metric.update(logits, labels)
        for name, value in metrics.compute().items():
            torch.testing.assert_close(value, alone[name].compute(), rtol=0, atol=0, equal_nan=True)
    finally:
        torch.use_deterministic_algorithms(mode=False)


def test_the_confusion_matrix_of_many_classes_shows_those_that_are_confused():
    """Of 10,000 classes, whose whole matrix would take 800 MB and a hundred cells to a pixel."""
    labels = np.arange(20_000) % 10_000
    said = labels.copy()
    said[labels == 7] = 9_999
    said[labels == 1234] = 4321
    figure = confusion_matrix(labels, said, [f"n{k}" for k in range(10_000)])
    axes = next(axes for axes in figure.axes if axes.images)
    words = {text.get_text() for each in figure.axes for text in each.texts}
    assert {"n7", "n9999", "n1234", "n4321"} <= words
    assert any("the 100 of 10,000 classes that are confused most often" in word for word in words)
    shares = axes.images[0].get_array()
    assert shares.shape == (100, 100)
    assert shares.sum() == 100  # each shown class has its images shown
    assert np.trace(shares) == 98
