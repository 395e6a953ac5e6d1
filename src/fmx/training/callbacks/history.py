"""history.csv with one row per validation, and steps.csv on request."""

import csv
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch.optim import Optimizer

from fmx.training.classifier import Classifier, validates

__all__ = ["COLUMNS", "History"]

COLUMNS = ["epoch", "step", "lr", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "seconds"]
HISTORY, STEPS = "history.csv", "steps.csv"
STEP_COLUMNS = ["step", "loss", "accuracy"]


class History(Checkpoint):
    """Appends a row to history.csv after each validation, or after each epoch where nothing is held out.

    `epoch` counts from 1 and `step` counts optimizer steps, the last of which used the learning rate `lr` (that of the
    first parameter group); `seconds` passed since the row before. A metric of your own adds a column, and so does
    macro-F1 where a callback monitors it.
    every_step: also write the loss and accuracy of each training step to steps.csv and to TensorBoard.

    A Checkpoint, since Lightning calls other callbacks before the epoch's training metrics are logged.
    """

    def __init__(self, *, every_step: bool) -> None:
        self.every_step = every_step
        self._row_began = 0.0
        self._rows = {HISTORY: 0, STEPS: 0}  # the number of rows written to each file
        self._elapsed_s = 0.0  # since the last row, before the run was interrupted
        self._lr: float | None = None  # of the last step; None before the first

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and remove rows that were written after the checkpoint of a resumed run."""
        self._row_began = time.perf_counter() - self._elapsed_s
        if trainer.is_global_zero:
            for name, rows in self._rows.items():
                truncate(Path(trainer.default_root_dir) / name, rows)
        if self.every_step:
            assert isinstance(pl_module, Classifier)
            pl_module.train_metrics.steps = pl_module.train_metrics.steps or []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Keep the rate of this step; after it the schedule sets the next one's."""
        self._lr = _rate(optimizer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row of this validation."""
        if not trainer.sanity_checking:
            self._write_row(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row of this epoch where no validation does."""
        if not validates(trainer):
            self._write_row(trainer, pl_module)

    def _write_row(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = time.perf_counter()
        metrics = {key: f"{float(value):.8g}" for key, value in trainer.callback_metrics.items() if "/" in key}
        row = metrics | {
            "epoch": str(trainer.current_epoch + 1),
            "step": str(trainer.global_step),
            "lr": f"{_rate(trainer.optimizers[0]) if self._lr is None else self._lr:.8g}",
            "seconds": f"{now - self._row_began:.4f}",
        }
        self._row_began = now
        if not trainer.is_global_zero:
            return
        monitored = {getattr(callback, "monitor", None) for callback in trainer.callbacks}  # type: ignore[attr-defined]
        extra = [key for key in metrics if key not in COLUMNS and (key != "val/macro_f1" or key in monitored)]
        columns = COLUMNS + extra
        self._append(trainer, HISTORY, columns, [[row.get(name, "") for name in columns]])
        if self.every_step and isinstance(pl_module, Classifier) and pl_module.train_metrics.steps:
            steps = pl_module.train_metrics.steps
            rows = [[step + 1, f"{loss:.8g}", f"{accuracy:.6g}"] for step, loss, accuracy in steps]
            _log_steps(trainer, steps)
            steps.clear()
            self._append(trainer, STEPS, STEP_COLUMNS, rows)

    def _append(self, trainer: Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        append(Path(trainer.default_root_dir) / name, columns, rows)
        self._rows[name] += len(rows)

    def state_dict(self) -> dict[str, Any]:
        """The numbers of rows written, the seconds since the last row, and the last rate."""
        return {"rows": dict(self._rows), "waited_s": time.perf_counter() - self._row_began, "lr": self._lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._rows = dict(state_dict["rows"])
        self._elapsed_s = state_dict["waited_s"]
        self._lr = state_dict.get("lr")  # earlier runs did not record it


def _rate(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def _log_steps(trainer: Trainer, steps: Iterable[tuple[int, float, float]]) -> None:
    """Log single steps to TensorBoard; other loggers accept no step before their last one."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for step, loss, accuracy in steps:
                logger.log_metrics({"steps/loss": loss, "steps/accuracy": accuracy}, step + 1)


def append(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Append rows to a CSV file, with a header where the file is new."""
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(columns)
        writer.writerows(rows)


def truncate(path: Path, num_rows: int) -> None:
    """Cut a CSV file after `num_rows` rows below its header; 0 removes the file."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if num_rows == 0:
        path.unlink()
    elif len(lines) > num_rows + 1:
        partial = path.with_suffix(".csv.tmp")
        partial.write_text("".join(lines[: num_rows + 1]), encoding="utf-8")
        partial.replace(path)
