"""Images that are no squares: `data.image_size=[height, width]`, from the data to the model card."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

import fmx
from fmx.config.image_size import as_override, height_and_width, shortest_form
from fmx.config.trust import check_sizes
from fmx.data.csv_images import load_csv
from fmx.data.digits import load_digits
from fmx.data.in_memory import in_memory
from fmx.errors import ConfigError, DataError
from fmx.inference.scoring import Predictions
from fmx.reporting.tensorboard_views import _sprites, show_embedding
from fmx.training.build import make
from test_models import MODELS, SIZED, build

SIZE = (20, 32)
RUN = ["data=digits", "data.image_size=[20,32]", "model=lenet", "augment=erasing", "trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def oblong(command, tmp_path_factory):
    """A run on digits of 20 x 32 pixels, with everything that a run writes."""
    folder = tmp_path_factory.mktemp("oblong")
    done = command(*RUN, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


@pytest.mark.parametrize("size", [28, [20, 28]])
def test_a_size_is_one_number_or_two(size):
    height, width = height_and_width(size)
    assert (height, width) in {(28, 28), (20, 28)}
    assert shortest_form([height, width]) == size
    assert as_override(size) in {"data.image_size=28", "'data.image_size=[20,28]'"}


@pytest.mark.parametrize("size", ["[20,28,3]", "[28]", "[]", "0", "-1", "28.5", "[28,0]", "[28,2.5]", "true", "big"])
def test_any_other_size_is_refused_before_there_is_a_run(size, command, tmp_path):
    done = command("data=digits", f"data.image_size={size}", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert "data.image_size must be a whole number of at least 1 for squares, or [height, width], got" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_oblong_images(name):
    model = build(name, image_size=[40, 28])
    assert model(torch.randn(3, 1, 40, 28)).shape == (3, 10)
    square = sum(p.numel() for p in build(name, image_size=[28, 28]).parameters())
    assert square == sum(p.numel() for p in build(name, image_size=28).parameters())


@pytest.mark.parametrize("name", SIZED)
def test_too_short_a_side_is_named(name):
    with pytest.raises(ValueError, match=rf"for '{name}', got \[4, 60\]; use .* 'data.image_size=\[28,60\]'"):
        build(name, image_size=[4, 60])


def test_networks_that_take_squares_alone_say_so(command, tmp_path):
    with pytest.raises(ValueError, match=r"32 x 48 pixels, only squares of 224; use model.net.resize=224$"):
        build("pretrained", image_size=[32, 48], architecture="vit_b_32")
    assert build("pretrained", image_size=[32, 48], resize=[64, 48])(torch.randn(2, 1, 32, 48)).shape == (2, 10)
    (tmp_path / "own/model").mkdir(parents=True)
    (tmp_path / "squares.py").write_text(
        "from torch import nn\n\n\nclass Squares(nn.Sequential):\n    def __init__(self, image_size):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(image_size**2, 10))\n\n\n"
        "class Typed(Squares):\n    def __init__(self, image_size: int):\n        super().__init__(image_size)\n\n\n"
        "class Fixed(Squares):\n    def __init__(self, image_size):\n        super().__init__(28)\n"
    )
    said = {
        "Squares": "model=own, with image_size=[20, 28]: unsupported operand",
        "Typed": "model.net.image_size must be int, got [20, 28]: it takes squares alone, data.image_size=N",
        "Fixed": "if the network takes squares alone, type data.image_size=28",
    }
    for kind, line in said.items():
        (tmp_path / "own/model/own.yaml").write_text(
            f"name: own\nnet: {{_target_: squares.{kind}, image_size: '${{data.image_size}}'}}\n"
        )
        done = command(
            "--config-dir", "own", "data=digits", "model=own", "data.image_size=[20,28]", "--dry-run",
            cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 2, kind
        assert line in done.stderr
        assert kind == "Typed" or "squares alone, type data.image_size=28" in done.stderr


def test_sources_give_height_and_width_in_that_order(tmp_path):
    digits = load_digits(part="test", num_test=360, test_seed=0, image_size=SIZE)
    assert digits.images.shape == (360, 1, *SIZE)
    square = load_digits(part="test", num_test=360, test_seed=0, image_size=20).images
    assert (digits.images.float().mean((0, 1, 3)) - square.float().mean((0, 1, 3))).abs().max() < 5
    with pytest.raises(ConfigError, match=r"at most 512, got \[8, 600\]"):
        load_digits(part="test", num_test=360, test_seed=0, image_size=[8, 600])
    names = ",".join(["label", *(f"pixel{k}" for k in range(1, 7))])
    (tmp_path / "x.csv").write_text(f"{names}\n1,1,2,3,4,5,6\n")
    read = load_csv(file=str(tmp_path / "x.csv"), image_size=[2, 3], num_classes=2, instead=[])
    assert read.images.tolist() == [[[[1, 2, 3], [4, 5, 6]]]]
    picture = Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 9, axis=1))
    whole = in_memory(dataset=[(picture, 0)], in_channels=1, image_size=[2, 3])
    assert whole.images.tolist() == [[[[0] * 3, [255] * 3]]]


def test_augmentations_keep_the_shape():
    images = torch.full((64, 1, 12, 30), 9, dtype=torch.uint8)
    for name in ("flip", "crop_flip", "erasing", "none"):
        augment = make(OmegaConf.load(Path(__file__).parents[1] / f"conf/augment/{name}.yaml"))
        assert augment(images).shape == images.shape
        assert augment(images).dtype == torch.uint8


def test_a_run_on_oblong_images_writes_and_reads_everything(oblong, command, tmp_path):
    assert json.loads((oblong / "run.json").read_text())["status"] == "completed"
    assert {"samples", "predictions", "mistakes"} <= {path.stem for path in (oblong / "figures").glob("*.png")}
    scored = command(str(oblong), module="evaluate", cwd=tmp_path)
    assert "identical to metrics.json, to the last digit" in scored.stdout
    other = command(str(oblong), "--set", "data.image_size=[32,20]", module="evaluate", cwd=tmp_path)
    assert other.returncode != 0
    assert "the changed data has data.image_size=[32, 20], but the run was trained with [20, 32]" in other.stderr
    again = command(str(oblong), module="reproduce", cwd=tmp_path)
    assert "identical: history, metrics" in again.stdout


def test_oblong_models_are_exported_and_predict(oblong, command, tmp_path):
    Image.fromarray(load_digits(part="test", num_test=360, test_seed=0, image_size=[40, 90]).images[0, 0].numpy()).save(
        tmp_path / "wide.png"
    )
    run = fmx.open_run(oblong)
    said = run.predict(tmp_path / "wide.png")
    test = load_digits(part="test", num_test=360, test_seed=0, image_size=SIZE)
    assert np.allclose(run.predict(test.images.numpy()).probabilities.argmax(1), run.predictions.logits.argmax(1))
    with pytest.raises(ConfigError, match=r"images must be \(N, 1, 20, 32\) or \(N, 20, 32\), got \(2, 32, 20\)"):
        run.predict(np.zeros((2, 32, 20), np.uint8))
    done = command(str(oblong), "--out", "m.onnx", module="export", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Pixels uint8 (N, 1, 20, 32)" in (tmp_path / "m.onnx.md").read_text()
    named = command("m.onnx", "wide.png", "--csv", "said.csv", module="predict", cwd=tmp_path)
    assert named.returncode == 0, named.stderr
    assert f",{said.names[0]}," in (tmp_path / "said.csv").read_text()


def test_a_picture_of_the_embedding_keeps_its_proportions():
    (sprite,) = _sprites([torch.full((1, 10, 40), 255, dtype=torch.uint8)])
    assert sprite.shape == (1, 28, 28)
    assert sprite.sum(2)[0].ne(0).sum() == 7
    assert _sprites([torch.full((3, 9, 9), 255, dtype=torch.uint8)]).eq(1).all()


@pytest.mark.parametrize(("num", "shape"), [(7, (1, 9, 40)), (50, (3, 32, 32)), (1200, (4, 8, 8))])
@pytest.mark.filterwarnings("ignore")  # of TensorBoard's own writer
def test_the_embedding_is_what_tensorboards_own_writer_writes(tmp_path, num, shape):
    pictures = torch.randint(0, 256, (num, *shape), dtype=torch.uint8)
    test = Predictions(labels=torch.arange(num) % 3, logits=torch.randn(num, 3), indices=torch.arange(num))
    names = ["T恤", "b c", "d"]
    shown = torch.linspace(0, num - 1, min(num, 1000)).long()
    ours, theirs = (TensorBoardLogger(tmp_path, name="", version=version) for version in ("ours", "theirs"))
    for logger in (ours, theirs):  # a callback's own comes first
        logger.experiment.add_embedding(torch.eye(3), global_step=1, tag="own")
    show_embedding(ours, test, pictures, names, step=40)
    theirs.experiment.add_embedding(
        test.logits[shown],
        metadata=[names[label] for label in test.labels[shown].tolist()],
        label_img=_sprites([pictures[int(position)] for position in shown]),
        global_step=40,
        tag="test",
    )
    written = {path for path in (tmp_path / "theirs").rglob("*") if path.is_file() and "events" not in path.name}
    assert len(written) == 5
    for path in written:
        own = tmp_path / "ours" / path.relative_to(tmp_path / "theirs")
        if path.suffix == ".png":
            assert np.array_equal(np.asarray(Image.open(own)), np.asarray(Image.open(path)))
        else:
            assert own.read_bytes() == path.read_bytes()


def test_sizes_from_elsewhere_are_bounded():
    for size, said in (([10**6, 10**6], "numbers"), ([2, 2, 2], "neither a count nor two"), ([0, 5], "neither")):
        with pytest.raises(DataError, match=said):
            check_sizes({"image_size": size}, Path("run"))
        with pytest.raises(DataError, match=f"data.train.*{said}"):
            check_sizes({"image_size": 4, "train": {"image_size": size}}, Path("run"))
    check_sizes({"image_size": [10**4, 10**4]}, Path("run"))
