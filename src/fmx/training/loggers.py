"""Loggers of a resumed run: what they wrote after its checkpoint is removed, since training writes it again."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from fmx.training.charts import purge_events

__all__ = ["NUMBERED", "purge_after", "versions"]

log = logging.getLogger(__name__)

NUMBERED = (TensorBoardLogger, CSVLogger)  # whose folder is version_0, version_1, … where `version` names none
KEPT = "metrics.csv.kept"


def versions(loggers: Mapping[str, Logger]) -> dict[str, Any]:
    """The version of each logger that may number its folders, by its name in the configuration."""
    return {name: logger.version for name, logger in loggers.items() if isinstance(logger, NUMBERED)}


def purge_after(loggers: Sequence[Logger], step: int) -> None:
    """Remove what each logger wrote from a step on, where training resumes; a warning names loggers that cannot.

    A user's logger can if its class has a method `purge(step)`.
    """
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            _purge_rows(logger, step)
        elif callable(purge := getattr(logger, "purge", None)):
            purge(step)
        elif isinstance(logger, TensorBoardLogger):
            purge_events(logger, step)
        elif step:
            log.warning(
                "%s keeps what it wrote from step %d on, which is written again: rows may be duplicated (a method "
                "purge(step) of its class would be called to remove them)",
                type(logger).__name__,
                step,
            )


def _purge_rows(logger: CSVLogger, step: int) -> None:
    """Keep the rows of metrics.csv before a step, where CSVLogger would delete the file.

    Meanwhile they lie in a second file: whenever the process is killed, one of the two is complete.
    """
    file, kept = (Path(logger.log_dir, name) for name in ("metrics.csv", KEPT))
    if file.is_file():
        _copy_rows(file, kept, step)
    writer = logger.experiment
    if kept.is_file() and isinstance(getattr(writer, "metrics_keys", None), list):  # in the first process only
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
