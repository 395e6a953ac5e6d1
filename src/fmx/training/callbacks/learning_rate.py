"""The learning rate in TensorBoard and in other loggers."""

from collections.abc import Mapping
from typing import Any, Literal

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from fmx.training.parameter_groups import rates

__all__ = ["LearningRate"]


class LearningRate(Callback):
    """Logs the learning rate as `lr`, whatever the schedule, or as `lr/NAME` of each of several parameter groups.

    A point is the rate that the step after it uses. logging_interval: `epoch`, at the start of each epoch; `step`,
    every trainer.log_every_n_steps steps; None, both, but the latter only where the rate may change at each step.
    """

    def __init__(self, *, logging_interval: Literal["step", "epoch"] | None = None) -> None:
        self.logging_interval = logging_interval

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log every trainer.log_every_n_steps steps, where wanted."""
        changes = any(config.interval == "step" for config in trainer.lr_scheduler_configs)
        wanted = self.logging_interval == "step" or (self.logging_interval is None and changes)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        at_start = batch_idx == 0 and self.logging_interval != "step"  # where the start of the epoch has logged it
        if wanted and not at_start and every and ((trainer.global_step + 1) % every == 0 or trainer.should_stop):
            self._log(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log at each epoch, so that a short training has a curve too."""
        if self.logging_interval != "step":
            self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        rates = {name: rate for optimizer in trainer.optimizers for name, rate in _rates(optimizer).items()}
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=trainer.global_step)


def _rates(optimizer: Optimizer) -> Mapping[str, float]:
    """The rates of an optimizer's parameter groups by the names of their curves."""
    by_name = rates(optimizer.param_groups)
    if len(by_name) == 1:
        return {"lr": float(optimizer.param_groups[0]["lr"])}
    return {f"lr/{name}": rate for name, rate in by_name.items()}
