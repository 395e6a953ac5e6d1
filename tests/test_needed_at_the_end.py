"""What a run needs at its end is tried at its start, and a training that is whole can be tested later."""

import json
import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from fmx.data.module import NUM_CHECKED
from fmx.reporting.tensorboard_views import show_graph

RUN = ["data=image_folder", "data.root=pictures", "data.image_size=28", "data.num_workers=0", "data.validation=4"]
RUN += ["model=mlp", "trainer=smoke", "trainer.max_epochs=1", "hydra.run.dir=run"]


def draw(folder):
    pixels = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for number in range(8):
                picture = Image.fromarray(pixels.integers(0, 256, (28, 28, 3), dtype=np.uint8))
                picture.save(folder / part / name / f"{number}.png")


def test_a_truncated_test_picture_ends_a_run_before_its_first_step(command, tmp_path):
    draw(tmp_path / "pictures")
    damaged = tmp_path / "pictures/test/b/5.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    done = command(*RUN, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test/b/5.png cannot be read as an image" in done.stderr
    assert not (tmp_path / "run/history.csv").exists()
    deep = command("image_folder", "--root", "pictures", "--deep", module="data", cwd=tmp_path)
    assert deep.returncode == 1
    assert "test/b/5.png" in deep.stderr
    damaged.write_bytes(whole)
    again = command("resume=run", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "only the test images have changed" in again.stdout
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "completed"
    (tmp_path / "pictures/train/a/0.png").write_bytes(whole)
    started = command(*RUN[:-1], "hydra.run.dir=other", cwd=tmp_path)
    assert started.returncode == 0, started.stdout + started.stderr


PARTS = """
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers.logger import Logger
from torch.utils.data import Dataset
from torchmetrics import Metric

from fmx.data.digits import load_digits


class Counted(Metric):
    def __init__(self, says):
        super().__init__()
        self.says = says
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, logits, labels):
        self.count += len(labels)

    def compute(self):
        return self.missing if self.says == "fails" else torch.tensor(1 + 2j) if self.says == "complex" else "text"


class Kept(Callback):
    def state_dict(self):
        return {"how": lambda: 1}


class Hook(Callback):
    def on_fit_end(self):
        pass


class Fails(Callback):
    def on_fit_end(self, trainer, pl_module):
        raise KeyError("it is gone")


class Own(Logger):
    name, version = "own", 0

    def __init__(self, at_end):
        super().__init__()
        self.at_end = at_end
        if at_end == "signature":
            self.finalize = lambda: None

    def log_metrics(self, metrics, step):
        pass

    def log_hyperparams(self, *_, **__):
        pass

    def finalize(self, status):
        if self.at_end == "fails":
            raise ConnectionError("the server is gone")


class Late(Dataset):
    def __init__(self, fails, **options):
        arrays = load_digits(**options)
        self.images, self.labels, self.fails = arrays.images, arrays.labels, fails

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if index == len(self) - 1 and self.fails == "raises":
            raise KeyError("no such picture")
        return self.images[index][:, : 28 - (self.fails == "shape")], int(self.labels[index])
"""
SHORT = ["data=digits", "model=mlp", "trainer=smoke", "logger=none", "hydra.run.dir=run"]
# What a run needs at its end: what is broken beforehand, and what it says of that before its first step.
NEEDS = {
    "a name for its figures": ("file run/figures", ["run/figures is no folder"]),
    "a name for its checkpoints": ("file run/checkpoints", ["run/checkpoints is no folder"]),
    "a name for the curves": ("file run/tensorboard", ["run/tensorboard is no folder"]),
    "a name for its metrics": ("folder run/metrics.json", ["run/metrics.json is a folder", "hydra.run.dir=DIR"]),
    "a name for predictions": ("folder run/predictions.npz", ["run/predictions.npz is a folder"]),
    "a name for the report": ("folder run/report.txt", ["run/report.txt is a folder"]),
    "a name for a figure": ("folder run/figures/mistakes.png", ["run/figures/mistakes.png is a folder"]),
    "what draws figures": ("MPLBACKEND=nonsense", ["MPLBACKEND=nonsense", "unset it"]),
    "metrics that compute": (
        "+metrics.own={_target_: parts.Counted, says: fails} & data.validation=none",
        ["metrics.own: Counted fails", "missing"],
    ),
    "metrics that are numbers": (
        "+metrics.own={_target_: parts.Counted, says: complex} & data.validation=none",
        ["metrics.own: Counted fails"],
    ),
    "metrics that are no text": ("+metrics.own={_target_: parts.Counted, says: text}", ["metrics.own", "a str"]),
    "states that checkpoints keep": ("+callbacks.own={_target_: parts.Kept}", ["parts.Kept: its state_dict()"]),
    "callbacks that can be told": ("+callbacks.own={_target_: parts.Hook}", ["Hook.on_fit_end", "when training ends"]),
    "loggers that can be told": (
        "+logger.own={_target_: parts.Own, at_end: signature}",
        ["Own.finalize", "when training ends"],
    ),
    "test pictures": (
        "data.test._target_=parts.Late & +data.test.fails=raises",
        ["data.test: image 359 cannot be made: KeyError", "no such picture"],
    ),
    "test pictures of a size": ("data.test._target_=parts.Late & +data.test.fails=shape", ["shape (1, 27, 28)"]),
}


def parts(tmp_path):
    (tmp_path / "parts.py").write_text(PARTS)
    return {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}


@pytest.mark.parametrize("need", NEEDS)
def test_what_a_run_needs_at_its_end_is_tried_before_its_first_step(command, cold_command, tmp_path, need):
    broken, said = NEEDS[need]
    env, options = parts(tmp_path), []
    if broken.startswith("file "):
        (tmp_path / "run").mkdir()
        (tmp_path / broken.removeprefix("file ")).touch()
    elif broken.startswith("folder "):
        (tmp_path / broken.removeprefix("folder ")).mkdir(parents=True)
    elif broken.startswith("MPLBACKEND="):
        env["MPLBACKEND"] = broken.partition("=")[2]
    else:
        options = broken.split(" & ")
    starts = cold_command if "MPLBACKEND" in env else command  # which has matplotlib imported
    done = starts(*SHORT, *options, cwd=tmp_path, env=env)
    assert done.returncode in {1, 2}, done.stdout + done.stderr
    assert [part for part in said if part not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr
    assert "epoch 1/1" not in done.stdout
    assert not (tmp_path / "run/history.csv").exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("leaderboard.html", ["hydra/launcher=local"]),
        ("search.html", ["hydra/sweeper=search", "hydra.sweeper.n_trials=2"]),
    ],
)
def test_what_a_sweep_and_a_search_need_at_their_end(command, tmp_path, name, options):
    (tmp_path / "sweep" / name).mkdir(parents=True)
    multirun = ["-m", *SHORT[:-1], "optim.lr=0.1,0.2", "hydra.sweep.dir=sweep", *options]
    done = command(*multirun, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"sweep/{name} is a folder" in done.stderr
    assert "hydra.sweep.dir=DIR" in done.stderr
    assert not list((tmp_path / "sweep").glob("*/run.json"))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("+callbacks.own={_target_: parts.Fails}", "KeyError: 'it is gone'"),
        ("+logger.own={_target_: parts.Own, at_end: fails}", "ConnectionError: the server is gone"),
    ],
)
def test_a_training_that_is_whole_is_tested_whoever_fails_at_its_end(command, tmp_path, part, said):
    done = command(*SHORT, part, cwd=tmp_path, env=parts(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"a hook at its end failed ({said}): continuing with the test" in done.stdout
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], record["end_error"]) == ("completed", said)
    assert (tmp_path / "run/figures/mistakes.png").is_file()


def test_a_whole_training_is_tested_once_its_test_pictures_are_mended(command, tmp_path):
    """Of 600 test pictures not all are looked at before; the first error stays on record."""
    draw(tmp_path / "pictures")
    folder = tmp_path / "pictures/test/a"
    whole = (folder / "0.png").read_bytes()
    for picture in folder.iterdir():
        picture.unlink()
    for number in range(600):
        (folder / f"{number:03}.png").write_bytes(whole)
    looked_at = {position * 607 // (NUM_CHECKED - 1) for position in range(NUM_CHECKED)}
    damaged = folder / f"{min({*range(600)} - looked_at):03}.png"
    damaged.write_bytes(whole[: len(whole) // 2])
    done = command(*RUN, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{damaged.name} cannot be read as an image" in done.stderr
    assert (tmp_path / "run/history.csv").exists()
    steps = (tmp_path / "run/history.csv").read_text()
    again = command("resume=run", cwd=tmp_path)
    assert again.returncode == 1, again.stdout + again.stderr
    damaged.write_bytes(whole)
    written = (tmp_path / "run/run.json").read_text()
    old = json.loads(written)
    del old["data"]["train_fingerprint"]
    (tmp_path / "run/run.json").write_text(json.dumps(old))
    refused = command("resume=run", cwd=tmp_path)
    assert refused.returncode == 1, refused.stdout
    assert "recorded no separate hash of its training images" in refused.stderr
    (tmp_path / "run/run.json").write_text(written)
    last = command("resume=run", cwd=tmp_path)
    assert last.returncode == 0, last.stdout + last.stderr
    assert "only the test images have changed" in last.stdout
    assert (tmp_path / "run/history.csv").read_text() == steps
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "completed"
    assert [damaged.name in str(part["error"]) for part in record["parts"]] == [True, True]
    assert record["error"] is None


def test_a_network_that_fails_where_it_is_traced_has_no_graph_and_a_line_says_so(tmp_path, caplog):
    class Alone(torch.nn.Module):
        def forward(self, images):
            raise LookupError(f"not for {len(images)} image")

    caplog.set_level(logging.INFO)
    show_graph(TensorBoardLogger(tmp_path), Alone(), (1, 28, 28))
    assert "TensorBoard has no graph of this network: not for 1 image" in caplog.text
