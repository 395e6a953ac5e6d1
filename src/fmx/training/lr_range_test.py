"""The learning-rate range test: at which rates the training loss falls, and from which on it diverges."""

import io
import sys
import tempfile
import warnings
from contextlib import nullcontext, redirect_stderr
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.tuner.tuning import Tuner

from fmx.errors import TrainingError
from fmx.runs.checkpoint_files import CheckpointFiles
from fmx.training.build import build_classifier, build_data, make, without_own_keys
from fmx.training.cluster_environment import cluster_environment
from fmx.training.hardware import resolve_precision
from fmx.training.initial_weights import start_from
from fmx.training.schedule import Schedule

__all__ = ["RangeTest", "lr_range_test"]

SMOOTHED = 0.1  # the share of the steps over which a running mean is taken
NEEDED = 15  # steps before the loss diverges
WITHOUT = ("max_steps", "max_time", "min_epochs", "min_steps", "profiler", "callbacks", "logger")


class RangeTest(NamedTuple):
    """Rates (N,), training losses (N,), their running means (N,), and where these fall fastest and are lowest."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smooth: NDArray[np.float64]
    steepest: float
    lowest: float


def lr_range_test(cfg: DictConfig, *, lowest: float, highest: float, num_steps: int) -> RangeTest:
    """Train for a few steps at a rate that grows exponentially from step to step (Smith, 2017, arXiv:1506.01186).

    Lightning's Tuner does it, and stops where the loss is four times its lowest. Nothing is left on disk. Raises
    TrainingError where no loss falls.
    """
    seed_everything(cfg.seed, workers=True, verbose=False)
    classifier, data = build_classifier(cfg), build_data(cfg)
    if cfg.init is not None:
        start_from(classifier.net, cfg.init, strict=cfg.init_strict)
    if callable(use_class_counts := getattr(classifier.loss, "use_class_counts", None)):
        use_class_counts(torch.tensor(data.class_counts()["train"]))
    classifier.train_metrics.tolerates = True  # the loss may diverge here
    classifier.train_metrics.steps = []  # as Lightning's own losses are smoothed over half of the test
    classifier.make_schedule = Schedule(scheduler=None, interval="step", warmup_epochs=0, warmup_steps=0)
    node = without_own_keys(cfg.trainer)
    quiet = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())  # Lightning's progress bar
    with tempfile.TemporaryDirectory(prefix="fmx-") as folder, quiet, warnings.catch_warnings(action="ignore"):
        trainer = make(
            {key: value for key, value in node.items() if key not in WITHOUT},
            precision=resolve_precision(cfg.trainer.precision, accelerator=cfg.trainer.accelerator, net=classifier.net),
            max_epochs=num_steps,  # an epoch has a step at least
            max_steps=num_steps,
            devices=1,
            num_nodes=1,
            strategy="auto",
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[CheckpointFiles(), cluster_environment({})],
            default_root_dir=folder,
        )
        assert isinstance(trainer, Trainer)
        found = Tuner(trainer).lr_find(
            classifier, datamodule=data, min_lr=lowest, max_lr=highest, num_training=num_steps, update_attr=False
        )
    assert found is not None
    classifier.train_metrics.flush()
    by_step: dict[int, list[float]] = {}
    for step, loss, _ in classifier.train_metrics.steps:
        by_step.setdefault(step, []).append(loss)  # several batches where gradients are accumulated
    rates = np.array([found.results["lr"][step] for step in by_step])
    losses = np.array([np.mean(each) for each in by_step.values()])
    if len(losses) < NEEDED:
        raise TrainingError(
            f"the loss diverged after {len(losses)} steps, at a rate of {found.results['lr'][-1]:.2g}: begin with a "
            "lower rate (--min), or take more steps (--steps)"
        )
    smooth = _running_mean(losses, max(3, round(SMOOTHED * num_steps)))
    best = int(smooth.argmin())
    slopes = np.gradient(smooth, np.log(rates))[: best + 1]
    if slopes.min() >= 0:
        raise TrainingError(f"the loss falls at no rate from {lowest:g} to {highest:g}: try others (--min, --max)")
    return RangeTest(rates, losses, smooth, float(rates[slopes.argmin()]), float(rates[best]))


def _running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The mean of the `width` values around each; of fewer at both ends."""
    weights = np.ones(width)
    summed, counted = (np.convolve(each, weights, mode="same") for each in (values, np.ones_like(values)))
    return np.asarray(summed / counted)
