"""Missing or damaged data and checkpoints, and a loss that breaks: plain lines, exit code 1, and nothing harmed."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fmx.errors import DataError
from fmx.models.lenet import LeNet
from fmx.models.mlp import MLP
from fmx.runs.checkpoint_files import load_weights

COMMON = ["model=mlp", "data.root=data", "hydra.run.dir=run"]
IDX = [
    "data=mnist",
    "data.image_size=4",
    "data.num_classes=2",
    "data.class_names=[a,b]",
    "data.validation=0.25",
    *COMMON,
]
ANY_SUM = [
    f"data.{part}.{kind}.{form}=null"
    for part in ("train", "test")
    for kind in ("images", "labels")
    for form in ("md5", "gz_md5")
]
CSV = ["data=fashion_mnist_csv", "data.image_size=2", *COMMON]
FOLDER = ["data=image_folder", "data.image_size=8", "data.validation=0.25", *COMMON]
NO_MIRROR = "data.train.mirrors=[http://127.0.0.1:9/]"  # nobody listens there

SPOILED_LOSS = """
import torch
from torch import nn


class Spoiled(nn.Module):
    def __init__(self, good_steps):
        super().__init__()
        self.good_steps = good_steps

    def forward(self, logits, labels):
        self.good_steps -= self.training
        return nn.functional.cross_entropy(logits, labels) * (torch.nan if self.good_steps < 0 else 1)
"""


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failure(done, cwd: Path, *, run_json: bool = True) -> str:
    """What a failed command says, once it is sure that it says it plainly and left nothing half-written."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) <= 3, done.stderr
    assert [path for path in cwd.rglob("*") if path.suffix in {".tmp", ".part"}] == []
    assert (cwd / "run").exists() == run_json
    if run_json:
        record = json.loads((cwd / "run/run.json").read_text())
        assert record["status"] == "failed"
        assert record["error"] == done.stderr.strip()
    return done.stderr


def idx(array: np.ndarray, *, count: int | None = None) -> bytes:
    shape = (len(array) if count is None else count, *array.shape[1:])
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *shape) + array.tobytes()


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
LABELS = np.arange(40, dtype=np.uint8) % 2
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "sums", "said"),
    [
        (f"{TRAIN_IMAGES}.gz", gzip.compress(idx(PIXELS))[:-30], ANY_SUM, ["cannot be read", "delete it"]),
        (f"{TRAIN_LABELS}.gz", gzip.compress(idx(LABELS)), [], ["is damaged or another file", "MD5", "gz_md5 to null"]),
        (TRAIN_IMAGES, idx(PIXELS, count=50), ANY_SUM, ["header says 50 items", "length"]),
        (TRAIN_IMAGES, idx(PIXELS, count=30), ANY_SUM, ["longer than the 30 items", "header"]),
        (TRAIN_IMAGES, idx(PIXELS.reshape(40, 8, 2)), ANY_SUM, ["8 x 2 pixels", "data.image_size", "4 x 4"]),
        (TRAIN_IMAGES, idx(PIXELS[:39]), ANY_SUM, ["39 images", "40 labels"]),
        (TRAIN_LABELS, idx(LABELS + 6), ANY_SUM, ["label 6 at position 0", "data.num_classes"]),
        (TRAIN_LABELS, b"<html>not found</html>", ANY_SUM, ["no IDX file"]),
    ],
    ids=["truncated", "wrong sum", "too short", "too long", "other shape", "other count", "bad label", "no IDX"],
)
def test_damaged_idx(command, tmp_path, *, name, content, sums, said):
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(PIXELS))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (raw / name.removesuffix(".gz")).unlink()
    (raw / name).write_bytes(content)
    before = contents(tmp_path)
    message = failure(command(*IDX, *sums, cwd=tmp_path), tmp_path)
    assert [part for part in [f"data/MNIST/raw/{name}", *said] if part not in message] == [], message
    assert contents(tmp_path / "data") == before


@pytest.mark.parametrize("data", ["data=fashion_mnist", "data=fashion_mnist_csv"])
def test_missing_data_without_a_network(command, tmp_path, data):
    mirror = [NO_MIRROR] if data == "data=fashion_mnist" else []
    message = failure(command(data, *COMMON, *mirror, cwd=tmp_path, env={"no_proxy": "*"}), tmp_path)
    other = {"data=fashion_mnist": "data=fashion_mnist_csv", "data=fashion_mnist_csv": "data=fashion_mnist"}[data]
    ways_out = ["is missing", "Ways out", "data.root=DIR", "FMX_DATA_ROOT=DIR", f"{other} (", "data=digits"]
    assert [part for part in ways_out if part not in message] == [], message
    assert not (tmp_path / "data").exists()


HEADER = "label,pixel1,pixel2,pixel3,pixel4"
ROWS = [f"{row % 10},{row},0,255,7" for row in range(40)]


@pytest.mark.parametrize(
    ("part", "lines", "said"),
    [
        (
            "train",
            ["label,pixel1,pixel2,pixel4", *ROWS],
            ["line 1", "lacks the column 'pixel3'", "label,pixel1..pixel4"],
        ),
        ("train", [HEADER, *ROWS[:2], "3,1,x,2,3"], ["line 4, column pixel2: 'x' is not a whole number from 0 to 255"]),
        ("train", [HEADER, *ROWS, "3,1,2,300,3"], ["line 42, column pixel3: 300 is outside 0..255"]),
        ("test", [HEADER, *ROWS, "12,1,2,3,4"], ["line 42, column label: 12 is outside 0..9"]),
        ("train", [HEADER, *ROWS, "1,2,3"], ["line 42: 3 fields, but 5 columns"]),
        ("test", [HEADER], ["no rows"]),
    ],
)
def test_bad_csv(command, tmp_path, part, lines, said):
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        text = "\n".join(lines if name == part else [HEADER, *ROWS]) + "\n"
        (tmp_path / f"data/fashion-mnist_{name}.csv").write_text(text)
    before = contents(tmp_path)
    message = failure(command(*CSV, cwd=tmp_path), tmp_path)
    assert [part for part in [f"data/fashion-mnist_{part}.csv", *said] if part not in message] == [], message
    assert contents(tmp_path / "data") == before


TABLE = "\n".join([HEADER, *ROWS]) + "\n"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (TABLE.replace(",", ";").encode(), "line 1: its columns are separated by semicolons: save it with commas"),
        (TABLE.replace(",", "\t").encode(), "line 1: its columns are separated by tabs: save it with commas"),
        (TABLE.encode("utf-16"), "is text in UTF-16, as some programs save it: save it as UTF-8"),
        (TABLE.encode("utf-16-be"), "is text in UTF-16"),
        (
            TABLE.partition("\n")[2].encode(),
            "line 1 holds numbers where the header must be: put a line label,pixel1..pixel4 in",
        ),
        (f"{TABLE}10,1,2,3,4\n".encode(), "label: 10 is outside 0..9; labels begin at 0: where these begin at 1"),
    ],
)
def test_tables_of_other_programs(command, tmp_path, written, said):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/fashion-mnist_train.csv").write_bytes(written)
    (tmp_path / "data/fashion-mnist_test.csv").write_text(TABLE)
    message = failure(command(*CSV, cwd=tmp_path), tmp_path)
    assert "data/fashion-mnist_train.csv" in message
    assert said in message


@pytest.fixture
def images(tmp_path) -> Path:
    """Two classes of twelve images, for training and for the test."""
    for part in ("train", "test"):
        for shade, name in enumerate("ab"):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(12):
                Image.new("RGB", (8, 8), (200 * shade, 10 * number, 0)).save(folder / f"{number}.png")
    return tmp_path / "data"


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("part", ["train", "test"])
def test_an_unreadable_image_is_named(command, tmp_path, images, part, num_workers):
    for name in ("a", "b"):  # whatever is shown before the training, the last image comes with the loader
        (images / part / name / "11.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    before = contents(images)
    done = command(*FOLDER, "trainer.max_epochs=1", f"data.num_workers={num_workers}", cwd=tmp_path)
    message = failure(done, tmp_path)
    assert any(f"data/{part}/{name}/11.png " in message for name in "ab"), message
    assert "replace or remove it" in message
    assert contents(images) == before


def test_an_empty_class_folder(command, tmp_path, images):
    for file in (images / "train/b").iterdir():
        file.unlink()
    message = failure(command(*FOLDER, cwd=tmp_path), tmp_path)
    assert "data/train/b holds no images" in message


def test_a_class_whose_name_is_written_in_other_code_points(command, tmp_path, images):
    for part, name in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
        (images / part / "b").rename(images / part / name)
    message = failure(command(*FOLDER, cwd=tmp_path), tmp_path)
    assert "looks like the class 'caf\u00e9' but is written with other code points" in message
    assert r"'cafe\u0301', not 'caf\xe9'" in message


def test_a_class_without_a_training_image_has_its_name(command, tmp_path, images):
    for number in range(1, 12):
        (images / f"train/b/{number}.png").unlink()
    done = command(*FOLDER, "data.validation=1", "data.split=tail", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "leaves no training image of class 'b' (label 1); use data.split=stratified" in done.stderr


def test_no_image_folder(command, tmp_path):
    message = failure(command(*FOLDER, cwd=tmp_path), tmp_path, run_json=False)
    assert "data/train" in message
    assert "data.root=DIR" in message


@pytest.fixture(scope="module")
def spoiled(command, tmp_path_factory):
    """A run whose loss becomes NaN in its third epoch: what it said, and its folder."""
    folder = tmp_path_factory.mktemp("spoiled")
    (folder / "my_losses.py").write_text(SPOILED_LOSS)
    (folder / "conf/loss").mkdir(parents=True)
    (folder / "conf/loss/spoiled.yaml").write_text("_target_: my_losses.Spoiled\ngood_steps: 45\n")
    overrides = [
        "data=digits",
        "model=mlp",
        "augment=none",
        "loss=spoiled",
        "trainer.max_epochs=5",
        "hydra.run.dir=run",
    ]
    done = command("--config-dir=conf", *overrides, cwd=folder, env={"PYTHONPATH": str(folder)})
    return done, folder


def test_a_loss_that_becomes_nan_stops_and_keeps_the_last_good_checkpoint(spoiled):
    done, folder = spoiled
    message = failure(done, folder)
    assert "the training loss became nan at step 46" in message  # of 20 an epoch
    assert "optim.lr" in message
    for name in ("best", "last"):
        checkpoint = torch.load(folder / f"run/checkpoints/{name}.ckpt", weights_only=True)
        assert checkpoint["global_step"] in {20, 40}
        assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())
    history = (folder / "run/history.csv").read_text()
    assert len(history.splitlines()) == 3
    assert "nan" not in history


SHAPE = {"in_channels": 1, "num_classes": 10, "image_size": 28}


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (LeNet(**SHAPE, widths=[6, 16], hidden_sizes=[120, 84]), "it has no weights 'net."),
        (MLP(**SHAPE, hidden_sizes=[300, 50]), r"has shape \(100, 300\) there and \(50, 300\) here"),
        (nn.Module(), "it has weights 'net.* that the model lacks"),
    ],
)
def test_a_checkpoint_of_another_model(spoiled, net, said):
    path = spoiled[1] / "run/checkpoints/last.ckpt"
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    with pytest.raises(DataError, match=f"last.ckpt does not fit this model: .*{said}"):
        load_weights(nn.ModuleDict({"net": net}), path)
    assert all(weight.equal(before[name]) for name, weight in net.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 and nonsense"])
def test_a_damaged_checkpoint(tmp_path, content):
    (tmp_path / "best.ckpt").write_bytes(content)
    with pytest.raises(DataError, match=r"best.ckpt cannot be read as a checkpoint"):
        load_weights(nn.Module(), tmp_path / "best.ckpt")


@pytest.mark.parametrize("damaged", [True, False])
def test_weights_that_do_not_fit(command, tmp_path, spoiled, damaged):
    path = spoiled[1] / "run/checkpoints/last.ckpt"
    if damaged:
        path = tmp_path / "weights.pt"
        path.write_bytes(b"nonsense")
    overrides = ["data=digits", "model=pretrained", f"model.net.weights={path}", "hydra.run.dir=run"]
    message = failure(command(*overrides, cwd=tmp_path), tmp_path, run_json=False)
    assert str(path) in message
    assert "model.net.weights=null" in message


def test_more_validation_images_than_there_are(command, tmp_path):
    done = command("data=digits", "model=mlp", "data.validation=5000", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert "data.validation=5000 leaves none of the 1,437 training images" in done.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"
