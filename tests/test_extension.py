"""A model, a data set, an optimizer, a metric and a callback of the user's own, with no file of fmx touched."""

import json
import os
from pathlib import Path

from omegaconf import OmegaConf

from fmx.inference.export.signature import signature_of

CODE = '''
import torch
from pytorch_lightning import Callback
from torchmetrics import Metric
from fmx.data.arrays import ImageArrays


class Tiny(torch.nn.Module):
    def __init__(self, *, in_channels, num_classes, image_size, width):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(in_channels * image_size**2, width), torch.nn.Linear(width, num_classes)
        )

    def forward(self, images):
        return self.net(images)


def stripes(*, num_images, seed):
    """Bright rows or bright columns."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 40, (num_images, 1, 12, 12), dtype=torch.uint8, generator=generator)
    labels = torch.arange(num_images) % 2
    images[labels == 0, :, ::2] += 200
    images[labels == 1, :, :, ::2] += 200
    return ImageArrays(images=images, labels=labels)


class HalfStep(torch.optim.SGD):
    def step(self, closure=None):
        return super().step(closure)


class Hits(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits, labels):
        self.hits += (logits.argmax(1) == labels).sum()

    def compute(self):
        return self.hits.float()


class Shout(Callback):
    def __init__(self, word):
        self.word = word

    def on_fit_end(self, trainer, pl_module):
        print(self.word.upper())
'''
YAML = {
    "model/tiny.yaml": """
name: tiny
net:
  _target_: mine.Tiny
  in_channels: ${data.in_channels}
  num_classes: ${data.num_classes}
  image_size: ${data.image_size}
  width: 16
""",
    "data/stripes.yaml": """
defaults: [/_loader@_here_, _self_]
name: stripes
num_classes: 2
in_channels: 1
image_size: 12
mean: [0.5]
std: [0.5]
class_names: [rows, columns]
translations: {}
validation: 0.2
batch_size: 16
train: {_target_: mine.stripes, num_images: 200, seed: 1}
test: {_target_: mine.stripes, num_images: 100, seed: 2}
""",
    "optim/half.yaml": "_target_: mine.HalfStep\n_partial_: true\nlr: 0.01\n",
    "metrics/hits.yaml": "defaults: [default]\nhits: {_target_: mine.Hits}\n",
    "callbacks/shout.yaml": "shout: {_target_: mine.Shout, word: hello}\n",
}
OVERRIDES = [
    "--config-dir", "my", "model=tiny", "data=stripes", "optim=half", "metrics=hits", "callbacks=[default,shout]",
    "schedule=constant", "augment=none", "trainer.max_epochs=3", "hydra.run.dir=run",
]  # fmt: skip


def write_parts(folder: Path) -> None:
    for name, text in YAML.items():
        path = folder / "my" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "code").mkdir()
    (folder / "code" / "mine.py").write_text(CODE)


def test_parts_from_outside_the_repository_run(command, tmp_path):
    write_parts(tmp_path)
    done = command(*OVERRIDES, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "code")})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HELLO" in done.stdout
    test = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert test["accuracy"] > 0.9
    assert test["hits"] == round(100 * test["accuracy"])
    assert list(test["per_class"]) == ["rows", "columns"]
    header = (tmp_path / "run" / "history.csv").read_text().splitlines()[0]
    assert header.endswith("seconds,val/hits")


def test_a_dataset_that_is_not_held_in_memory_runs(command, tmp_path):
    path = tmp_path / "my" / "data" / "fake.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(YAML["data/stripes.yaml"].replace("mine.stripes, num_images: 200, seed: 1", "own.Fake, size: 60")
                    .replace("mine.stripes, num_images: 100, seed: 2", "own.Fake, size: 20")
                    .replace("name: stripes", "name: fake"))  # fmt: skip
    (tmp_path / "own.py").write_text("""
import torch
from torch.utils.data import Dataset

class Fake(Dataset):
    def __init__(self, size):
        self.labels = torch.arange(size) % 2
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, index):
        label = int(self.labels[index])
        return torch.full((1, 12, 12), 250 * label, dtype=torch.uint8), label
""")
    done = command(
        "--config-dir", "my", "data=fake", "model=mlp", "trainer.max_epochs=2", "hydra.run.dir=run",
        "data.num_workers=1",
        cwd=tmp_path, env={"PYTHONPATH": os.fspath(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["accuracy"] == 1.0


def test_a_network_that_ends_in_softmax_is_told_so(command, tmp_path):
    (tmp_path / "mine.py").write_text("""
from torch import nn

def tiny(ends, width):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), *([nn.Softmax(dim=1)] if ends else []))
""")
    (tmp_path / "my/model").mkdir(parents=True)
    (tmp_path / "my/model/soft.yaml").write_text("name: soft\nnet: {_target_: mine.tiny, ends: true, width: 10}\n")
    for ends in ("true", "false"):
        done = command(
            "--config-dir", "my", "data=digits", "model=soft", "trainer=smoke", f"model.net.ends={ends}",
            cwd=tmp_path, env={"PYTHONPATH": os.fspath(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert (done.stdout + done.stderr).count("leave out the Softmax") == (1 if ends == "true" else 0)


def test_a_torchvision_data_set_runs_by_yaml_alone(command, tmp_path):
    fake = (
        "{_target_: fmx.data.in_memory.in_memory, in_channels: 1, image_size: 12, dataset: {_target_: "
        "torchvision.datasets.FakeData, size: 40, image_size: [3, 20, 16], num_classes: 2, random_offset: SEED}}"
    )
    path = tmp_path / "my" / "data" / "noise.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        YAML["data/stripes.yaml"]
        .replace("name: stripes", "name: noise")
        .replace("translations: {}", "translations: {en: [one, two, three]}")  # of a set that this one starts from
        .replace("{_target_: mine.stripes, num_images: 200, seed: 1}", fake.replace("SEED", "0"))
        .replace("{_target_: mine.stripes, num_images: 100, seed: 2}", fake.replace("SEED", "99"))
    )
    done = command("--config-dir", "my", "data=noise", "model=mlp", "trainer=smoke", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["sizes"]["test"] == 40
    exported = command("run", "--format", "torchscript", "--allow", "torchvision", module="export", cwd=tmp_path)
    assert exported.returncode == 0, exported.stdout + exported.stderr
    config = OmegaConf.load(tmp_path / "run" / ".hydra" / "config.yaml")
    assert signature_of(config, normalize="inside", record={}).fit == "stretch"
