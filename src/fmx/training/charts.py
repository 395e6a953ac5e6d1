"""TensorBoard's curves, training and validation of a figure in one chart."""

from collections.abc import Mapping
from typing import Any

from lightning_fabric.loggers.tensorboard import TensorBoardLogger as Writer
from lightning_fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig
from pytorch_lightning.loggers import TensorBoardLogger

__all__ = ["SharedCharts", "with_shared_charts"]

STOCK = "pytorch_lightning.loggers.TensorBoardLogger"
PARTS = ("train", "val")
STEPS = "steps/"  # the figures of single training steps


class SharedCharts(TensorBoardLogger):
    """Lightning's TensorBoardLogger, which writes `train/loss` and `val/loss` as `curves/loss` of two runs.

    TensorBoard draws a chart for each tag with a curve for each run, so both are in one; the runs are the folders
    train/ and val/ of its own one. Everything else stays where it was.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parts: dict[str, Writer] = {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write each figure into the run whose curve it is a point of."""
        own = dict(metrics)
        for name in metrics:
            part, _, figure = name.partition("/")
            if part in PARTS and figure:
                self._part(part).log_metrics({f"curves/{figure}": own.pop(name)}, step)
            elif name.startswith(STEPS):
                self._part("train").log_metrics({name: own.pop(name)}, step)
        super().log_metrics(own, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits to be written."""
        super().finalize(status)
        for part in self._parts.values():
            part.finalize(status)

    def _part(self, name: str) -> Writer:
        if name not in self._parts:
            self._parts[name] = Writer(self.log_dir, name="", version=name, prefix=self._prefix, **self._kwargs)
        return self._parts[name]


def with_shared_charts(logger: DictConfig) -> DictConfig:
    """The node of a logger, with fmx's own class where Lightning's TensorBoardLogger is named.

    The configuration keeps Lightning's name, by which older runs are continued and compared with newer ones.
    """
    if logger.get("_target_") != STOCK:
        return logger
    ours = logger.copy()
    ours._target_ = f"{SharedCharts.__module__}.{SharedCharts.__qualname__}"
    return ours
