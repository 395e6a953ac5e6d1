"""Training: Lightning's fit, and the choice of the checkpoint to test."""

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_fabric.utilities.spike import TrainingSpikeException
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import WeightAveraging
from torch.distributed import destroy_process_group, is_initialized

from fmx.config.printed_command import printed_command
from fmx.config.quoting import override
from fmx.errors import TrainingError, chain
from fmx.process.distributed import end_together, lost_connection
from fmx.process.exits import Interrupted, expected_error, interruption
from fmx.runs.checkpoint_files import NEWEST, load_checkpoint, newest_checkpoint
from fmx.runs.record import Record
from fmx.training.build import Experiment
from fmx.training.callbacks.checkpoints import LastCheckpoint, checkpoint_dir
from fmx.training.callbacks.history import HISTORY
from fmx.training.end_of_training import what_ended
from fmx.training.extension import begin_extension
from fmx.training.loggers import log_history, log_settings, purge_after
from fmx.training.teacher import give_teacher

__all__ = ["fit"]

log = logging.getLogger(__name__)


def fit(experiment: Experiment) -> Path:
    """Train, record how it went, and return the checkpoint that `select` chooses."""
    trainer, record = experiment.trainer, experiment.record
    record.link_latest()
    newest = _resume_from(experiment)
    _give_teacher(experiment)
    if record.writes:
        log_settings(trainer.loggers, experiment.settings, record.run_dir)
        if experiment.extension is not None:
            log_history(trainer.loggers, record.run_dir / HISTORY)
    # What training draws must not depend on building, and must differ between processes.
    seed_everything(experiment.seed + trainer.global_rank, workers=True, verbose=False)
    with record.timed("fit_s"), _plain_lost_connections(trainer, record), end_together(trainer, record):
        try:
            trainer.fit(experiment.classifier, datamodule=experiment.data, ckpt_path=newest, weights_only=True)
        except Interrupted as interrupted:
            if interrupted.agreed and not record.writes:
                raise SystemExit(0) from None  # the first process reports it
            raise
        except TrainingSpikeException as error:
            raise TrainingError(f"callbacks: SpikeDetection has ended the training: {error}") from error
        except Exception as error:
            if not _is_complete(experiment, error):
                raise
            what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            log.warning("training is complete, but a hook at its end failed (%s): continuing with the test", what)
            record.update(end_error=what)
    if is_initialized():  # the ranks are done; only the first continues
        destroy_process_group()
    if not record.writes:
        raise SystemExit(0)
    checkpoint = _chosen_checkpoint(experiment)
    _record_fit(experiment, checkpoint)
    return checkpoint


@contextmanager
def _plain_lost_connections(trainer: Trainer, record: Record) -> Iterator[None]:
    """TrainingError where another process of the run is gone; the first process of each machine says so."""
    try:
        yield
    except (RuntimeError, Interrupted) as error:  # torchrun also sends a signal to those that are left
        reason = next(filter(None, map(lost_connection, chain(error))), None)
        if reason is None:
            raise
        how = printed_command(override("resume", record.run_dir))
        message = (
            f"the connection to another process of this run broke ({reason}): it was killed, or its machine does not "
            f"answer; {how} continues the run from its last saved state"
        )
        if trainer.local_rank == 0 and not record.writes:
            sys.stderr.write(f"{message}\n")
        raise TrainingError(message) from error


def _chosen_checkpoint(experiment: Experiment) -> Path:
    """The checkpoint to test; records what ended the training, which a line says where it was not its length.

    Raises TrainingError where the training ended before its first validation.
    """
    trainer = experiment.trainer
    ended_by, is_early = what_ended(trainer, experiment.callbacks)
    experiment.record.update(ended_by=ended_by)
    if is_early:
        log.info("training ended in epoch %d, after step %d: %s", trainer.current_epoch, trainer.global_step, ended_by)
    name = experiment.select if experiment.data.has_validation else "last"
    checkpoint = checkpoint_dir(trainer) / f"{name}.ckpt"
    if not checkpoint.is_file() or not (experiment.run_dir / HISTORY).is_file():
        raise TrainingError(
            f"training ended before its first validation ({ended_by}), so there is no {checkpoint.name} to test; train "
            "longer, or validate more often"
        )
    return checkpoint


def _is_complete(experiment: Experiment, error: Exception) -> bool:
    """Whether an exception of a user's logger or callback came after the final state was saved."""
    trainer = experiment.trainer
    if trainer.world_size > 1 or expected_error(error) is not None or interruption(error) is not None:
        return False
    kept = [each for each in trainer.callbacks if isinstance(each, LastCheckpoint)]  # type: ignore[attr-defined]
    return bool(kept) and kept[0].is_final


def _give_teacher(experiment: Experiment) -> None:
    """Give a distillation its teacher, and record which one it is."""
    record = experiment.record
    if teacher := give_teacher(experiment.classifier.loss, record.contents.get("teacher")):
        record.update(teacher=teacher)


def _resume_from(experiment: Experiment) -> Path | None:
    """The checkpoint to resume from, if any; what the loggers wrote after it is removed."""
    if experiment.extension is not None:
        begin_extension(experiment.extension, experiment.run_dir, writes=experiment.record.writes)
        return checkpoint_dir(experiment.trainer) / NEWEST
    if not experiment.resumes:
        return None
    newest, step, complaints = newest_checkpoint(checkpoint_dir(experiment.trainer))
    for complaint in complaints:
        log.warning("%s; resuming from %s", complaint, newest)
    log.info("resuming after step %d", step) if newest else log.info("no checkpoint to resume from: starting anew")
    if experiment.record.writes:
        purge_after(experiment.trainer.loggers, step)
    return newest


def _record_fit(experiment: Experiment, checkpoint: Path) -> None:
    """Add to run.json how fast training was, and which epoch's weights were chosen by what."""
    import pandas as pd  # not needed for training, and slow to import

    trainer, history = experiment.trainer, pd.read_csv(experiment.run_dir / HISTORY)
    state = load_checkpoint(checkpoint)
    chosen = history[history["step"] <= state["global_step"]].iloc[-1]
    by_validation = experiment.data.has_validation
    metric = "val/accuracy" if by_validation else "train/loss"
    if checkpoint.stem == "best" and by_validation:
        metric = next(filter(None, (getattr(c, "monitor", None) for c in trainer.checkpoint_callbacks)))
    # Of the steps up to the last row: an epoch may continue after its last validation.
    seconds, steps = history["seconds"].sum(), history["step"].iloc[-1]
    steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    epochs = steps / steps_per_epoch
    before = [c.elapsed_before_s for c in trainer.callbacks if isinstance(c, LastCheckpoint)]  # type: ignore[attr-defined]
    fit_s = experiment.record.contents["timing"]["fit_s"] + sum(before)
    batches = trainer.num_training_batches * experiment.data.batch_size * trainer.world_size
    images = epochs * min(batches, len(experiment.data.indices["train"]))
    experiment.record.update(
        best={
            "epoch": int(chosen["epoch"]),
            "step": int(state["global_step"]),
            "metric": metric,
            "value": float(chosen[metric]),
            "checkpoint": f"checkpoints/{checkpoint.name}",
        },
        timing={
            "fit_s": round(fit_s, 3),
            "steps_per_epoch": steps_per_epoch,
            "seconds_per_epoch": round(seconds / epochs, 4),
            "images_per_s": round(images / seconds, 1),
        },
    )
    averaged = any(isinstance(each, WeightAveraging) for each in trainer.callbacks)  # type: ignore[attr-defined]
    note = (
        ""
        if not averaged or "averaging_state" in state
        else (": the weights themselves, from before averaging began; select=last tests the average")
    )
    log.info("%s: epoch %d, %s %.4f%s", checkpoint.name, chosen["epoch"], metric, chosen[metric], note)
