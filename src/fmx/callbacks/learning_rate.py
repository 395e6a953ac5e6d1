"""The learning rate in TensorBoard."""

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import LearningRateMonitor

__all__ = ["LearningRate"]


class LearningRate(LearningRateMonitor):
    """Lightning's LearningRateMonitor, silent instead of failing where a run has no logger (logger=none)."""

    def on_train_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Look at the schedulers."""
        if trainer.loggers:
            super().on_train_start(trainer, *args, **kwargs)

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log the rate where it may change each step."""
        if trainer.loggers:
            super().on_train_batch_start(trainer, *args, **kwargs)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log each rate once an epoch, however often it may change: a short training has a curve too."""
        rates = self._extract_stats(trainer, "any")
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=trainer.fit_loop.epoch_loop._batches_that_stepped)  # noqa: SLF001
