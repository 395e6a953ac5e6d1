"""Loggers of a run that goes on: what they wrote after its checkpoint comes again, and is taken back."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

__all__ = ["NUMBERED", "take_back", "versions"]

log = logging.getLogger(__name__)

NUMBERED = (TensorBoardLogger, CSVLogger)  # whose folder is version_0, version_1, … where `version` names none
KEPT = "metrics.csv.kept"


def versions(loggers: Mapping[str, Logger]) -> dict[str, Any]:
    """The version of each logger that may number its folders, by its name in the configuration."""
    return {name: logger.version for name, logger in loggers.items() if isinstance(logger, NUMBERED)}


def take_back(loggers: Sequence[Logger], step: int) -> None:
    """Let each logger forget what it wrote from a step on, for training goes on there; a warning names who cannot.

    A logger of somebody's own can where its class has a method `purge(step)`.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            restart = SessionLog(status=SessionLog.START)  # as a SummaryWriter with a purge_step begins
            logger.experiment.file_writer.add_event(Event(step=step, session_log=restart))
        elif isinstance(logger, CSVLogger):
            _take_back_rows(logger, step)
        elif callable(purge := getattr(logger, "purge", None)):
            purge(step)
        elif step:
            log.warning(
                "%s keeps what it wrote from step %d on, which comes again: rows may be there twice (a method "
                "purge(step) of its class would be called to take them back)",
                type(logger).__name__,
                step,
            )


def _take_back_rows(logger: CSVLogger, step: int) -> None:
    """Keep the rows of metrics.csv that are older, where CSVLogger would begin the file anew.

    It removes the file, so that what is kept lies beside it meanwhile: whenever the process is killed, one is whole.
    """
    file, kept = (Path(logger.log_dir, name) for name in ("metrics.csv", KEPT))
    if file.is_file():
        _copy_rows(file, kept, step)
    writer = logger.experiment
    if kept.is_file() and isinstance(getattr(writer, "metrics_keys", None), list):  # of the first process alone
        with kept.open(newline="", encoding="utf-8") as stream:
            writer.metrics_keys[:] = next(csv.reader(stream), [])
        kept.replace(file)


def _copy_rows(file: Path, kept: Path, step: int) -> None:
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = [row for row in reader if str(row.get("step") or "").isdigit() and int(row["step"]) < step]
        header = reader.fieldnames or []
    with kept.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, header)
        writer.writeheader()
        writer.writerows(rows)
