"""Write the results of a finished run: predictions, metrics, classification report, figures, summary."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.metrics import classification_report

from fmx.errors import first_line
from fmx.inference.scoring import Scores
from fmx.reporting import tensorboard_views as views
from fmx.reporting.gallery import Gallery
from fmx.runs.predictions import HELD_OUT, PREDICTIONS
from fmx.runs.record import write_json
from fmx.training.build import Experiment
from fmx.training.hardware import peak_memory_mb
from fmx.training.loggers import keep_checkpoint, show_picture

__all__ = ["classification_text", "report"]

log = logging.getLogger(__name__)


def report(experiment: Experiment, scores: Scores) -> float:
    """Write the results into the run directory, log the summary, and return the accuracy that sweeps compare."""
    run_dir, metrics = experiment.run_dir, scores.metrics
    scores.predictions.save(run_dir / PREDICTIONS)
    if experiment.data.folds is not None and scores.held_out is not None:
        scores.held_out.save(run_dir / HELD_OUT)
    write_json(run_dir / "metrics.json", metrics)
    _write_report(experiment, scores)
    history = pd.read_csv(run_dir / "history.csv")
    gallery = Gallery(run_dir, experiment.data, experiment.trainer.loggers)
    step = experiment.record.contents["best"]["step"]
    gallery.draw_samples()
    if (steps := run_dir / "steps.csv").is_file():
        gallery.draw_steps(pd.read_csv(steps))
    gallery.draw_results(history, step, scores.predictions)
    _fill_tensorboard(experiment, scores, gallery.names, step=step)
    _tell_loggers(experiment, scores, gallery, step=step)
    experiment.record.update(peak_memory_mb=peak_memory_mb())
    test = metrics["test"]
    chosen = {
        "val": "checkpoint chosen on validation",
        "test": "checkpoint chosen ON THE TEST SET",
        "last": "the last checkpoint, no choice",
    }[metrics["selected_on"]]
    log.info("test accuracy %.2f %%  loss %.4f  macro-F1 %.4f  (%s)",
             100 * test["accuracy"], test["loss"], test["macro_f1"], chosen)  # fmt: skip
    log.info("%s", run_dir)
    return float((metrics["val"] or test)["accuracy"])


def _fill_tensorboard(experiment: Experiment, scores: Scores, class_names: list[str], *, step: int) -> None:
    """Write to TensorBoard all that is neither a scalar nor a figure."""
    for logger in experiment.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            views.show_config(logger, experiment.yaml)
            views.show_graph(logger, experiment.classifier.net, experiment.data.input_shape)
            views.show_pr_curves(logger, scores.predictions, class_names, step=step)
            views.show_embedding(logger, scores.predictions, experiment.data.pictures("test"), class_names, step=step)
            views.show_hparams(logger, experiment.hparams, scores.metrics)
            logger.finalize("success")


def _tell_loggers(experiment: Experiment, scores: Scores, gallery: Gallery, *, step: int) -> None:
    """Give every other logger the test figures, the pictures and the checkpoint; one that fails costs nothing else."""
    best = experiment.record.contents["best"]
    for logger in experiment.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            continue
        try:
            logger.log_metrics(_figures(scores.metrics) | {"best/epoch": best["epoch"]}, step=step)
            for name, (file, at) in gallery.files.items():
                show_picture(logger, name, file, at)
            keep_checkpoint(logger, experiment.run_dir / best["checkpoint"])
            logger.finalize("success")
        except Exception as error:  # noqa: BLE001 - of a user's class, or a server's client
            what = f"{type(error).__name__}: {first_line(error)}"
            log.warning(
                "%s failed at the end of the run, which is completed without it (%s)", type(logger).__name__, what
            )
            experiment.record.update(end_error=what)


def _figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The test figures as `test/NAME`, and those of the chosen checkpoint on validation as `best/NAME`."""
    test, val = metrics["test"], metrics["val"] or {}
    figures = {f"test/{name}": value for name, value in test.items()} | {f"best/{name}": val[name] for name in val}
    figures |= {f"test/per_class/{label}": value for label, value in test["per_class"].items()}
    return {name: value for name, value in figures.items() if isinstance(value, float)}


def _write_report(experiment: Experiment, scores: Scores) -> None:
    """report.txt: scikit-learn's classification report of the test set."""
    labels, predicted = scores.predictions.labels.numpy(), scores.predictions.logits.argmax(1).numpy()
    text = classification_text(labels, predicted, experiment.data.class_names)
    (experiment.run_dir / "report.txt").write_text(text, encoding="utf-8")


def classification_text(labels: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]) -> str:
    """scikit-learn's classification report of true and predicted classes, (N,) each."""
    seen = sorted({*labels.tolist(), *predicted.tolist()})  # a class without images or predictions has no score
    text: str = classification_report(
        labels, predicted, labels=seen, target_names=[names[label] for label in seen], digits=4, zero_division=0.0
    )
    if unseen := [names[label] for label in sorted({*range(len(names))} - {*seen})]:
        text += f"\nneither in the test set nor predicted: {', '.join(unseen)}\n"
    return text
