"""An exponential moving average of the weights, whose decay warms up."""

from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn

from fmx.training.callbacks.nonfinite import SkipNonfinite

__all__ = ["EMA"]

Averaging = Callable[[Tensor, Tensor, Tensor | int], Tensor]


class EMA(WeightAveraging):
    """Validates, keeps and tests an average of the weights instead of the weights themselves.

    Every `update_every_n_steps` steps the average keeps a share of itself and takes the rest from the weights; at the
    n-th update the share is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage. A constant
    0.999 would consist of the first step's weights for hundreds of steps. Batch norm's mean and variance are averaged
    alike. A step that SkipNonfinite skips does not count. A run that began with a constant decay keeps it when resumed.

    decay: from 0, the weights themselves, to 1, the warm-up alone: an average over an ever longer past.
    """

    def __init__(self, *, decay: float, update_every_n_steps: int) -> None:
        super().__init__(avg_fn=self._averaged)
        self.decay = decay
        self.update_every_n_steps = update_every_n_steps
        self._with_constant_decay: Averaging = get_ema_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._warms_up = True
        self._skipped_steps = 0
        self._last_skipped: int | None = None  # the index of a step

    @property
    def state_key(self) -> str:
        """The key of the state in earlier checkpoints: the name of Lightning's class."""
        return EMAWeightAveraging.__name__

    def _averaged(self, average: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        if not self._warms_up:
            return self._with_constant_decay(average, current, num_averaged)
        if not average.is_floating_point():  # batch norm's counter
            return current
        num = int(num_averaged)
        return average.lerp(current, 1 - min(self.decay, (1 + num) / (10 + num)))

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether a step's weights go into the average."""
        return step_idx is not None and step_idx != self._last_skipped and step_idx % self.update_every_n_steps == 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Find out whether the step was skipped, then update the average."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        skipped = sum(each.skipped for each in callbacks if isinstance(each, SkipNonfinite))
        if skipped > self._skipped_steps:
            self._skipped_steps, self._last_skipped = skipped, trainer.global_step - 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: last.ckpt, written later, keeps the weights beside their average, so that `extend` goes on."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in the place of the weights."""
        super().on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        own = {"warms_up": self._warms_up, "skipped_steps": self._skipped_steps, "last_skipped": self._last_skipped}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; a run that began with a constant decay has none of the warm-up."""
        super().load_state_dict(state_dict)
        self._warms_up = state_dict.get("warms_up", False)
        self._skipped_steps = state_dict.get("skipped_steps", 0)
        self._last_skipped = state_dict.get("last_skipped")
