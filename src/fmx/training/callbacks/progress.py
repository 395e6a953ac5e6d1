"""What a person sees while training runs: one bar on a terminal, plain log lines elsewhere."""

import logging
import os
import stat
import sys
import time
from datetime import timedelta

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from rich.text import Text

from fmx.process.live_area import LiveArea
from fmx.training.classifier import Classifier, validates

__all__ = ["Progress"]

log = logging.getLogger(__name__)
READ_EVERY_S = 1.0  # reading the training loss makes the CPU wait for a GPU
WIDTH = 20  # of the bar


class Progress(Checkpoint):
    """Shows one bar over the whole training on a terminal, and logs one line per validation everywhere.

    A Checkpoint, since Lightning calls other callbacks before the epoch's training metrics are logged.
    """

    def __init__(self) -> None:
        self._area: LiveArea | None = None
        self._total: int | None = None  # steps
        self._first = self._step = 0
        self._began = self._read = 0.0
        self._epoch = ""
        self._metrics: dict[str, str] = {}  # by the part of the data

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step where training (re)starts."""
        if not trainer.is_global_zero or _stdout_is_piped():
            return
        total = trainer.estimated_stepping_batches
        self._total = int(total) if total != float("inf") else None
        self._first = self._step = trainer.global_step
        self._began = self._read = time.monotonic()
        self._update_epoch(trainer)
        self._area = LiveArea(self._lines, sys.stderr)
        self._area.__enter__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Move the bar."""
        if self._area is None or not self._area.is_shown:
            return
        self._step = trainer.global_step
        self._update_epoch(trainer)
        if time.monotonic() - self._read >= READ_EVERY_S and isinstance(pl_module, Classifier):
            self._read = time.monotonic()
            pl_module.train_metrics.flush()
            loss, right, images = pl_module.train_metrics.sums
            if images:
                self._metrics["train"] = f"train loss {loss / images:.4f} acc {right / images:.2%}"

    def _update_epoch(self, trainer: Trainer) -> None:
        last, epoch = trainer.max_epochs, trainer.current_epoch + 1
        if last and last > 0:  # a run that is resumed after its last epoch starts none
            self._epoch = f"epoch {min(epoch, last)}/{last}"
        else:
            self._epoch = f"epoch {epoch}"

    def _lines(self) -> list[Text]:
        """One line with the progress and the time left, and one with the newest metrics."""
        seconds, steps = time.monotonic() - self._began, self._step - self._first
        parts = [self._epoch, f"step {self._step}"]
        if self._total:
            done = min(WIDTH, WIDTH * self._step // self._total)
            full, empty = ("━", "─") if sys.stderr.encoding.lower().startswith("utf") else ("#", "-")
            parts[1:] = [full * done + empty * (WIDTH - done), f"step {self._step}/{self._total}"]
        if steps and seconds:
            parts.append(f"{steps / seconds:.1f}/s")
            if self._total:
                parts.append(f"{timedelta(seconds=round((self._total - self._step) * seconds / steps))} left")
        return [Text("  ".join(each)) for each in (parts, self._metrics.values()) if each]

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
        shown = [f"{part}/{name}" for part in ("train", "val") for name in ("loss", "accuracy")]
        metrics = {key: float(value) for key in shown if (value := trainer.callback_metrics.get(key)) is not None}
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {trainer.global_step}"]
        self._metrics = {
            part: f"{part} loss {metrics[f'{part}/loss']:.4f} acc {metrics[f'{part}/accuracy']:.2%}"
            for part in ("train", "val")
            if f"{part}/loss" in metrics
        }
        log.info("%s", "  ".join([*parts, *self._metrics.values()]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar before an error is printed."""
        self._close()

    def _close(self) -> None:
        if self._area is not None:
            self._area.__exit__()
            self._area = None


def _stdout_is_piped() -> bool:
    """Whether another process reads stdout, and may print it into the bar, as in `fmx … | tee log`."""
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return True
