"""Training: Lightning's fit, and the choice of the checkpoint that will be tested."""

import logging
from pathlib import Path

import pandas as pd
from pytorch_lightning import seed_everything
from torch.distributed import destroy_process_group, is_initialized

from fmx.build import Experiment
from fmx.callbacks.checkpoints import checkpoint_dir
from fmx.checkpoint import load_checkpoint
from fmx.gallery import Gallery

__all__ = ["fit"]

log = logging.getLogger(__name__)


def fit(experiment: Experiment) -> Path:
    """Train, record how it went, and return the checkpoint that `select` chooses."""
    trainer, record = experiment.trainer, experiment.record
    record.link_latest()
    if record.writes:
        Gallery(experiment.run_dir, experiment.data, trainer.loggers).draw_samples()
    seed_everything(experiment.seed, workers=True, verbose=False)  # building must not change what training draws
    with record.timed("fit_s"):
        trainer.fit(experiment.classifier, datamodule=experiment.data)
    if is_initialized():  # the ranks meet no more; what follows is the first one's work
        destroy_process_group()
    if not record.writes:
        raise SystemExit(0)
    name = experiment.select if experiment.data.has_validation else "last"
    checkpoint = checkpoint_dir(trainer) / f"{name}.ckpt"
    _record_fit(experiment, checkpoint)
    return checkpoint


def _record_fit(experiment: Experiment, checkpoint: Path) -> None:
    """Add to run.json how fast training was, and which epoch's weights were chosen by what."""
    history = pd.read_csv(experiment.run_dir / "history.csv")
    state = load_checkpoint(checkpoint)
    chosen = history[history["step"] <= state["global_step"]].iloc[-1]
    by_validation = experiment.data.has_validation
    metric = "val/accuracy" if by_validation else "train/loss"
    if checkpoint.stem == "best" and by_validation:
        metric = next(c.monitor for c in experiment.trainer.checkpoint_callbacks if c.monitor)  # type: ignore[attr-defined]
    seconds, epochs = history["seconds"].sum(), history["epoch"].iloc[-1]
    images = experiment.trainer.global_step * experiment.data.batch_size * experiment.trainer.world_size
    experiment.record.update(
        best={
            "epoch": int(chosen["epoch"]),
            "step": int(state["global_step"]),
            "metric": metric,
            "value": float(chosen[metric]),
            "checkpoint": f"checkpoints/{checkpoint.name}",
        },
        timing={
            "seconds_per_epoch": round(seconds / epochs, 4),
            "images_per_s": round(min(images, epochs * len(experiment.data.indices["train"])) / seconds, 1),
        },
    )
    log.info("%s: epoch %d, %s %.4f", checkpoint.name, chosen["epoch"], metric, chosen[metric])
