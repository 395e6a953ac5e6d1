"""What fmx does around the training steps of a Classifier's subclass."""

from contextlib import ExitStack
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from fmx.errors import ConfigError
from fmx.training.classifier import Classifier

__all__ = ["OwnSteps"]


class OwnSteps(Callback):
    """Checks that steps are recorded, and steps the schedules of manual optimization, which Lightning leaves out.

    A schedule that `training_step` has stepped itself is left alone.
    """

    def __init__(self) -> None:
        self._has_checked = False
        self._counts: list[int] = []  # of the schedules' steps before a batch
        self._compiled = ExitStack()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember where the schedules are; from here to the end of the step, the network is compiled if it may be."""
        assert isinstance(pl_module, Classifier)
        self._compiled.enter_context(pl_module.compiled_step(batch[0]))
        self._counts = [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """ConfigError where the first step recorded nothing; step the schedules that step with batches."""
        assert isinstance(pl_module, Classifier)
        self._compiled.close()
        if not self._has_checked:
            self._has_checked = True
            _check_recorded(pl_module)
        if pl_module.automatic_optimization:
            return
        for config, count in zip(trainer.lr_scheduler_configs, self._counts, strict=True):
            if config.interval == "step" and config.scheduler.last_epoch == count:
                _step(config.scheduler)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the network as it is outside of steps."""
        self._compiled.close()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step the schedules that step with epochs, or follow the validation loss."""
        if pl_module.automatic_optimization:
            return
        for config in trainer.lr_scheduler_configs:
            if config.interval != "epoch" or (trainer.current_epoch + 1) % config.frequency:
                continue
            value = trainer.callback_metrics.get(str(config.monitor))
            if not config.reduce_on_plateau:
                _step(config.scheduler)
            elif value is not None:
                _step(config.scheduler, value)


def _step(scheduler: Any, *value: Any) -> None:
    scheduler.step(*value)


def _check_recorded(classifier: Classifier) -> None:
    if classifier.train_metrics.is_empty:
        name = f"{type(classifier).__module__}.{type(classifier).__qualname__}"
        raise ConfigError(
            f"{name}.training_step records nothing, so history.csv would have no training loss: call "
            "self.record(batch_idx, loss, logits, labels) in it, or override loss_and_logits(images, labels) instead"
        )
