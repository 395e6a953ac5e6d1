"""Folders of pictures as people have them: shapes, layouts, archives of other systems, validation folders."""

import csv
import json
import logging
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf.errors import InterpolationResolutionError
from PIL import Image
from torch import nn
from torchvision.transforms import v2

import fmx
from fmx.config.trust import check_trusted
from fmx.data.folder import ImageFolder
from fmx.data.loader import EpochSampler, image_loader
from fmx.data.per_image import augmentation
from fmx.data.picture import RESIZES
from fmx.errors import ConfigError, DataError
from fmx.inference.export.signature import signature_of
from fmx.inference.images import prepare
from fmx.runs.composition import compose_config
from fmx.runs.run_dir import open_run
from fmx.runs.trusted_config import trusted_config
from fmx.training.build import make_data
from fmx.training.first_batch import check_first_batch

RUN = ["data=image_folder", "data.root=set", "data.num_workers=0", "model=mlp", "trainer.max_epochs=1", "logger=none"]
COLOURS = {"cats": (200, 40, 40), "dogs": (40, 40, 200)}


def picture(colour, size=(30, 20), seed=0):
    """A picture of about one colour, with a white frame."""
    width, height = size
    pixels = np.full((height, width, 3), 255, np.uint8)
    noise = np.random.default_rng(seed).integers(0, 40, (height - 4, width - 4, 3))
    pixels[2:-2, 2:-2] = np.array(colour) + noise
    return Image.fromarray(pixels)


def make_set(root, parts=(("train", 12), ("test", 4))):
    """Two classes that a network tells apart, in pictures of several shapes."""
    for part, number in parts:
        for name, colour in COLOURS.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(number):
                picture(colour, size=(30 + 5 * (k % 3), 20), seed=k).save(folder / f"{part}{k}.png")
    return root


def folder_of(path, **changes):
    keys = {"class_names": ["a"], "image_size": [8, 8], "in_channels": 3} | changes
    return ImageFolder(folder=str(path), **keys)


# ------------------------------------------------------------------------------------------- proportions


def test_each_way_to_resize(tmp_path):
    (tmp_path / "a").mkdir()
    stripes = np.zeros((40, 80, 3), np.uint8)
    stripes[:, :20] = (250, 0, 0)  # left quarter, which the crop of a square leaves out
    stripes[:, 20:60] = (0, 250, 0)
    stripes[:, 60:] = (250, 0, 0)
    Image.fromarray(stripes).save(tmp_path / "a/x.png")
    stretched, fitted, cropped = (folder_of(tmp_path, resize=how)[0][0] for how in RESIZES)
    assert torch.equal(stretched, folder_of(tmp_path)[0][0])
    assert stretched.shape == fitted.shape == cropped.shape == (3, 8, 8)
    assert (stretched[0, :, 0] > 200).all()
    assert (stretched[1, :, 4] > 200).all()
    assert (cropped[1] > 200).all()  # the filter reaches across the edge, as where one resizes first
    assert (cropped[0] < 50).all()
    assert (fitted[1, 2:6, 3:5] == 250).all()
    framed = np.full((40, 80, 3), (9, 8, 7), np.uint8)
    framed[12:28, 24:56] = 255
    Image.fromarray(framed).save(tmp_path / "a/y.png")
    fitted = folder_of(tmp_path, resize="pad")[1][0]
    assert (fitted[:, [0, 1, 6, 7]] == torch.tensor([9, 8, 7]).view(3, 1, 1)).all()  # the median colour of the edge
    assert (fitted[:, 3:5, 3:5] > 150).all()
    wide = folder_of(tmp_path, resize="pad", image_size=[8, 16])[0][0]
    assert torch.equal(wide, folder_of(tmp_path, image_size=[8, 16])[0][0])  # of that shape already
    assert torch.equal(wide, folder_of(tmp_path, resize="crop", image_size=[8, 16])[0][0])
    tall = folder_of(tmp_path, resize="crop", image_size=[16, 4])[0][0]
    assert tall.shape == (3, 16, 4)
    assert (tall[1] > 200).all()
    assert len({folder_of(tmp_path, resize=how).fingerprint() for how in RESIZES}) == 3
    assert folder_of(tmp_path).fingerprint() == folder_of(tmp_path, image_size=8).fingerprint()
    with pytest.raises(ConfigError, match=r"data.resize must be one of stretch, pad, crop, got 'squash'"):
        folder_of(tmp_path, resize="squash")


@pytest.mark.parametrize("how", [*RESIZES])
def test_odd_pictures_are_resized_in_every_way(how, tmp_path):
    (tmp_path / "a").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turned clockwise
    half = np.zeros((60, 600), np.uint8)
    half[:, 300:] = 255
    Image.fromarray(half).save(tmp_path / "a/1.jpg", exif=turned, quality=95)
    for k, shape in enumerate([(1, 1), (1, 900), (900, 1), (7, 5), (8, 8)], start=2):
        Image.fromarray(np.full(shape, 9, np.uint8)).save(tmp_path / f"a/{k}.png")
    Image.new("RGBA", (30, 9), (200, 200, 200, 0)).save(tmp_path / "a/9.png")
    for size in ([8, 8], [3, 12], [12, 3]):
        dataset = folder_of(tmp_path, resize=how, image_size=size, in_channels=1)
        pictures = torch.stack([x for x, _ in dataset])
        assert pictures.shape == (7, 1, *size)
        assert (pictures[1:6] == 9).all()
        assert (pictures[6] == 0).all()
        middle = pictures[0, 0, :, (size[1] - 1) // 2].float()
        above, below = middle[: size[0] // 2].mean(), middle[-(size[0] // 2) :].mean()
        assert below - above > 120  # upright


def test_a_crop_is_what_torchvision_makes(tmp_path):
    (tmp_path / "a").mkdir()
    for k, size in enumerate([(160, 80), (60, 100), (50, 50)]):
        picture((90, 120, 60), size=size).save(tmp_path / f"a/{k}.png")
    usual = v2.Compose([v2.Resize(20, antialias=True), v2.CenterCrop(20)])
    dataset = folder_of(tmp_path, resize="crop", image_size=20)
    for file, (ours, _) in zip(dataset.files, dataset, strict=True):
        theirs = v2.functional.pil_to_tensor(usual(Image.open(tmp_path / file)))
        assert (ours.int() - theirs.int()).abs().float().mean() < 3, file


@pytest.fixture(scope="module")
def cropped_run(command, tmp_path_factory):
    """The home of a run on pictures that were cropped to 12 x 16."""
    home = tmp_path_factory.mktemp("cropped")
    make_set(home / "set")
    done = command(
        *RUN, "data.resize=crop", "data.image_size=[12,16]", "data.validation=4", "hydra.run.dir=run",
        cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return home


def test_predictions_and_exports_resize_as_the_training_did(cropped_run, command):
    home = cropped_run
    signature = signature_of(trusted_config(open_run(home / "run")), normalize="inside", record={})
    assert (signature.fit, signature.image_size) == ("crop", [12, 16])
    for how in RESIZES:
        test = folder_of(home / "set/test", class_names=[*COLOURS], image_size=[12, 16], resize=how)
        for file, (pixels, _) in zip(test.files, test, strict=True):
            seen = prepare(home / "set/test" / file, replace(signature, fit=how), "auto").pixels
            assert np.array_equal(seen, pixels.numpy())
    run = fmx.open_run(home / "run")
    said = run.predict([home / "set/test" / file for file in test.files])
    assert said.probabilities.argmax(1).tolist() == run.predictions.logits.argmax(1).tolist()
    done = command("run", "--out", "m.onnx", "--force", module="export", cwd=home)
    assert done.returncode == 0, done.stderr
    assert RESIZES["crop"] in (home / "m.onnx.md").read_text()
    picked = command("m.onnx", f"set/test/{test.files[0]}", "--csv", "said.csv", "--force", module="predict", cwd=home)
    assert picked.returncode == 0, picked.stderr
    assert f",{said.names[0]}," in (home / "said.csv").read_text()
    other = command(
        "run", "--data", "image_folder", "--set", "data.root=set", "--set", "data.image_size=[12,16]",
        "--set", "data.num_workers=0", module="evaluate", cwd=home,
    )  # fmt: skip
    accuracy = json.loads((home / "run/metrics.json").read_text())["test"]["accuracy"]
    assert f"{100 * accuracy:.2f} %" in other.stdout, other.stderr


def test_what_a_directory_says_of_resizing_is_checked(cropped_run, tmp_path):
    run = shutil.copytree(cropped_run / "run", tmp_path / "run")
    path = run / ".hydra/resolved.yaml"
    text = path.read_text()
    for value, said in (("squash", "classes or an input that cannot be right"), ("[pad]", "cannot be right")):
        path.write_text(text.replace("  resize: crop", f"  resize: {value}"))
        with pytest.raises(DataError, match=said):
            signature_of(trusted_config(open_run(run)), normalize="inside", record={})
    path.write_text("\n".join(line for line in text.splitlines() if "resize:" not in line))
    assert (
        signature_of(trusted_config(open_run(run)), normalize="inside", record={}).fit == "stretch"
    )  # as before there was a choice


# ---------------------------------------------------------------------- transforms at the pictures' own size


def served(dataset, at_source, *, epoch=0, workers=0, per_image=None):
    """One epoch of training images, in order."""
    indices = torch.arange(len(dataset))
    order = EpochSampler(indices, shuffle=False, seed=3, rank=0, world_size=1, equal_shares=True)
    order.set_epoch(epoch)
    loader = image_loader(
        dataset, order, batch_size=5, drop_last=False, num_workers=workers, device=torch.device("cpu"), resumable=True,
        at_source=at_source, per_image=per_image,
    )  # fmt: skip
    return torch.cat([images for images, _ in loader])


def test_a_transform_gets_the_pictures_as_they_were_decoded(tmp_path):
    make_set(tmp_path)
    dataset = folder_of(tmp_path / "train", class_names=[*COLOURS], image_size=[12, 16])
    seen = []

    def spy(picture):
        seen.append(tuple(picture.shape))
        assert picture.dtype == torch.uint8
        return picture[:, :, : picture.shape[2] // 2]

    images = served(dataset, spy)
    assert images.shape == (24, 3, 12, 16)
    assert sorted(set(seen)) == [(3, 20, 30), (3, 20, 35), (3, 20, 40)]
    whole = torch.stack([x for x, _ in dataset])
    assert torch.equal(served(dataset, lambda picture: picture), whole)  # resized as without a transform
    left = Image.open(tmp_path / "train" / dataset.files[0]).crop((0, 0, 15, 20)).resize((16, 12), Image.BILINEAR)
    assert torch.equal(images[0], v2.functional.pil_to_tensor(left))
    order = []
    served(dataset, lambda p: (order.append("source"), p)[1], per_image=lambda p: (order.append(p.shape[1:]), p)[1])
    assert order[:4] == ["source", (12, 16), "source", (12, 16)]


def test_what_is_drawn_depends_on_seed_epoch_and_picture_alone(tmp_path):
    make_set(tmp_path)
    dataset = folder_of(tmp_path / "train", class_names=[*COLOURS], image_size=[12, 16])
    crop = augmentation(nn.Identity(), mix=None, shape=(3, 12, 16), at_source=v2.RandomResizedCrop((12, 16))).at_source
    first = served(dataset, crop)
    before = torch.get_rng_state()
    assert torch.equal(first, served(dataset, crop))
    assert torch.equal(first, served(dataset, crop, workers=2))
    assert torch.equal(before, torch.get_rng_state())
    later = served(dataset, crop, epoch=1)
    assert not torch.equal(first, later)
    assert torch.equal(later, served(dataset, crop, epoch=1, workers=1))
    assert len(torch.unique(first.flatten(1), dim=0)) == 24


def test_random_parts_of_pictures_train_and_are_for_training_alone(command, tmp_path):
    make_set(tmp_path / "set")
    (tmp_path / "spy.py").write_text(
        "import os\nfrom torchvision.transforms import v2\n\n\nclass Spied(v2.RandomResizedCrop):\n"
        "    def forward(self, image):\n        with open(os.environ['SEEN'], 'a') as file:\n"
        "            file.write(f'{tuple(image.shape)}\\n')\n        return super().forward(image)\n"
    )
    run = [*RUN, "augment=[random_resized_crop,flip]", "data.image_size=[12,16]", "data.validation=4"]
    histories = []
    for workers, target in (("0", "spy.Spied"), ("2", "torchvision.transforms.v2.RandomResizedCrop")):
        done = command(
            *run, f"data.num_workers={workers}", f"augment.per_image._target_={target}", f"hydra.run.dir=run{workers}",
            "trainer.max_epochs=2", cwd=tmp_path, env={"SEEN": str(tmp_path / "seen"), "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        rows = list(csv.DictReader((tmp_path / f"run{workers}/history.csv").read_text().splitlines()))
        histories.append([{key: value for key, value in row.items() if key != "seconds"} for row in rows])
    assert histories[0] == histories[1]
    said = "RandomResizedCrop, applied to each training picture at its own size, before it is resized, in 2 worker"
    assert said in done.stdout + done.stderr
    sizes = (tmp_path / "seen").read_text().splitlines()
    decoded = [size for size in sizes if size in {"(3, 20, 30)", "(3, 20, 35)", "(3, 20, 40)"}]
    assert len(decoded) % 20 == 0  # the training images of some epochs (the figure shows another): nothing held out
    assert len(decoded) >= 40
    assert set(sizes) - set(decoded) == {"(3, 12, 16)"}  # the trial before the run
    with_others = command(*run[:-3], "augment=[random_resized_crop,randaugment,mixup]", "--dry-run", cwd=tmp_path)
    assert with_others.returncode == 0, with_others.stderr
    for change, line in {
        "augment.per_image.scale=[2,1]": "augment: RandomResizedCrop cannot take an image",
        "augment.per_image=3": "augment.per_image must be a mapping with a _target_",
        "augment.per_image._target_=torch.nn.Identiti": "no 'Identiti'",
    }.items():
        refused = command(*run[:-3], "augment=random_resized_crop", change, "--dry-run", cwd=tmp_path)
        assert refused.returncode == 2, change
        assert line in refused.stderr, refused.stderr


# ------------------------------------------------------------------------------------------------ layouts


def loaded(root, *overrides):
    data = compose_config(["data=image_folder", f"data.root='{root}'", "data.image_size=4", *overrides]).data
    return make_data(data, augment=nn.Identity(), seed=0)


def refusal(root):
    """What is said of a folder, when it is composed or loaded."""
    with pytest.raises((DataError, InterpolationResolutionError)) as refused:
        loaded(root)
    return str(refused.value).partition("\n")[0]


@pytest.fixture
def own_set(tmp_path):
    return make_set(tmp_path / "set", (("train", 5), ("test", 2)))


def test_other_layouts_are_told_what_to_type(own_set, tmp_path):
    assert refusal(tmp_path).endswith(f"there is {own_set}/train, so type data.root={own_set}")
    assert "belong into train and test" in refusal(own_set / "train")
    assert "('cats', 'dogs')" in refusal(own_set / "train")
    assert "name their parent with data.root=DIR" in refusal(tmp_path / "nowhere")
    (own_set / "train").rename(own_set / "Training")
    assert refusal(own_set).endswith(f"rename {own_set / 'Training'} to train")
    (own_set / "Training").rename(own_set / "train")
    (own_set / "test").rename(own_set / "Test")
    assert refusal(own_set).endswith(f"rename {own_set / 'Test'} to test")
    (own_set / "Test").rename(own_set / "val")
    said = refusal(own_set)
    remedy = f"data.test.folder={own_set / 'val'} data.val=null"
    assert remedy in said
    assert loaded(own_set, *remedy.split()).sizes() == {"train": 9, "val": 1, "test": 4}
    shutil.rmtree(own_set / "val")
    assert "docs/own_images.md, Without a test set" in refusal(own_set)
    (own_set / "test").mkdir()
    picture((1, 2, 3)).save(own_set / "test/unknown.png")
    assert "holds pictures without class folders" in refusal(own_set)


def test_the_lines_of_the_page_divide_a_folder(own_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (own_set / "train").rename(tmp_path / "unsorted")
    (tmp_path / "unsorted/.DS_Store").touch()
    page = (Path(__file__).parents[1] / "docs/own_images.md").read_text(encoding="utf-8")
    code = page.partition("### Without a test set")[2].partition("```python\n")[2].partition("```")[0]
    exec(compile(code, "own_images.md", "exec"), {})
    divided = loaded(tmp_path / "pictures", "data.validation=2")
    assert divided.sizes() == {"train": 6, "val": 2, "test": 2}
    assert divided.labels("test").tolist() == [0, 1]


def test_archives_of_other_systems_are_read_as_they_are_meant(own_set, caplog):
    for folder in (own_set, own_set / "train", own_set / "test"):
        (folder / "__MACOSX/cats").mkdir(parents=True)
        (folder / "__MACOSX/cats/._x.png").write_bytes(b"\0\5\26\7")
        (folder / ".DS_Store").touch()
    (own_set / "train/cats/._train0.png").write_bytes(b"\0\5\26\7")
    (own_set / "train/cats/Thumbs.db").touch()
    (own_set / "train/dogs/desktop.ini").touch()
    (own_set / "train/labels.csv").touch()
    (own_set / "train/cats/deeper").mkdir()
    (own_set / "train/cats/train0.png").rename(own_set / "train/cats/TRAIN0.PNG")
    (own_set / "train/cats/train1.png").rename(own_set / "train/cats/e\u0301te\u0301.Png")  # as macOS writes it
    data = loaded(own_set, "data.validation=2")
    assert data.class_names == ["cats", "dogs"]
    assert data.sizes() == {"train": 8, "val": 2, "test": 4}
    said = "\n".join(caplog.messages)
    assert "the folder __MACOSX, which an operating system made" in said
    assert f"left out of {own_set / 'train'}: 1 file beside the class folders" in said
    assert "1 .db, 1 .ini" in said
    assert "1 folder within" in said


def test_class_folders_that_another_system_would_take_for_one(own_set, caplog):
    for part in ("train", "test"):
        shutil.copytree(own_set / part / "cats", own_set / part / "Cats")
    assert loaded(own_set, "data.validation=2").class_names == ["Cats", "cats", "dogs"]
    assert "has the classes 'Cats' and 'cats', which differ in upper and lower case alone" in caplog.text
    shutil.rmtree(own_set / "train/cats")
    shutil.rmtree(own_set / "test/Cats")
    assert refusal(own_set).endswith(
        "test has the folder 'cats', but the class is 'Cats' in the train folder. Rename one"
    )
    (own_set / "test/cats").rename(own_set / "test/Cats")
    (own_set / "train/dogs/deeper").mkdir()
    for file in (own_set / "train/dogs").glob("*.png"):
        file.rename(own_set / "train/dogs/deeper" / file.name)
    assert "those in folders within are not read" in refusal(own_set)


def rgb_of_16_bits():
    """A PNG of 1 x 1 pixels, RGB with 16 bits, which Pillow itself writes not."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(7))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_pictures_of_16_bits_are_said_once(own_set, caplog):
    loaded(own_set)
    assert "16 bits" not in caplog.text
    deep = Image.fromarray((np.arange(64, dtype=np.uint16) * 60).reshape(8, 8))
    for file in sorted(own_set.glob("*/*/*.png")):
        file.write_bytes(rgb_of_16_bits()) if "cats" in str(file) else deep.save(file)
    with caplog.at_level(logging.INFO):
        data = loaded(own_set, "data.in_channels=1")
    said = f"pictures such as {own_set}/train/cats/train0.png hold 16 bits for each value and are read as 8"
    assert caplog.text.count(said) == caplog.text.count("16 bits") == 1
    check_first_batch(data)
    assert "may teach little" in caplog.text
    assert "docs/own_parts.md); data.mean and data.std" in caplog.text
    assert "value_range" not in caplog.text
    for file in own_set.glob("*/cats/*.png"):
        picture((9, 9, 9)).save(file)
    for suffix in ("tiff", "ppm"):
        caplog.clear()
        for file in own_set.glob("*/dogs/*.*"):
            file.unlink()
            deep.save(file.with_suffix(f".{suffix}"))
        loaded(own_set)
        assert caplog.text.count("16 bits") == 1
        assert f"dogs/train0.{suffix} hold" in caplog.text


def test_folders_of_validation_images(own_set):
    shutil.copytree(own_set / "test", own_set / "val")
    data = loaded(own_set, "data.resize=pad")
    assert data.sizes() == {"train": 10, "val": 4, "test": 4}
    assert data.sources["val"].resize == "pad"
    (own_set / "val/birds").mkdir()
    picture((9, 9, 9)).save(own_set / "val/birds/b.png")
    assert "val has folders that are no class of the train folder (data.class_names): 'birds'" in refusal(own_set)
    shutil.rmtree(own_set / "val/birds")
    shutil.copytree(own_set / "test", own_set / "validation")
    assert "2 folders of validation images, val and validation: rename all but one" in refusal(own_set)
    assert loaded(own_set, "data.val=null", "data.validation=2").sizes() == {"train": 8, "val": 2, "test": 4}


def test_transforms_of_pictures_from_elsewhere_are_torchvisions_alone():
    good = {"augment": {"per_image": {"_target_": "torchvision.transforms.v2.RandomResizedCrop", "size": 8}}}
    check_trusted(good, Path("run"))
    for target in ("builtins.eval", "torch.load", "fmx.data.idx.load_idx", "albumentations.RandomCrop"):
        with pytest.raises(DataError, match=r"augment\.per_image"):
            check_trusted({"augment": {"per_image": {"_target_": target}}}, Path("run"))
