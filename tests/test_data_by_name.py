"""Data sets by name: torchvision's, NumPy's arrays, Parquet files and tables of pixels, each in its real format."""

import json
import shutil

import numpy as np
import pytest
import torch

import data_files
from data_files import LABELS, PARTS
from fmx.data.torchvision_sets import describe_torchvision, load_torchvision
from fmx.errors import ConfigError, DataError
from fmx.runs.composition import compose_config
from fmx.training.build import make_data

SHORT = ["model=mlp", "model.net.hidden_sizes=[16]", "trainer.max_epochs=1", "logger=none", "data.num_workers=0"]


def made(*overrides):
    """The data module of a `data` node."""
    return make_data(compose_config([*overrides]).data, augment=torch.nn.Identity(), seed=0)


def trained(command, folder, *overrides):
    done = command(*overrides, *SHORT, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "run/run.json").read_text()), done


def refused(command, folder, *overrides):
    done = command(*overrides, *SHORT, "hydra.run.dir=run", cwd=folder)
    assert done.returncode in {1, 2}, done.stdout
    assert not (folder / "run").exists(), "refused before there is a run"
    assert "Traceback" not in done.stderr
    return done.stderr


def of_torchvision(root, dataset, part="train", **more):
    given = {"options": {}, "split": None, "mirrors": []} | more
    facts = describe_torchvision(root=str(root), dataset=dataset, **given)
    source = load_torchvision(
        root=str(root), dataset=dataset, part=part, num_test=0.2, test_seed=0, in_channels=facts["in_channels"],
        image_size=facts["image_size"], **given,
    )  # fmt: skip
    return facts, source


@pytest.fixture
def any_sum(monkeypatch):
    """Sets made here do not have the official MD5 sums."""
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda *_, **__: True)


@pytest.mark.usefixtures("any_sum")
def test_sets_that_torchvision_holds_in_memory(tmp_path):
    data_files.cifar10(tmp_path)
    data_files.svhn(tmp_path)
    data_files.emnist_letters(tmp_path)
    facts, cifar = of_torchvision(tmp_path, "CIFAR10")
    assert facts["class_names"] == [f"kind {label}" for label in range(10)]
    assert (facts["in_channels"], facts["image_size"]) == (3, 32)
    pixels = data_files.coloured(data_files.enlarged(32, "train"))
    assert facts["mean"] == pytest.approx((pixels / 255).mean((0, 1, 2)), abs=1e-6)
    assert facts["std"] == pytest.approx((pixels / 255).std((0, 1, 2)), abs=1e-6)
    assert np.array_equal(cifar.images, pixels.transpose(0, 3, 1, 2))
    assert np.array_equal(cifar.labels, LABELS[PARTS["train"]])
    _, svhn = of_torchvision(tmp_path, "SVHN", part="test")
    assert np.array_equal(svhn.labels, LABELS[PARTS["test"]])
    assert svhn.images.shape == (100, 3, 32, 32)
    facts, letters = of_torchvision(tmp_path, "EMNIST", options={"split": "letters"})
    assert facts["class_names"] == [chr(ord("a") + letter) for letter in range(26)]
    assert letters.labels.tolist() == [index % 26 for index in range(300)]


def test_channels_and_size_of_a_set_in_memory_may_be_others(tmp_path):
    data_files.usps(tmp_path)
    options = {"options": {}, "split": None, "mirrors": [], "num_test": 0.2, "test_seed": 0}
    usual, other = (
        load_torchvision(
            root=str(tmp_path), dataset="USPS", part="test", in_channels=channels, image_size=size, **options
        )
        for channels, size in ((1, 16), (3, [8, 12]))
    )
    assert (usual.images.shape, other.images.shape) == ((100, 1, 16, 16), (100, 3, 8, 12))
    assert abs(usual.images.float().mean() - other.images.float().mean()) < 2


@pytest.mark.usefixtures("any_sum")
def test_sets_whose_pictures_lie_in_files(tmp_path, monkeypatch):
    data_files.flowers(tmp_path)
    data_files.gtsrb(tmp_path)
    data_files.eurosat(tmp_path)
    facts, flowers = of_torchvision(tmp_path, "Flowers102")
    assert len(facts["class_names"]) == 102
    assert facts["class_names"][0] == "pink primrose"
    assert (len(flowers), flowers[0][0].shape, facts["in_channels"]) == (30, (3, 64, 64), 3)
    assert flowers.labels.tolist() == [number % 3 for number in range(30)]
    _, validation = of_torchvision(tmp_path, "Flowers102", split="val")
    assert len(validation) == 9
    # Signs have no argument `loader`: their labels are found without decoding a picture.
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: decoded.append(1))
    options = {"options": {}, "mirrors": [], "num_test": 0.2, "test_seed": 0, "in_channels": 3, "image_size": 8}
    signs = load_torchvision(root=str(tmp_path), dataset="GTSRB", part="train", split=None, **options)
    assert not decoded
    monkeypatch.undo()
    assert signs.labels.bincount().tolist() == [20, 20, 20]
    assert 80 <= signs[25][0].min() <= signs[25][0].max() < 140, "a picture of the class 1"
    before = signs.fingerprint()
    shutil.copy(signs.files[0], signs.files[-1])
    assert (
        load_torchvision(root=str(tmp_path), dataset="GTSRB", part="train", split=None, **options).fingerprint()
        != before
    )
    # torchvision does not divide EuroSAT: a test set is drawn once.
    facts, land = of_torchvision(tmp_path, "EuroSAT")
    assert facts["class_names"] == ["Forest", "River", "SeaLake"]
    assert facts["image_size"] == 16
    test = of_torchvision(tmp_path, "EuroSAT", part="test")[1]
    assert (len(land), len(test), test.labels.bincount().tolist()) == (48, 12, [4, 4, 4])
    assert not {*land.files} & {*test.files}


@pytest.mark.parametrize(
    ("dataset", "more", "says"),
    [
        ("cifar10", {}, "did you mean 'CIFAR10'"),
        ("FLOWERS103", {}, "did you mean 'Flowers102'"),
        ("VOCDetection", {}, "boxes, masks or captions"),
        ("CocoCaptions", {}, "boxes, masks or captions"),
        ("CelebA", {}, "several attributes"),
        ("ImageFolder", {}, "data=image_folder"),
        ("nothing_like_it", {}, "Sets: CIFAR10, CIFAR100"),
        (None, {}, "data.dataset=CIFAR10"),
        ("EMNIST", {}, "data.options={split: NAME}' of byclass, bymerge, balanced"),
        ("EMNIST", {"options": {"split": "lettrs"}}, "Valid values are"),
        ("USPS", {"options": {"splt": 1}}, "takes no 'splt'"),
        ("USPS", {"options": {"train": False}}, "data.train.split=NAME"),
        ("Flowers102", {"options": {"loader": "os.system"}}, "fmx sets it itself"),
        ("Flowers102", {"split": "validation"}, "Valid values are"),
        ("USPS", {"split": "extra"}, "has train and test"),
    ],
)
def test_a_wrong_set_or_option_is_refused_with_what_to_type(tmp_path, dataset, more, says):
    with pytest.raises(ConfigError) as error:
        of_torchvision(tmp_path, dataset, **more)
    assert says in str(error.value)
    assert not any(tmp_path.iterdir())


def test_a_run_of_a_set_of_torchvision(command, tmp_path):
    """By command: trained, reproduced, evaluated after its files moved, and refused where they are missing."""
    data_files.usps(tmp_path)
    run = ["data=torchvision", "data.root=.", "trainer=smoke"]
    record, _ = trained(command, tmp_path, *run, "data.dataset=USPS")
    assert record["data"]["name"] == "USPS"
    assert record["data"]["sizes"] == {"train": 270, "val": 30, "test": 100}
    (kept,) = (tmp_path / ".fmx").glob("*.json")
    assert json.loads(kept.read_text())["image_size"] == 16
    again = command("run", module="reproduce", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "identical" in again.stdout
    (tmp_path / "there").mkdir()
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).rename(tmp_path / "there" / name)
    gone = command("run", module="evaluate", cwd=tmp_path)
    assert gone.returncode == 1
    assert "torchvision's USPS is not there" in gone.stderr, "a run's directory lets torchvision fetch nothing"
    moved = command("run", "--set", "data.root=there", module="evaluate", cwd=tmp_path)
    assert "identical to metrics.json" in moved.stdout, moved.stdout + moved.stderr
    shutil.rmtree(tmp_path / "run")
    missing = refused(command, tmp_path, *run, "data.dataset=CIFAR10", "data.train.mirrors=[]")
    assert "Ways out: data.root=DIR" in missing
    assert "fmx data torchvision data.dataset=CIFAR10" in missing


def test_what_was_found_is_read_again_and_a_folder_that_takes_nothing_is_said(tmp_path, caplog):
    data_files.usps(tmp_path)
    given = {"root": str(tmp_path), "dataset": "USPS", "options": {}, "split": None, "mirrors": ["torchvision"]}
    facts = describe_torchvision(**given)
    (kept,) = (tmp_path / ".fmx").iterdir()
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).rename(tmp_path / f"{name}.away")
    assert describe_torchvision(**given) == facts, "without its files"
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / f"{name}.away").rename(tmp_path / name)
    kept.write_text("{")
    assert describe_torchvision(**given) == facts, "a damaged file is written anew"
    assert json.loads(kept.read_text()) == facts
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("a file where the folder should be")
    assert describe_torchvision(**given) == facts
    assert "cannot be kept" in caplog.text


def test_a_set_that_cannot_be_fetched_names_the_ways_out(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.usps.download_url", offline)
    given = {"root": str(tmp_path), "dataset": "USPS", "options": {}, "split": None}
    with pytest.raises(DataError, match=r"could not be fetched.*no route to host.*\n.*data=digits"):
        describe_torchvision(**given, mirrors=["torchvision"])
    with pytest.raises(DataError, match="is not there"):
        describe_torchvision(**given, mirrors=[])
