"""The final metrics: predictions of one checkpoint in float32, and all metrics of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from fmx.data.module import ImageDataModule, Part
from fmx.runs.checkpoint_files import load_weights
from fmx.runs.predictions import read_predictions
from fmx.training.build import Experiment
from fmx.training.callbacks.collect_predictions import CollectPredictions
from fmx.training.classifier import Classifier
from fmx.training.cluster_environment import cluster_environment
from fmx.training.counts import plain_metrics

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
        predictions = predict(classifier, data, "test", device=device, limit=trainer.limit_test_batches)
        metrics["test"] = score(predictions, classifier, data.class_names)
    chosen_by_validation = data.has_validation and checkpoint.stem == "best"
    metrics["selected_on"] = ("test" if data.validation == "test" else "val") if chosen_by_validation else "last"
    metrics["validation"] = data.validation
    return Scores(metrics, predictions, held_out)


def predict(
    classifier: Classifier, data: ImageDataModule, part: Part, *, device: torch.device, limit: float = 1.0
) -> Predictions:
    """Run a classifier over one part of the data, on one device, in float32 whatever the training precision.

    limit: the share or count of batches, as Lightning's limit_predict_batches.
    """
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=[device.index or 0] if device.type != "cpu" else 1,
        precision="32-true",
        plugins=[cluster_environment({})],  # one process, even within a distributed job
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_predict_batches=limit,
        callbacks=[collected := CollectPredictions(len(data.indices[part]))],
    )
    data.predict_part = part
    trainer.predict(classifier, datamodule=data, return_predictions=False)
    logits, labels = (each[: collected.count] for each in collected.arrays)
    return Predictions(labels=labels, logits=logits, indices=data.indices[part][: collected.count])


def score(predictions: Predictions, classifier: Classifier, class_names: Sequence[str]) -> dict[str, Any]:
    """Return loss, accuracy, macro_f1, per_class and the other metrics of the metrics group, as plain numbers."""
    with torch.inference_mode():
        loss = classifier.loss.cpu().eval()(predictions.logits, predictions.labels)
    metrics = plain_metrics(classifier.val_metrics, predictions.logits, predictions.labels, class_names)
    return {"loss": float(loss)} | metrics
