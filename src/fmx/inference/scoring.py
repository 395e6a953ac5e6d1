"""The final metrics: predictions of one checkpoint in float32, and all metrics of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from torch import Tensor

from fmx.compat import look_up_callbacks_once
from fmx.data.module import ImageDataModule, Part
from fmx.errors import first_line
from fmx.process.exits import expected_error, interruption
from fmx.runs.checkpoint_files import load_weights
from fmx.runs.predictions import read_predictions
from fmx.training.build import Experiment
from fmx.training.callbacks.collect_predictions import CollectPredictions
from fmx.training.classifier import Classifier
from fmx.training.cluster_environment import cluster_environment
from fmx.training.counts import plain_metrics

log = logging.getLogger(__name__)

__all__ = ["Predictions", "Scores", "predict", "score", "test"]


@dataclass(frozen=True)
class Predictions:
    """A model's predictions on one part of the data."""

    labels: Tensor  # int64 (N,)
    logits: Tensor  # float32 (N, K)
    indices: Tensor  # int64 (N,), positions in the official set

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read a run's predictions.npz; DataError if it is missing or damaged."""
        stored = read_predictions(path.parent)
        labels, logits, indices = map(torch.from_numpy, (stored.labels, stored.logits, stored.indices))
        return cls(labels=labels, logits=logits, indices=indices)

    def save(self, path: Path) -> None:
        """Write predictions.npz."""
        np.savez(path, labels=self.labels.numpy(), logits=self.logits.numpy(), indices=self.indices.numpy())


@dataclass(frozen=True)
class Scores:
    """The metrics of metrics.json, and the predictions on the test and the validation images that they come from."""

    metrics: dict[str, Any]
    predictions: Predictions
    held_out: Predictions | None


def test(experiment: Experiment, checkpoint: Path) -> Scores:
    """Load the chosen checkpoint, and evaluate it on the validation set, and once on the test set."""
    classifier, data, trainer = experiment.classifier, experiment.data, experiment.trainer
    device = trainer.strategy.root_device
    load_weights(classifier, checkpoint)
    metrics: dict[str, Any] = {"val": None}
    held_out = None
    with experiment.record.timed("test_s"):
        if data.has_validation:
            held_out = predict(classifier, data, "val", device=device, limit=trainer.limit_val_batches)
            metrics["val"] = score(held_out, classifier, data.class_names)
        predictions = _tested(experiment, device)
        metrics["test"] = score(predictions, classifier, data.class_names)
    chosen_by_validation = data.has_validation and checkpoint.stem == "best"
    metrics["selected_on"] = ("test" if data.validation == "test" else "val") if chosen_by_validation else "last"
    metrics["validation"] = data.validation
    return Scores(metrics, predictions, held_out)


def _tested(experiment: Experiment, device: torch.device) -> Predictions:
    """The predictions on the test set, while callbacks that have test hooks see them; one that fails costs no test."""
    trainer = experiment.trainer
    watching = [each for each in trainer.callbacks if _sees_the_test(each)]  # type: ignore[attr-defined]
    if watching:
        try:
            return _predict_watched(experiment, watching, device=device)
        except Exception as error:
            if expected_error(error) is not None or interruption(error) is not None:
                raise
            what = f"{type(error).__name__}: {first_line(error)}"
            log.warning("a test hook of a callback failed (%s): testing without", what)
            experiment.record.update(end_error=what)
    limit = trainer.limit_test_batches
    return predict(experiment.classifier, experiment.data, "test", device=device, limit=limit)


def _sees_the_test(callback: Callback) -> bool:
    """Whether a callback that is not fmx's has a test hook, of its class or its own; the test shows no progress bar."""
    if type(callback).__module__.startswith("fmx.") or isinstance(callback, ProgressBar):
        return False
    return any(
        name in vars(callback) or getattr(type(callback), name) is not getattr(Callback, name)
        for name in dir(Callback)
        if name.startswith("on_test_")
    )


def _predict_watched(experiment: Experiment, watching: Sequence[Callback], *, device: torch.device) -> Predictions:
    """As `predict`, in Lightning's test loop, with the run's loggers, step and epoch.

    Its callback_metrics hold test/loss and the other figures from on_test_epoch_end on.
    """
    classifier, data, fitted = experiment.classifier, experiment.data, experiment.trainer
    collected = CollectPredictions(len(data.indices["test"]))
    trainer = _one_process(
        device,
        logger=fitted.loggers,
        limit_test_batches=fitted.limit_test_batches,
        callbacks=[collected, _TestFigures(collected, data), *watching],
        default_root_dir=experiment.run_dir,
    )
    trainer.fit_loop.load_state_dict(fitted.fit_loop.state_dict())
    trainer.test(classifier, datamodule=data, verbose=False)
    return _predictions(collected, data.indices["test"])


class _TestFigures(Callback):
    """Computes the test figures once all batches are seen, for callbacks that come later; loggers get them from fmx."""

    def __init__(self, collected: CollectPredictions, data: ImageDataModule) -> None:
        self.collected = collected
        self.data = data

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 - Lightning's
        """Log each figure as test/NAME, to the callback metrics alone."""
        assert isinstance(pl_module, Classifier)
        predictions = _predictions(self.collected, self.data.indices["test"])
        figures = score(predictions, pl_module, self.data.class_names)
        named = {f"test/{name}": value for name, value in figures.items() if isinstance(value, float)}
        pl_module.log_dict(named, logger=False)


def _predictions(collected: CollectPredictions, indices: Tensor) -> Predictions:
    logits, labels = (each[: collected.count] for each in collected.arrays)
    return Predictions(labels=labels, logits=logits, indices=indices[: collected.count])


def _one_process(device: torch.device, **options: Any) -> Trainer:
    """A Trainer of one process on one device in float32, even within a distributed job."""
    with look_up_callbacks_once():
        return Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index or 0] if device.type != "cpu" else 1,
            precision="32-true",
            plugins=[cluster_environment({})],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **options,
        )


def predict(
    classifier: Classifier, data: ImageDataModule, part: Part, *, device: torch.device, limit: float = 1.0
) -> Predictions:
    """Run a classifier over one part of the data, on one device, in float32 whatever the training precision.

    limit: the share or count of batches, as Lightning's limit_predict_batches.
    """
    collected = CollectPredictions(len(data.indices[part]))
    trainer = _one_process(device, logger=False, limit_predict_batches=limit, callbacks=[collected])
    data.predict_part = part
    trainer.predict(classifier, datamodule=data, return_predictions=False)
    return _predictions(collected, data.indices[part])


def score(predictions: Predictions, classifier: Classifier, class_names: Sequence[str]) -> dict[str, Any]:
    """Return loss, accuracy, macro_f1, per_class and the other metrics of the metrics group, as plain numbers."""
    with torch.inference_mode():
        loss = classifier.loss.cpu().eval()(predictions.logits, predictions.labels)
    metrics = plain_metrics(classifier.val_metrics, predictions.logits, predictions.labels, class_names)
    return {"loss": float(loss)} | metrics
