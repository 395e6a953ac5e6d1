"""Steps whose loss or gradients are not finite are skipped and counted."""

import logging
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from fmx.errors import TrainingError
from fmx.training.classifier import Classifier, scales_gradients

__all__ = ["SkipNonfinite"]

log = logging.getLogger(__name__)


class SkipNonfinite(Callback):
    """Lets a step whose gradients are not finite change nothing, and counts it as `train/skipped` in history.csv.

    The weights, the optimizer's state and batch norm's buffers stay as before the step, and a loss that is not finite
    counts in no mean. Checking each step makes the CPU wait for a GPU.
    max_steps: TrainingError once more steps were skipped.
    """

    def __init__(self, *, max_steps: int) -> None:
        self.max_steps = max_steps
        self.skipped = 0
        self._buffers: list[Tensor] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the module from raising TrainingError."""
        assert isinstance(pl_module, Classifier)
        pl_module.train_metrics.tolerates = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the buffers, which the forward pass may spoil."""
        assert isinstance(pl_module, Classifier)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = [buffer.clone() for buffer in pl_module.net.buffers()]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Remove all gradients where one is not finite: optimizers do not change weights without gradients."""
        assert isinstance(pl_module, Classifier)
        parameters = [p for p in pl_module.parameters() if p.grad is not None]
        if scales_gradients(trainer) or get_total_norm([p.grad for p in parameters if p.grad is not None]).isfinite():
            return
        for parameter in parameters:
            parameter.grad = None
        with torch.no_grad():
            for buffer, before in zip(pl_module.net.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        self.skipped += 1
        log.warning("step %d is skipped: its loss or gradients are not finite", trainer.global_step + 1)
        if self.skipped > self.max_steps:
            raise TrainingError(
                f"{self.skipped} steps had a loss or gradients that are not finite, the last one at step "
                f"{trainer.global_step + 1}; the checkpoints before it are kept. Try a smaller optim.lr, or allow more "
                "with callbacks.skip_nonfinite.max_steps"
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the count to the row of this validation."""
        if not trainer.sanity_checking:
            pl_module.log("train/skipped", float(self.skipped), rank_zero_only=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the count to the row of an epoch."""
        pl_module.log("train/skipped", float(self.skipped), rank_zero_only=False)

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count."""
        self.skipped = state_dict["skipped"]
