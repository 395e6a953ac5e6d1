"""`callbacks=[default,ema]`: what the average is, that it is worth having early, and that runs with it go on."""

import json
import signal
import warnings

import pandas as pd
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader

from fmx.training.callbacks.ema import EMA
from fmx.training.callbacks.nonfinite import SkipNonfinite
from same_runs import assert_same

pytestmark = pytest.mark.usefixtures("no_figures")

PLAIN = "callbacks.ema._target_=pytorch_lightning.callbacks.EMAWeightAveraging"


class Falling(LightningModule):
    """One weight, of which each step takes 1: 0, -1, -2, …; its counter rises alike."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(1))

    def training_step(self, *_):
        self.steps += 1
        self.mean.copy_(self.steps)
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Skips(SkipNonfinite):
    """Leaves out one step, as SkipNonfinite does."""

    def __init__(self, at):
        super().__init__(max_steps=9)
        self.at = at

    def on_fit_start(self, *_):
        pass

    def on_train_batch_start(self, *_):
        pass

    def on_before_optimizer_step(self, trainer, module, *_):
        if trainer.global_step == self.at:
            module.weight.grad = None
            self.skipped += 1


def averages(tmp_path, *callbacks, steps, **options):
    """The last average of the weight and of both buffers after so many steps."""
    module = Falling()
    with warnings.catch_warnings(action="ignore"):  # Lightning's advice about workers, and its own deprecations
        trainer = Trainer(
            callbacks=[*callbacks], max_steps=steps, accelerator="cpu", default_root_dir=tmp_path, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **options,
        )  # fmt: skip
        trainer.fit(module, DataLoader(torch.zeros(100, 1)))
    return [each.item() for each in (module.weight, module.mean, module.steps)]


def expected(values, decay):
    average = values[0]
    for num, value in enumerate(values[1:], start=1):
        kept = min(decay, (1 + num) / (10 + num))
        average = kept * average + (1 - kept) * value
    return average


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 1.0])
def test_the_decay_warms_up(tmp_path, decay):
    weights = [-float(step) for step in range(1, 31)]
    weight, mean, steps = averages(tmp_path, EMA(decay=decay, update_every_n_steps=1), steps=30)
    assert weight == pytest.approx(expected(weights, decay))
    assert mean == pytest.approx(-weight)  # what batch norm keeps is averaged alike
    assert steps == 30
    (weight, *_) = averages(tmp_path, EMA(decay=decay, update_every_n_steps=4), steps=30)
    assert weight == pytest.approx(expected(weights[::4], decay))
    (weight, *_) = averages(
        tmp_path, EMA(decay=decay, update_every_n_steps=1), steps=10, accumulate_grad_batches=3
    )  # fmt: skip
    assert weight == pytest.approx(expected(weights[:10], decay))


@pytest.mark.parametrize("batches", [1, 3])
def test_a_skipped_step_does_not_count(tmp_path, batches):
    ema = EMA(decay=0.999, update_every_n_steps=1)
    (weight, *_) = averages(tmp_path, Skips(at=5), ema, steps=12, accumulate_grad_batches=batches)
    assert weight == pytest.approx(expected([-float(step) for step in range(1, 12)], 0.999))


@pytest.mark.parametrize("parts", [["model=mlp", "optim.lr=0.005"], ["model=resnet20", "model.net.width=4"]])
def test_three_epochs_with_it_are_no_worse(command, tmp_path, parts):
    """Already the first validation is near that of the weights themselves; decay 0 is the weights, to the bit."""
    run = ["data=digits", *parts, "trainer.max_epochs=3", "data.batch_size=16", "logger=none"]
    for name, more in {
        "without": [],
        "with": ["callbacks=[default,ema]"],
        "zero": ["callbacks=[default,ema]", "callbacks.ema.decay=0"],
        "one": ["callbacks=[default,ema]", "callbacks.ema.decay=1"],
    }.items():
        done = command(*run, *more, f"hydra.run.dir={name}", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    accuracy = {
        path.parent.name: json.loads(path.read_text())["test"]["accuracy"] for path in tmp_path.glob("*/metrics.json")
    }
    assert accuracy["without"] > 0.7
    assert accuracy["with"] > accuracy["without"] - 0.04
    assert accuracy["one"] > accuracy["without"] - 0.04
    rows = {name: pd.read_csv(tmp_path / name / "history.csv") for name in accuracy}
    assert rows["with"]["val/accuracy"][0] > rows["without"]["val/accuracy"][0] - 0.1
    assert rows["with"]["train/loss"].equals(rows["without"]["train/loss"])  # the training itself is the same
    assert_same(tmp_path / "zero", tmp_path / "without")


@pytest.mark.parametrize("decay", ["-0.1", "1.5", "null"])
def test_an_impossible_decay_is_refused(command, tmp_path, decay):
    done = command("data=digits", "callbacks=[default,ema]", f"callbacks.ema.decay={decay}", cwd=tmp_path)
    assert done.returncode == 2
    assert "callbacks.ema.decay must be a number from 0 to 1, got" in done.stderr


def test_a_run_from_before_the_warm_up_goes_on_without_it(command, tmp_path):
    """To the bit as it would have ended then, and its records say so."""
    run = ["data=digits", "model=mlp", "data.batch_size=64", "trainer.max_epochs=30", "callbacks=[default,ema]"]
    run += ["logger=none", "callbacks.ema.decay=0.9"]
    whole = command(*run, PLAIN, "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    folder = tmp_path / "outputs/runs/cut"
    sent = (folder / "checkpoints/previous.ckpt", signal.SIGTERM)
    done = command(*run, PLAIN, f"hydra.run.dir={folder}", cwd=tmp_path, send=sent)
    assert done.returncode == 143, done.stdout + done.stderr
    record = json.loads((folder / "run.json").read_text())
    record["overrides"].remove(PLAIN)  # then it was the only class there was
    del record["format"]
    (folder / "run.json").write_text(json.dumps(record))
    done = command(*run, "resume=auto", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step" in done.stdout
    assert_same(folder, tmp_path / "whole")
    assert [path.name for path in folder.parent.iterdir()] == ["cut"]
    assert "_target_: fmx.training.callbacks.ema.EMA" in (folder / ".hydra/resolved.yaml").read_text()


def test_the_class_of_lightning_reads_what_ours_wrote():
    ours, theirs = EMA(decay=0.5, update_every_n_steps=1), EMAWeightAveraging(decay=0.5)
    assert ours.state_key == theirs.state_key
    assert theirs.state_dict().items() <= ours.state_dict().items()
