"""history.csv with one row per validation, and steps.csv on request."""

import csv
import io
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, LearningRateMonitor
from pytorch_lightning.loggers import TensorBoardLogger
from torch.optim import Optimizer

from fmx.training.classifier import Classifier, validates

__all__ = ["COLUMNS", "HISTORY", "History"]

log = logging.getLogger(__name__)

COLUMNS = ["epoch", "step", "lr", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "seconds"]
HISTORY, STEPS = "history.csv", "steps.csv"
STEP_COLUMNS = ["step", "loss", "accuracy"]
OF_HISTORY = {"epoch", "step", "lr", "seconds"}  # columns that no logged metric fills


class History(Checkpoint):
    """Appends a row to history.csv after each validation, or after each epoch where nothing is held out.

    `epoch` counts from 1 and `step` counts optimizer steps, the last of which used the learning rate `lr` (that of the
    first parameter group); `seconds` passed since the row before. A metric that a callback logs adds a column, whenever
    it first appears; its cell is empty in rows since which it was not logged. What is logged at the end of an epoch
    belongs to the row of its last step. Macro-F1 has a column where a callback monitors it.
    every_step: also write the loss and accuracy of each training step to steps.csv and to TensorBoard.

    A Checkpoint, since Lightning calls other callbacks before the epoch's training metrics are logged.
    """

    def __init__(self, *, every_step: bool) -> None:
        self.every_step = every_step
        self._row_began = 0.0
        self._rows = {HISTORY: 0, STEPS: 0}  # the number of rows written to each file
        self._elapsed_s = 0.0  # since the last row, before the run was interrupted
        self._lr: float | None = None  # of the last step; None before the first
        self._seen: dict[str, Any] = {}  # what Lightning still holds of metrics that are in a row already
        self._pending: dict[str, str] = {}  # metrics logged since the last row, which the next one takes
        self._left_out: set[str] = set()  # names that no column can have
        self._row: dict[str, str] | None = None  # the last one that this process wrote

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and remove rows that were written after the checkpoint of a resumed run."""
        self._row_began = time.perf_counter() - self._elapsed_s
        if trainer.is_global_zero:
            for name, rows in self._rows.items():
                truncate(Path(trainer.default_root_dir) / name, rows)
        if self.every_step:
            assert isinstance(pl_module, Classifier)
            pl_module.train_metrics.steps = pl_module.train_metrics.steps or []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which metrics are those of earlier epochs: Lightning never forgets one."""
        self._seen = dict(trainer.callback_metrics)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Keep the rate of this step; after it the schedule sets the next one's."""
        self._lr = _rate(optimizer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row of this validation."""
        if not trainer.sanity_checking:
            self._write_row(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row of this epoch where no validation does; else add to it what was logged since."""
        if not validates(trainer):
            self._write_row(trainer, pl_module)
            return
        self._pending |= self._new_metrics(trainer)
        if self._row is None or self._row["step"] != str(trainer.global_step):
            return
        row, self._row = self._row, self._row | self._pending
        self._pending = {}
        if trainer.is_global_zero and row != self._row:
            _replace_last_row(Path(trainer.default_root_dir) / HISTORY, self._row)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which metrics were logged after the last row."""
        if self._pending:
            log.warning("%s: logged after the last row of %s, so it has none of it", ", ".join(self._pending), HISTORY)

    def _new_metrics(self, trainer: Trainer) -> dict[str, str]:
        """What was logged since the last call and has a column, by name."""
        held, seen = dict(trainer.callback_metrics), self._seen
        self._seen = held
        new = {name: _number(value) for name, value in held.items() if seen.get(name) is not value}
        kept = {name: text for name, text in new.items() if text is not None and name not in OF_HISTORY}
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        known = {"lr"} if any(isinstance(each, LearningRateMonitor) for each in callbacks) else set()  # the same rate
        if left_out := sorted(new.keys() - kept.keys() - self._left_out - known):
            self._left_out.update(left_out)
            log.warning(
                "%s is not written for %s: a metric is one number, and its name none of %s",
                HISTORY,
                ", ".join(map(repr, left_out)),
                ", ".join(sorted(OF_HISTORY)),
            )
        monitored = {getattr(callback, "monitor", None) for callback in callbacks}
        return {name: text for name, text in kept.items() if name != "val/macro_f1" or name in monitored}

    def _write_row(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = time.perf_counter()
        row = (self._pending | self._new_metrics(trainer)) | {
            "epoch": str(trainer.current_epoch + 1),
            "step": str(trainer.global_step),
            "lr": f"{_rate(trainer.optimizers[0]) if self._lr is None else self._lr:.8g}",
            "seconds": f"{now - self._row_began:.4f}",
        }
        self._row_began, self._pending, self._row = now, {}, row
        if not trainer.is_global_zero:
            return
        self._append(trainer, HISTORY, COLUMNS, [row])
        if self.every_step and isinstance(pl_module, Classifier) and pl_module.train_metrics.steps:
            steps = pl_module.train_metrics.steps
            rows = [
                {"step": str(step + 1), "loss": f"{loss:.8g}", "accuracy": f"{accuracy:.6g}"}
                for step, loss, accuracy in steps
            ]
            _log_steps(trainer, steps)
            steps.clear()
            self._append(trainer, STEPS, STEP_COLUMNS, rows)

    def _append(self, trainer: Trainer, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
        append(Path(trainer.default_root_dir) / name, columns, rows)
        self._rows[name] += len(rows)

    def state_dict(self) -> dict[str, Any]:
        """The numbers of rows written, the seconds since the last row, the last rate, and metrics of the next row."""
        return {
            "rows": dict(self._rows),
            "waited_s": time.perf_counter() - self._row_began,
            "lr": self._lr,
            "pending": dict(self._pending),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._rows = dict(state_dict["rows"])
        self._elapsed_s = state_dict["waited_s"]
        self._lr = state_dict.get("lr")  # earlier runs did not record it
        self._pending = dict(state_dict.get("pending", {}))


def _rate(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def _log_steps(trainer: Trainer, steps: Iterable[tuple[int, float, float]]) -> None:
    """Log single steps to TensorBoard; other loggers accept no step before their last one."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for step, loss, accuracy in steps:
                logger.log_metrics({"steps/loss": loss, "steps/accuracy": accuracy}, step + 1)


def _number(value: Any) -> str | None:
    """A metric as text; None unless it is one number."""
    try:
        return f"{float(value):.8g}"
    except (TypeError, ValueError, RuntimeError):  # torch's for a tensor of several numbers
        return None


def append(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Append rows to a CSV file, which gets a column for each new name, empty in earlier rows.

    columns: those of a new file, in this order. Whenever the process is killed, the file is whole.
    """
    header, earlier = _read(path)
    names = dict.fromkeys([*(header or columns), *(name for row in rows for name in row)])
    if not header or len(names) > len(header):
        _write(path, [*names], [*earlier, *rows])
        return
    with path.open("ab", buffering=0) as file:
        file.write(_as_text(header, rows))


def truncate(path: Path, num_rows: int) -> None:
    """Cut a CSV file after `num_rows` rows below its header; 0 removes the file."""
    if not path.exists():
        return
    if num_rows == 0:
        path.unlink()
        return
    header, rows = _read(path)
    if len(rows) > num_rows or any(None in row for row in rows):
        _write(path, header, rows[:num_rows])


def _replace_last_row(path: Path, row: Mapping[str, str]) -> None:
    header, rows = _read(path)
    _write(path, [*dict.fromkeys([*header, *row])], [*rows[:-1], row])


def _read(path: Path) -> tuple[list[str], list[Mapping[str, str]]]:
    """The header and the rows of a CSV file; both empty where there is none.

    The key None holds cells beyond the header, which earlier versions wrote for metrics that came late.
    """
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return [*(reader.fieldnames or [])], [*reader]


def _write(path: Path, header: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a CSV file at once: readers see the earlier one or this one."""
    partial = path.with_suffix(".csv.tmp")
    partial.write_bytes(_as_text(header, [{name: name for name in header}, *rows]))
    partial.replace(path)


def _as_text(header: Sequence[str], rows: Iterable[Mapping[str, str]]) -> bytes:
    """Lines of CSV: the cells of each row in the order of a header."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([[row.get(name, "") for name in header] for row in rows])
    return text.getvalue().encode()
