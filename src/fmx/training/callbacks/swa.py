"""Stochastic weight averaging: the mean of the weights of the last epochs, trained at a constant rate."""

import logging
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import update_bn

from fmx.data.module import ImageDataModule
from fmx.errors import ConfigError
from fmx.training.classifier import Classifier
from fmx.training.random_state import random_state, restore_random_state

__all__ = ["SWA"]

log = logging.getLogger(__name__)


class SWA(WeightAveraging):
    """Validates, keeps and tests the mean of the weights at the end of each epoch of the last part of a training.

    From Izmailov et al., 2018, arXiv:1803.05407. In the averaged part the rate is constant, whatever the schedule, so
    that the weights move around the optimum instead of coming to rest. Before each validation of a new mean, batch
    norm's statistics are computed anew from training images, as the mean's layers see other activations.

    start: the share of the epochs before the averaged part. lr_factor: the rate of that part, as a multiple of each
    parameter group's own rate (the largest that a one-cycle schedule reaches).
    """

    def __init__(self, *, start: float, lr_factor: float) -> None:
        super().__init__(use_buffers=False)
        self.start = start
        self.lr_factor = lr_factor
        self._first_epoch = 0  # of the averaged part
        self.num_averaged = 0  # epochs whose weights are in the mean
        self._is_due = False  # whether the present weights belong into the mean
        self._statistics_are_old = False  # whether the mean is newer than its batch norm's statistics

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether the weights after a step go into the mean; Lightning would ask for epochs after their validation."""
        return step_idx is not None and self._is_due

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the first epoch to average; ConfigError where the training has no complete epoch."""
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        epochs = int(trainer.estimated_stepping_batches) // steps_per_epoch
        if not epochs:
            raise ConfigError(
                "callbacks.swa averages the weights at the end of each epoch, and this training has no complete one: "
                "make it longer, or use 'callbacks=[default,ema]'"
            )
        self._first_epoch = min(math.floor(self.start * epochs), epochs - 1)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])  # most schedules have set it
        if trainer.current_epoch >= self._first_epoch:  # resumed within an epoch, which does not begin again
            self._hold_rate(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the constant rate at the beginning of the averaged part."""
        if trainer.current_epoch >= self._first_epoch:
            self._hold_rate(trainer)
        if trainer.current_epoch == self._first_epoch:
            log.info(
                "swa: from epoch %d on, the rate is %.6g, and the mean of the weights is validated and kept",
                self._first_epoch + 1,
                trainer.optimizers[0].param_groups[0]["lr"],
            )

    def _hold_rate(self, trainer: Trainer) -> None:
        """Take the schedule out, and set each group's rate."""
        trainer.strategy.lr_scheduler_configs = []
        for optimizer in trainer.optimizers:
            groups = optimizer.param_groups
            leader = next((each for each in groups if each.get("lr_factor") == 1), groups[0])
            for group in groups:
                factor = group.get("lr_factor")  # to the leader's rate, which groups keep under every schedule
                own, ratio = (group, 1.0) if factor is None else (leader, factor)
                base = float(own.get("max_lr", own.setdefault("initial_lr", own["lr"])))
                group["lr"] = self.lr_factor * base * ratio

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the weights at the end of an epoch to the mean, before they are validated."""
        if trainer.current_epoch >= self._first_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._is_due = True
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._is_due = False
            self.num_averaged += 1
            self._statistics_are_old = True

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the mean in place of the weights, once there is one."""
        if self.num_averaged and not trainer.sanity_checking:
            super().on_validation_epoch_start(trainer, pl_module)
            self._update_statistics(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back."""
        if self.num_averaged and not trainer.sanity_checking:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the mean in the network; a warning says where training ended before there was one."""
        if not self.num_averaged:
            log.warning(
                "swa: training ended before epoch %d, from which on weights are averaged: the weights themselves are "
                "tested",
                self._first_epoch + 1,
            )
            return
        super().on_validation_epoch_start(trainer, pl_module)
        self._update_statistics(trainer, pl_module)
        super().on_validation_epoch_end(trainer, pl_module)
        super().on_train_end(trainer, pl_module)

    def _update_statistics(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute batch norm's statistics of the network's present weights; the random states stay."""
        if not self._statistics_are_old:
            return
        assert isinstance(pl_module, Classifier)
        before = random_state()
        with trainer.precision_plugin.forward_context():
            update_bn(_training_images(trainer), pl_module.net)
        restore_random_state(before)
        self._statistics_are_old = False

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        own = {"num_averaged": self.num_averaged, "statistics_are_old": self._statistics_are_old}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state_dict)
        self.num_averaged = state_dict["num_averaged"]
        self._statistics_are_old = state_dict["statistics_are_old"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the mean as the weights, and beside it the weights themselves, once there is a mean."""
        if self.num_averaged:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore both, if there are both."""
        if "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


def _training_images(trainer: Trainer) -> Iterator[Tensor]:
    """The images (B, C, H, W) of an epoch's training batches, augmented and normalised on the training device."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ImageDataModule)
    device = trainer.strategy.root_device
    for batch in islice(data.train_dataloader(), int(trainer.num_training_batches)):
        moved = data.transfer_batch_to_device(trainer.precision_plugin.convert_input(batch), device, 0)
        yield data.augmented(moved)[0]
