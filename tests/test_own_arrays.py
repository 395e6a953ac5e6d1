"""Images and labels of a user's own, of every kind: taken for what they are, or refused by name before training."""

import csv
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from fmx.data.arrays import ImageArrays
from fmx.data.digits import load_digits
from fmx.data.in_memory import in_memory
from fmx.data.item_dataset import ItemDataset
from fmx.data.source import accept
from fmx.errors import ConfigError, DataError, FmxError
from fmx.inference.opened_run import open_run

NAMES = [f"no {number}" for number in range(10)]
SIZE = 8
DIGITS = load_digits(part="train", num_test=360, test_seed=0, image_size=SIZE)
X, Y = DIGITS.images.numpy(), DIGITS.labels.numpy()  # uint8 (1437, 1, 8, 8)


class Named(NamedTuple):
    images: Any
    labels: Any


class Items(Dataset):
    """A map-style dataset whose images and labels are made by two functions."""

    def __init__(self, image, label=int, labels=Y, items=X):
        self.image, self.label, self.labels, self.items = image, label, labels, items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.image(self.items[index]), self.label(Y[index])


def opened(train: Any, test: Any = None, *, value_range=None, shape=(1, SIZE, SIZE), names=NAMES):
    return accept(
        {"train": train, "test": train if test is None else test},
        shape=shape,
        class_names=names,
        value_range=value_range,
    )


def values(source: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels of an accepted source."""
    if isinstance(source, ImageArrays):
        return source.images, source.labels
    assert isinstance(source, ItemDataset)
    images, labels = zip(*source.__getitems__(range(len(source))), strict=True)
    return torch.stack(images), torch.tensor(labels)


ALIKE = {  # in each, the pixels and labels of DIGITS, to the bit
    "ImageArrays": DIGITS,
    "pair": (X, Y),
    "list": [X.tolist(), Y.tolist()],
    "lists of arrays": (list(X), list(Y)),
    "list of pairs": list(zip(X, Y, strict=True)),
    "lists of tensors": (list(DIGITS.images), list(DIGITS.labels)),
    "dict": {"images": X, "labels": Y},
    "dict with other keys": {"x": X, "y": Y},
    "namedtuple": Named(X, Y),
    "TensorDataset": TensorDataset(DIGITS.images, DIGITS.labels),
    "(N, H, W)": (X[:, 0], Y),
    "NHWC": (X.transpose(0, 2, 3, 1), Y),
    "rows of pixels": (X.reshape(len(X), -1), Y),
    "torch": (DIGITS.images, DIGITS.labels),
    "torch int64": (DIGITS.images.long(), DIGITS.labels.int()),
    "int32": (X.astype(np.int32), Y.astype(np.uint8)),
    "whole floats": (X.astype(np.float32), Y.astype(np.float64)),
    "whole bfloat16": (DIGITS.images.bfloat16(), DIGITS.labels),
    "other byte order": (X.astype(">i4"), Y.astype(">i2")),
    "read only": (np.frombuffer(X.tobytes(), np.uint8).reshape(X.shape), Y),
    "labels (N, 1)": (X, Y[:, None]),
    "one-hot": (X, np.eye(10)[Y]),
    "one-hot of bools": (X, torch.eye(10)[DIGITS.labels].bool()),
    "labels from 1": (X, Y + 1),
    "names": (X, [NAMES[label] for label in Y]),
    "NumPy names": (X, np.array(NAMES)[Y]),
    "names of bytes": (X, np.array([name.encode() for name in NAMES])[Y]),
    "items": Items(torch.from_numpy),
    "items (H, W)": Items(lambda each: each[0]),
    "items HWC": Items(lambda each: each.transpose(1, 2, 0)),
    "items of PIL": Items(lambda each: Image.fromarray(each[0])),
    "items of ints": Items(lambda each: each.astype(int), label=torch.tensor),
    "items with lists": Items(torch.from_numpy, label=np.int64, labels=Y.tolist()),
    "items from 1": Items(torch.from_numpy, label=lambda label: torch.tensor(label + 1), labels=DIGITS.labels + 1),
    "items with names": Items(torch.from_numpy, label=NAMES.__getitem__, labels=np.array(NAMES)[Y]),
    "concatenated": ConcatDataset([
        Subset(Items(torch.from_numpy), range(700)),
        Subset(Items(torch.from_numpy), range(700, len(Y))),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALIKE)
def test_what_means_the_same_becomes_the_same(kind):
    for source in opened(ALIKE[kind]).sources.values():
        images, labels = values(source)
        assert images.dtype == torch.uint8
        assert torch.equal(images, DIGITS.images)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, DIGITS.labels)


DEEP = {  # name: images, data.value_range, and the same images in 0..1
    "float32": (X / np.float32(255), None),
    "float64": (X / 255, None),
    "float16": ((X / 255).astype(np.float16), None),
    "torch.float64": (torch.from_numpy(X / 255), None),
    "uint16": (X.astype(np.uint16) * 257, None),
    "12 bits": (X.astype(np.uint16) * 16, (0, 4080)),
    "-1 to 1": (X / 127.5 - 1, (-1, 1)),
    "floats to 255": (X.astype(float) + 0.25, (0.25, 255.25)),
    "int64": (X.astype(np.int64) - 1000, (-1000, -745)),
    "items of floats": (Items(lambda each: torch.from_numpy(each / 255)), None),
    "items of uint16": (Items(lambda each: each.astype(np.uint16) * 257), None),
    "items of 16-bit PIL": (Items(lambda each: Image.fromarray(each[0].astype(np.uint16) * 257)), None),
    "items of float PIL": (Items(lambda each: Image.fromarray((each[0] / 255).astype(np.float32))), None),
}


@pytest.mark.parametrize("kind", DEEP)
def test_images_of_more_than_8_bits_keep_their_depth(kind):
    given, value_range = DEEP[kind]
    accepted = opened(given if isinstance(given, Items) else (given, Y), value_range=value_range)
    images, labels = values(accepted.sources["train"])
    assert images.dtype == torch.float32
    assert accepted.pixels.kind == "float32"
    assert torch.allclose(images, DIGITS.images / 255, atol=1e-3 if kind == "float16" else 1e-6)
    assert torch.equal(labels, DIGITS.labels)


def test_black_and_white_images_are_black_and_white():
    both = (X > 127, X[:, 0] > 127, (X > 127).astype(np.float32))
    for given in both[:2]:
        assert torch.equal(opened((given, Y)).sources["train"].images, (DIGITS.images > 127).byte() * 255)
    assert torch.equal(opened((both[2], Y)).sources["train"].images, (DIGITS.images > 127).float())


def test_any_dataset_is_read_into_memory():
    for dataset in (Items(torch.from_numpy), Items(lambda each: Image.fromarray(each[0]))):
        arrays = in_memory(dataset=dataset, in_channels=1, image_size=SIZE)
        assert torch.equal(arrays.images, DIGITS.images)
    deep = in_memory(dataset=Items(lambda each: each.astype(np.uint16) * 257), in_channels=1, image_size=SIZE)
    assert torch.allclose(opened(deep).sources["train"].images, DIGITS.images / 255)


def test_several_channels(tmp_path):
    bands = np.random.default_rng(0).integers(0, 256, (20, 12, 5, 7), np.uint8)  # twelve bands, 5 x 7 pixels
    np.save(tmp_path / "bands.npy", bands.transpose(0, 2, 3, 1))
    mapped = np.load(tmp_path / "bands.npy", mmap_mode="r")
    for given in (bands, mapped):
        source = opened((given, np.arange(20) % 2), shape=(12, 5, 7), names=["a", "b"]).sources["train"]
        assert torch.equal(source.images, torch.from_numpy(bands))


def holed(value: float) -> Any:
    images = X / np.float32(255)
    images[3, 0, 2, 2] = value
    return images


def ragged() -> Any:
    images = np.empty(2, object)
    images[:] = [X[0, 0], X[1, 0, :4]]
    return images


REFUSED: dict[str, tuple[Any, list[str]]] = {
    "floats to 255": ((X + 0.25, Y), ["float64", "values from 0.25 to 255.25", "data.value_range=[0,256]"]),
    "floats below 0": ((X / 127.5 - 1, Y), ["values from -1 to 1", "data.value_range=[-1,1]"]),
    "floats of 12 bits": ((X * 15.09, Y), ["to 3847.95", "data.value_range=[0,3850]"]),
    "floats to 4": ((X / 60, Y), ["to 4.25", "data.value_range=[0,4.25]"]),
    "floats about -1 and 1": ((X / 130 - 0.98, Y), ["to 0.981538", "data.value_range=[-1,1]"]),
    "floats alike": ((np.full(X.shape, -5.5), Y), ["from -5.5 to -5.5", "data.value_range=[-5.5,0]"]),
    "whole floats of 12 bits": ((X * 15.0, Y), ["to 3825", "data.value_range=[0,4095]"]),
    "an array of arrays": ((ragged(), Y[:2]), ["different shapes, such as (4, 8) and (8, 8)"]),
    "large ints": ((X.astype(int) * 100, Y), ["int64", "to 25500", "data.value_range=[0,32767]"]),
    "negative ints": ((X.astype(int) - 128, Y), ["from -128 to 127", "data.value_range=[-128,127]"]),
    "NaN": ((holed(np.nan), Y), ["NaN, first in image 3 (1 images in all)", "leave these images out"]),
    "infinity": ((holed(np.inf), Y), ["infinity, first in image 3"]),
    "masked": ((np.ma.masked_equal(X, 0), Y), ["a masked array", "filled(0)"]),
    "complex": ((X * 1j, Y), ["complex128", "magnitude"]),
    "texts": ((np.full(X.shape, "a"), Y), ["<U1", "give numbers"]),
    "different shapes": (([X[0], X[1, :, :4]], Y[:2]), ["different shapes, such as (1, 4, 8) and (1, 8, 8)"]),
    "another size": ((X[:, :, :, :6], Y), ["(1437, 1, 8, 6)", "data.image_size=[8,6]"]),
    "another square": ((X[:, :, :6, :6], Y), ["(1437, 1, 6, 6)", "or set data.image_size=6"]),
    "colour": ((X.repeat(3, 1), Y), ["(1437, 3, 8, 8)", "or set data.in_channels=3"]),
    "colour last": ((X.repeat(3, 1).transpose(0, 2, 3, 1), Y), ["(1437, 8, 8, 3)", "or set data.in_channels=3"]),
    "images last": ((X[:, 0].transpose(1, 2, 0), Y), ["(8, 8, 1437)"]),
    "no images": ((X[:0], Y[:0]), ["has no images"]),
    "no items": (Items(torch.from_numpy, labels=Y[:0], items=X[:0]), ["has no images"]),
    "few labels": ((X, Y[:-3]), ["1,437 images, but 1,434 labels"]),
    "many labels": ((X[:-3], Y), ["1,434 images, but 1,437 labels"]),
    "few labels of items": (Items(torch.from_numpy, labels=Y[1:]), ["1,437 images, but 1,436 labels"]),
    "broken labels": ((X, Y + 0.5), ["labels of shape (1437,) and type float64 hold", "a class is a whole number"]),
    "label NaN": ((X, np.where(Y == 3, np.nan, Y)), ["labels", "NaN"]),
    "negative labels": ((X, Y - 1), ["data.train has a label -1, but data.num_classes=10", "from 0 to 9"]),
    "labels to 11": ((X, Y + 2), ["has a label 11", "data.num_classes=12"]),
    "labels from 1 and 0": ((X, np.where(Y == 0, 10, Y) - (Y == 1)), ["has a label 10"]),
    "soft labels": ((X, np.full((len(Y), 10), 0.1)), ["(1437, 10)", "one-hot"]),
    "one-hot of others": ((X, np.eye(12)[Y]), ["(1437, 12)", "data.num_classes=10"]),
    "unknown names": ((X, [f"class {label}" for label in Y]), ["'class 0'", "data.class_names=[class 0,"]),
    "labels of None": ((X, [None] * len(Y)), ["labels of type object hold NoneType"]),
    "labels of lists": ((X, [[1], [1, 2]] * 700), ["labels of type object hold list"]),
    "two pairs": (((X, Y), (X, Y)), ["two pairs, as of training and test set"]),
    "images alone": (X, ["gives ndarray", "give a pair (images, labels)"]),
    "nothing": (None, ["gives NoneType", "give a pair (images, labels)"]),
    "three things": ((X, Y, Y), ["gives tuple", "give a pair (images, labels)"]),
    "a dict without labels": ({"images": X}, ["gives dict"]),
    "items without labels": (Items(torch.from_numpy, labels=None), ["lacks an attribute `labels`", "in_memory"]),
    "items with other labels": (
        Items(torch.from_numpy, labels=Y[::-1]), ["item 0 has the label", "list of labels says"]
    ),
    "items of another size": (Items(lambda each: each[:, :4]), ["item 0 has shape (1, 4, 8)", "image_size"]),
    "items that differ": (
        Items(lambda each: each[:, : 4 + each.sum() % 2]),
        ["items differ in shape", "(1, 4, 8) (item", "(1, 5, 8) (item"],
    ),
    "items of texts": (Items(lambda _: "a.png"), ["item 0", "give numbers"]),
    "items that are no pairs": (X.tolist(), ["gives list"]),
    "items standardised": (Items(lambda each: each / 127.5 - 1), ["float64", "to 1", "data.value_range=[-1,1]"]),
    "items that fail": (Items(lambda _: 1 / 0), ["image 0 cannot be made: ZeroDivisionError"]),
    "items of two types": (
        Items(lambda each: each if each.sum() % 2 else each / 255), ["items of the types float64 and uint8"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_certain_meaning_is_refused(kind):
    given, said = REFUSED[kind]
    with pytest.raises(FmxError) as refused:
        opened(given, (X, Y) if kind != "nothing" else None)
    message = str(refused.value)
    assert message.startswith("data.train")
    assert [part for part in said if part not in message] == [], message


def test_the_parts_must_go_together():
    with pytest.raises(FmxError, match=r"data.train as uint8, data.test as float32"):
        opened((X, Y), (X / 255, Y))
    with pytest.raises(FmxError, match=r"data.test has a label 10.*these count from 1 and those of data.train from 0"):
        opened((X, Y), (X, Y + 1))
    with pytest.raises(FmxError, match=r"data.train has a label 10"):
        opened((X, Y + 1), (X, Y))
    with pytest.raises(FmxError, match=r"outside of data.value_range=\[0, 1\]; use data.value_range=\[0,255\]"):
        opened((X / 255, Y), (X + 0.5 - (X > 0), Y), value_range=(0, 1))


def test_an_item_that_differs_from_those_looked_at_is_named():
    late = Items(lambda each: each[:, :4] if np.array_equal(each, X[1]) else each)
    source = opened(late).sources["train"]
    assert source[0][0].shape == (1, SIZE, SIZE)
    with pytest.raises(ConfigError, match=r"data.train: item 1 has shape \(1, 4, 8\)(?!.*or set)"):
        source[1]


LATER = {  # what item 1 is, in a set of items like the second: what is said of it
    "fractions": (lambda each: each / 2 + 0.25, lambda each: each.astype(float), "holds fractions"),
    "bytes": (
        lambda each: each * 1.0,
        lambda each: each / 255,
        r"holds values from 0 to 255, outside of data.value_range=\[0, 1\]",
    ),
    "bool": (lambda each: each > 9, lambda each: each, "is bool, and others are not"),
    "no bool": (lambda each: each / 255, lambda each: each > 9, "is float64, and others are bool"),
    "uint8": (lambda each: each, lambda each: each / 255, "is uint8, and others are floats"),
    "NaN": (lambda each: each * np.nan, lambda each: each / 255, "holds NaN or infinity"),
}


@pytest.mark.parametrize("kind", LATER)
def test_a_later_item_that_would_be_misread_is_named(kind):
    other, usual, said = LATER[kind]
    source = opened(Items(lambda each: other(each) if np.array_equal(each, X[1]) else usual(each))).sources["train"]
    source[2]
    with pytest.raises(DataError, match=f"data.train: item 1 {said}"):
        source[1]


def test_a_later_label_that_is_not_the_listed_one_is_named():
    listed = np.where(np.arange(len(Y)) == 1, (Y + 1) % 10, Y)
    source = opened(Items(torch.from_numpy, labels=listed)).sources["train"]
    with pytest.raises(DataError, match=f"item 1 has the label {Y[1]}, but the list says {listed[1]}"):
        source[1]


def test_a_layout_of_two_meanings_is_refused_unless_it_is_a_tensors():
    cubes, labels = np.random.default_rng(0).integers(0, 256, (6, 3, 3, 3), np.uint8), np.arange(6) % 2
    tensors = torch.from_numpy(cubes)
    more = {"shape": (3, 3, 3), "names": ["a", "b"]}

    class Cubes(Items):
        def __getitem__(self, index):
            return self.image(cubes[index]), labels[index]

    for given in ((cubes, labels), (list(cubes), labels), Cubes(np.copy, labels=labels, items=cubes)):
        with pytest.raises(ConfigError, match=r"are channels first or last\? Return a torch tensor"):
            opened(given, **more)
    own = ImageArrays(tensors, torch.from_numpy(labels))
    loose = ImageArrays(cubes, labels)
    whole = Cubes(torch.from_numpy, labels=labels, items=cubes)
    for certain in ((tensors, labels), (list(tensors), labels), own, loose, whole):
        assert torch.equal(values(opened(certain, **more).sources["train"])[0], tensors)


def test_pictures_of_another_size_or_depth_are_said_once(caplog):
    with caplog.at_level(logging.INFO):
        usual = opened(Items(lambda each: Image.fromarray(each[0]))).sources["train"]
        assert "stretched" not in caplog.text
        wide = Items(lambda each: Image.fromarray(each[0]).resize((9, 8) if np.array_equal(each, X[0]) else (8, 8)))
        source = opened(wide, usual.source).sources["train"]
        source[0]
        in_memory(dataset=wide, in_channels=1, image_size=SIZE)
    assert caplog.text.count("data.train: item 0 is a PIL image of 9 x 8 pixels") == 1
    assert caplog.text.count("picture 0 of the dataset has 9 x 8 pixels") == 1
    deep = Items(lambda each: Image.fromarray(each[0].astype(np.uint16)))
    with caplog.at_level(logging.INFO):
        opened(deep, shape=(3, SIZE, SIZE))
        in_memory(dataset=deep, in_channels=1, image_size=SIZE)
    assert caplog.text.count("item 0 is a PIL image of 16 bits, which is read as 8") == 1
    assert caplog.text.count("picture 0 of the dataset has 16 bits") == 1


def test_what_is_converted_is_said_once(caplog):
    with caplog.at_level(logging.INFO):
        opened((X.astype(float), Y + 1), (X[:, 0].astype(float), Y + 1))
    for said in (
        "data.train: images of type float64 hold whole numbers",
        "become the classes 0 to 9: data.class_names[0], no 0, is label 1",
        "data.test: ",
    ):
        assert caplog.text.count(said) >= 1
    caplog.clear()
    with caplog.at_level(logging.INFO):
        opened(DIGITS, (X, Y))
    assert caplog.text == ""
    with caplog.at_level(logging.INFO):
        opened((X // 255, Y))
        opened((X.astype(np.uint16) * 16, Y))
    assert "if 1 is white, set data.value_range=[0,1]" in caplog.text
    assert "if they have fewer bits, set data.value_range=[0,4095]" in caplog.text


CODE = """
import numpy as np
from fmx.data.digits import load_digits


def digits(part, kind):
    arrays = load_digits(part=part, num_test=360, test_seed=0, image_size=8)
    images, labels = arrays.images.numpy(), arrays.labels.numpy()
    if kind == "sixteen":
        return images[:, 0].astype(np.uint16) * 257, labels[:, None]
    if kind == "floats":
        return {"images": (images / 255).transpose(0, 2, 3, 1), "labels": (labels + 1).astype(np.int16)}
    if kind == "holes":
        return images * np.float32("nan"), labels
    return images / 100, labels


class Items:
    # One item holds NaN, has another shape or fails; whole: several are read at once.
    def __init__(self, part, kind, bad=-1, how="", whole=False):
        arrays = load_digits(part=part, num_test=360, test_seed=0, image_size=8)
        self.images, self.labels = arrays.images.numpy() / np.float32(255), arrays.labels
        self.bad, self.how = bad, how
        if whole:
            self.__getitems__ = lambda indices: [self[index] for index in indices]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index].copy()
        if index == self.bad and self.how == "fails":
            raise OSError("disk")
        if index == self.bad and self.how == "hole":
            image[0, 2, 2] = np.nan
        return image[:, : 4 if index == self.bad and self.how == "small" else 8], self.labels[index]
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
kind: floats
train: {_target_: mydata.digits, part: train, kind: floats}
test: {_target_: mydata.digits, part: test, kind: "${data.train.kind}"}
""".replace("kind: floats\ntrain", "train")
AUGMENT = """
import torch


class Wrong(torch.nn.Module):
    takes_batches = True

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, images):
        torch.rand(3)
        made = {"unit": images / 255, "holes": images / 0, "small": images[:, :, 1:], "list": list(images)}
        made |= {"fails": None, "dim": images // 100 * 0 + 9, "standard": (images / 255 - 0.3) / 1e-3}
        return made[self.how] + 0
"""


@pytest.fixture(scope="module")
def own(command, tmp_path_factory) -> Any:
    """Run fmx on the data of mydata.py, which stands in a folder with its YAML."""
    folder: Path = tmp_path_factory.mktemp("own")
    (folder / "conf/data").mkdir(parents=True)
    (folder / "conf/data/own.yaml").write_text(YAML)
    (folder / "mydata.py").write_text(CODE)
    (folder / "myaugment.py").write_text(AUGMENT)
    (folder / "conf/augment").mkdir()
    (folder / "conf/augment/wrong.yaml").write_text("_target_: myaugment.Wrong\nhow: unit\n")
    environment = {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}

    def run(*arguments: str, module: str = "run") -> Any:
        start = ["--config-dir=conf", "data=own", "model=mlp", "optim.lr=0.003"] if module == "run" else []
        done = command(*start, *arguments, module=module, cwd=folder, env=environment)
        return done, folder

    return run


GENTLE = ["augment._args_.0.padding=1", "augment._args_.1.prob=0.1", "trainer.max_epochs=4"]


@pytest.mark.parametrize("kind", ["floats", "sixteen"])
def test_own_arrays_train(own, kind):
    done, folder = own(f"data.train.kind={kind}", "augment=crop_flip", *GENTLE, f"hydra.run.dir={kind}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / kind / "metrics.json").read_text())["test"]["accuracy"] > 0.6
    evaluated, _ = own(kind, "--allow", "mydata", module="evaluate")
    assert "identical to metrics.json" in evaluated.stdout, evaluated.stdout + evaluated.stderr


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("holes", "data.train: images of type float32 hold NaN"),
        ("other", "hold values from 0 to 2.55, where 0 to 1 are expected"),
    ],
)
def test_own_arrays_are_refused_before_training(own, kind, said):
    done, folder = own(f"data.train.kind={kind}", f"hydra.run.dir={kind}")
    assert done.returncode == 1, done.stdout
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / kind / "checkpoints").exists()


def test_a_model_of_16_bits_takes_16_bits_everywhere(own):
    done, folder = own("data.train.kind=sixteen", "trainer.max_epochs=1", "hydra.run.dir=deep", "logger=none")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the largest" not in done.stdout
    recorded = json.loads((folder / "deep/run.json").read_text())["data"]
    assert (recorded["dtype"], recorded["value_range"]) == ("float32", [0, 65535])
    run = open_run(folder / "deep", allow="mydata")
    test = load_digits(part="test", num_test=360, test_seed=0, image_size=SIZE).images.numpy()
    deep = test.astype(np.uint16) * 257
    expected = torch.from_numpy(run.predictions.logits).double().softmax(1).numpy()
    assert np.allclose(run.predict(deep).probabilities, expected, atol=1e-5)
    assert np.allclose(
        run.predict([Image.fromarray(each[0]) for each in deep[:20]]).probabilities, expected[:20], atol=1e-5
    )
    with torch.inference_mode():
        assert run.load_model()(torch.from_numpy(deep.astype(np.float32))).shape == (360, 10)
    with pytest.raises(ConfigError, match="values from 0 to 65535, as in the data set, got 0 to 131070"):
        run.predict(deep[:, 0] * np.float32(2))
    for form, inside in (("torchscript", "inside"), ("pt2", "outside")):
        options = ["--format", form, "--normalise", inside, "--allow", "mydata"]
        exported, _ = own("deep", *options, module="export")
        assert exported.returncode == 0, exported.stdout + exported.stderr
        assert "all 360 test images get the same class" in exported.stdout
    cards = "".join(path.read_text() for path in folder.glob("mlp_own*.md"))
    assert "Pixels float32 (N, 1, 8, 8) from 0 to 65535, as in the data set" in cards
    assert "pixels from 0 to 65535, then (pixel / 65535 - mean) / std" in cards
    Image.fromarray(deep[7, 0]).save(folder / "seven.png")
    predicted, _ = own("deep", "seven.png", "--csv=said.csv", "--grid=said.png", "--allow=mydata", module="predict")
    assert predicted.returncode == 0, predicted.stdout + predicted.stderr
    (row,) = csv.DictReader((folder / "said.csv").read_text().splitlines())
    assert float(row["probability_1"]) == pytest.approx(expected[7].max(), abs=1e-5)
    said, _ = own("own", "--config-dir=conf", "--grid=grid.png", module="data")
    assert "mean [0.30" in said.stdout, said.stdout + said.stderr
    refused, _ = own("own", "--config-dir=conf", "--idx-to-csv=csv", module="data")
    assert "more than 8 bits" in refused.stderr


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("unit", "values from 0 to 1: pixels from 0 to 255 are expected, which are divided by 255 afterwards"),
        ("holes", "some of which are NaN or infinite"),
        ("small", "augment makes uint8 (32, 1, 7, 8) of the first training images, uint8 (32, 1, 8, 8)"),
        ("fails", "augment fails on the first training images, uint8 (32, 1, 8, 8): TypeError"),
    ],
)
def test_what_augment_makes_of_the_first_images_is_checked(own, how, said):
    done, folder = own(
        "data=digits", "data.image_size=8", "augment=wrong", f"augment.how={how}", f"hydra.run.dir=run_{how}"
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert not (folder / f"run_{how}" / "checkpoints").exists()


def test_images_that_teach_little_are_told(own):
    quick = ["data=digits", "data.image_size=8", "trainer=smoke"]
    for odd in (["augment=wrong", "augment.how=dim"], ["data.mean=[77]", "data.std=[83]"]):
        done, _ = own(*quick, *odd)
        assert "after normalisation, where about 0 and 1 are usual, and may teach little" in done.stdout, done.stderr
    done, _ = own(*quick, "augment=wrong", "augment.how=standard")
    assert "where 0 to 255 are expected: leave out what normalises" in done.stdout
    done, _ = own(*quick)
    assert "WARNING" not in done.stdout
    assert "usual" not in done.stdout


def items(part: str, bad: int, **how: Any) -> list[str]:
    given = {"bad": bad, **how}
    return [
        *(f"data.{each}._target_=mydata.Items" for each in ("train", "test")),
        *(f"+data.{part}.{key}={value}" for key, value in given.items()),
        "data.shuffle=false", "augment=none", "trainer.max_epochs=1", "logger=none",
    ]  # fmt: skip


FAILS = "cannot be made: OSError: disk (HYDRA_FULL_ERROR=1 shows the traceback)"


@pytest.mark.parametrize(
    ("part", "bad", "more", "said"),
    [
        ("train", 151, {"how": "fails"}, f"data.train: image 151 {FAILS}"),
        ("train", 151, {"how": "fails", "whole": True}, f"data.train: image 151 {FAILS}"),
        ("test", 151, {"how": "fails"}, f"data.test: image 151 {FAILS}"),
        ("train", 151, {"how": "small"}, "data.train: item 151 has shape (1, 4, 8)"),
        ("train", 151, {"how": "hole"}, "data.train: item 151 holds NaN or infinity; leave it out"),
        ("test", 151, {"how": "hole"}, "data.test: item 151 holds NaN or infinity; leave it out"),
    ],
)
def test_a_bad_item_ends_training_in_one_line_that_names_it(own, part, bad, more, said):
    name = f"{part}{bad}{'_'.join(map(str, more.values()))}"
    workers = ["data.num_workers=1"] if more["how"] == "small" or more.get("whole") else []
    done, folder = own(*items(part, bad, **more), *workers, f"hydra.run.dir={name}")
    assert done.returncode in {1, 2}, done.stdout + done.stderr
    assert done.stderr.startswith(said), done.stderr
    assert done.stderr.count("\n") == 1
    record = json.loads((folder / name / "run.json").read_text())
    assert (record["status"], record["error"]) == ("failed", done.stderr.strip())
