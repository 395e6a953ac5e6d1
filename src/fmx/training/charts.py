"""TensorBoard charts with the training and the validation curve of a metric."""

import inspect
from collections.abc import Mapping
from typing import Any

from lightning_fabric.loggers.tensorboard import TensorBoardLogger as Writer
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

__all__ = ["SharedCharts", "purge_events"]

PARTS = ("train", "val")
STEPS = "steps/"  # metrics of single training steps


class SharedCharts(TensorBoardLogger):
    """Lightning's TensorBoardLogger, which writes `train/loss` and `val/loss` as `curves/loss` of two runs.

    TensorBoard draws one chart per tag with one curve per run, so both curves share a chart. The two runs are the
    subfolders train/ and val/. Everything else is written as by Lightning.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given = inspect.signature(TensorBoardLogger).bind(*args, **kwargs).arguments
        self._options = {"prefix": given.get("prefix", ""), **given.get("kwargs", {})}  # of the writers of both runs
        self._parts: dict[str, Writer] = {}

    def purge(self, step: int) -> None:
        """Discard the points of an earlier process from a step on; call it before the first new point is written."""
        purge_events(self, step)
        self._options["purge_step"] = step

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write each metric into the run of its curve."""
        own = dict(metrics)
        for name in metrics:
            part, _, metric = name.partition("/")
            if part in PARTS and metric:
                self._part(part).log_metrics({f"curves/{metric}": own.pop(name)}, step)
            elif name.startswith(STEPS):
                self._part("train").log_metrics({name: own.pop(name)}, step)
        super().log_metrics(own, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush all writers."""
        super().finalize(status)
        for part in self._parts.values():
            part.finalize(status)

    def _part(self, name: str) -> Writer:
        if name not in self._parts:
            self._parts[name] = Writer(self.log_dir, name="", version=name, **self._options)
        return self._parts[name]


def purge_events(logger: TensorBoardLogger, step: int) -> None:
    """Write the event that makes TensorBoard discard points from a step on, as a SummaryWriter's purge_step does."""
    event = Event(step=step, session_log=SessionLog(status=SessionLog.START))
    logger.experiment.file_writer.add_event(event)
