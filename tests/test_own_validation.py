"""Validation images of their own, and validation images that are held out of training images without a transform."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmx.data.digits import load_digits
from fmx.inference.opened_run import open_run

CODE = """
import numpy as np
import torch
from torch.utils.data import Dataset
from fmx.data.arrays import ImageArrays
from fmx.data.digits import load_digits


def part(name, first=0, lacks=None):
    if name == "test":
        return load_digits(part="test", num_test=360, test_seed=0, image_size=8)
    arrays = load_digits(part="train", num_test=360, test_seed=0, image_size=8)
    chosen = slice(1200, None) if name == "val" else slice(first, 1200)
    images, labels = arrays.images[chosen], arrays.labels[chosen]
    return ImageArrays(images[labels != lacks], labels[labels != lacks]) if lacks is not None else (images, labels)


class Noise:
    def __call__(self, image):
        return torch.rand_like(image / 255).mul(255).byte() if torch.rand(()) < 0.8 else image


class Pictures(Dataset):
    def __init__(self, name, transform=None):
        arrays = part(name)
        self.images, self.labels = arrays if isinstance(arrays, tuple) else (arrays.images, arrays.labels)
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), self.labels[index]


class Alone(Pictures):
    "Without anything that says how held-out images are read."

    def __init__(self, name):
        super().__init__(name, Noise() if name == "train" else None)
        self.change = self.__dict__.pop("transform")

    def __getitem__(self, index):
        return self.images[index] if self.change is None else self.change(self.images[index]), self.labels[index]


class Knowing(Alone):
    def held_out(self):
        view = Knowing("train")
        view.change = None
        return view
"""
YAML = """
defaults: [/_loader@_here_, _self_]
name: own
num_classes: 10
in_channels: 1
image_size: 8
mean: [0.3]
std: [0.35]
class_names: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
translations: {}
validation: 0.15
batch_size: 64
train: {_target_: mydata.part, name: train}
val: {_target_: mydata.part, name: val, lacks: 7}
test: {_target_: mydata.part, name: test}
"""
QUICK = ["model=mlp", "optim.lr=0.01", "trainer.max_epochs=2", "logger=none", "augment=none"]


@pytest.fixture(scope="module")
def own(command, tmp_path_factory):
    """A function that runs fmx on the data of mydata.py and returns what it said, and the folder of both."""
    folder: Path = tmp_path_factory.mktemp("own")
    (folder / "conf/data").mkdir(parents=True)
    (folder / "conf/data/own.yaml").write_text(YAML)
    (folder / "mydata.py").write_text(CODE)
    environment = {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}

    def run(*arguments: str, module: str = "run", code: int = 0) -> str:
        start = ["--config-dir=conf", "data=own", *QUICK] if module == "run" else []
        done = command(*start, *arguments, module=module, cwd=folder, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run, folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_source_of_validation_images_is_used_everywhere(own):
    run, folder = own
    said = run("hydra.run.dir=run")
    assert "data.val holds the validation images: data.validation is not used" in said
    assert "there are no validation images of '7'" in said
    record, metrics = read(folder / "run/run.json"), read(folder / "run/metrics.json")
    labels = load_digits(part="train", num_test=360, test_seed=0, image_size=8).labels[1200:]
    assert record["data"]["sizes"] == {"train": 1200, "val": int((labels != 7).sum()), "test": 360}
    assert metrics["val"]["accuracy"] > 0.5
    assert metrics["val"]["per_class"]["7"] is None
    assert (metrics["selected_on"], metrics["validation"]) == ("val", "data.val")
    assert "identical to metrics.json" in run("run", "--allow=mydata", module="evaluate")
    assert "the target 'mydata.part' in data.val" in run("run", module="evaluate", code=1)
    assert "validation" in run("own", "--config-dir=conf", module="data")
    assert len(open_run(folder / "run", allow="mydata").predictions.labels) == 360
    changed = run("run", "--allow=mydata", "--set", "data.val.lacks=3", module="evaluate")
    assert "other images are held out" in changed
    assert "identical: history" in run("run", "--allow=mydata", module="reproduce")


def test_what_a_source_of_validation_images_replaces_is_refused(own):
    run, _ = own
    for key in ("data.validation=0.2", "data.split=tail", "data.split_seed=3", "data.folds=5 data.fold=0"):
        said = run(*key.split(), code=2)
        assert f"{key.split()[0]} would be without effect: data.val holds the validation images" in said
    assert "data.val must be null, or a source" in run("data.val=0.2", code=2)
    held_out = run("data.val=null", "data.validation=0.25", "hydra.run.dir=held_out")
    assert "300 val" in held_out


def test_held_out_images_are_read_without_the_training_transform(own):
    run, folder = own
    classes = ["data.val=null", "data.train._target_=mydata.Pictures", "data.test._target_=mydata.Pictures"]
    said = run(*classes, "+data.train.transform={_target_: mydata.Noise}", "trainer.max_epochs=4", "hydra.run.dir=view")
    assert "validation images are read with the transform of data.test" in said
    assert "at random" not in said
    metrics = read(folder / "view/metrics.json")
    assert abs(metrics["val"]["accuracy"] - metrics["test"]["accuracy"]) < 0.1
    assert "identical to metrics.json" in run("view", "--allow=mydata", module="evaluate")
    for name, warned in (("Alone", True), ("Knowing", False)):
        sources = [f"data.{part}._target_=mydata.{name}" for part in ("train", "test")]
        said = run("data.val=null", *sources, f"hydra.run.dir={name}")
        assert ("so the validation images that are held out of it" in said) == warned, said
        metrics = read(folder / name / "metrics.json")
        assert (metrics["val"]["accuracy"] < metrics["test"]["accuracy"] - 0.1) == warned


@pytest.mark.parametrize("name", ["val", "valid"])
def test_a_folder_of_validation_images_is_found(command, tmp_path, name):
    random = np.random.default_rng(0)
    for part, count in (("train", 12), (name, 4), ("test", 4)):
        for label in "abc" if part != name else "ab":
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{number}.png")
    run = ["data=image_folder", "data.root=data", "data.image_size=8", "data.num_workers=0", *QUICK]
    done = command(*run, "data.batch_size=8", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(tmp_path / "run/run.json")["data"]["sizes"] == {"train": 36, "val": 8, "test": 12}
    assert "there are no validation images of 'c'" in done.stdout
    refused = command(*run, "data.validation=0.5", cwd=tmp_path)
    assert refused.returncode == 2
    assert "or hold out training images instead: data.val=null" in refused.stderr
    (tmp_path / "data").rename(tmp_path / "moved")
    again = command("run", "data.root=moved", module="evaluate", cwd=tmp_path)
    assert "identical to metrics.json" in again.stdout, again.stdout + again.stderr
