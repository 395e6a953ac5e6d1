"""What a person sees while training runs: one bar on a terminal, plain log lines elsewhere."""

import logging
import sys

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from tqdm import tqdm

from fmx.classifier import validates

__all__ = ["Progress"]

log = logging.getLogger(__name__)


class Progress(Checkpoint):
    """Shows one bar over the whole training on a terminal, and logs a line a validation everywhere.

    A Checkpoint, since Lightning calls others before the epoch's training figures are logged.
    """

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step where training (re)starts."""
        if trainer.is_global_zero and sys.stderr.isatty():
            total = trainer.estimated_stepping_batches
            self._bar = tqdm(
                total=int(total) if total != float("inf") else None,
                initial=trainer.global_step,
                unit="step",
                leave=False,
                dynamic_ncols=True,
                mininterval=0.2,
            )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation."""
        if not trainer.sanity_checking:
            self._log_row(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch where no validation does."""
        if not validates(trainer):
            self._log_row(trainer)

    def _log_row(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {trainer.global_step}"]
        parts += [
            f"{part} loss {metrics[f'{part}/loss']:.4f} acc {metrics[f'{part}/accuracy']:.2%}"
            for part in ("train", "val")
            if f"{part}/loss" in metrics
        ]
        line = "  ".join(parts)
        if self._bar is None:
            log.info(line)
            return
        self._bar.set_postfix_str(parts[-1], refresh=False)
        with tqdm.external_write_mode(file=sys.stderr):
            log.info(line)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar before an error is printed."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
