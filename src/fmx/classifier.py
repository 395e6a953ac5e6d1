"""The LightningModule: a network, a loss, an optimizer, a schedule and metrics, logged leanly."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric, MetricCollection

from fmx.errors import TrainingError
from fmx.schedule import Schedule

__all__ = ["Classifier", "validates"]

Batch = tuple[Tensor, Tensor]  # images float (B, C, H, W), labels int64 (B,)
FLUSH_EVERY = 64  # training steps between two looks at the losses: each look makes the CPU wait for the GPU


class Classifier(LightningModule):
    """Trains a network that maps images (B, C, H, W) to logits (B, K).

    optimizer: a partial that lacks its parameters. metrics: torchmetrics by name, updated with logits and labels.
    Logs one row a validation: `train/loss`, `train/accuracy` since the last one, `val/loss` and each scalar metric.
    Raises TrainingError, with the step, once a loss is not finite.
    """

    def __init__(
        self,
        *,
        net: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Schedule,
        metrics: Mapping[str, Metric],
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.val_metrics = MetricCollection(dict(metrics))
        self.val_loss = MeanMetric(nan_strategy="disable")
        self.tally = Tally()

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, C, H, W) to logits (B, K)."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the batch's mean training loss."""
        images, labels = batch
        logits = self.net(images)
        loss: Tensor = self.loss(logits, labels)
        self.tally.add(self.global_step, loss, logits, labels)
        return loss

    def on_validation_start(self) -> None:
        """Make all processes validate the same network, that of the checkpoints: their running averages differ."""
        if self.trainer.world_size > 1:
            for buffer in self.net.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Take a validation batch into the figures."""
        images, labels = batch
        logits = self.net(images).float()
        self.val_loss.update(self.loss(logits, labels), weight=len(labels))
        self.val_metrics.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Log the row of this validation."""
        row = {"val/loss": self.val_loss.compute()}
        row |= {f"val/{name}": value for name, value in self.val_metrics.compute().items() if value.numel() == 1}
        self.val_loss.reset()
        self.val_metrics.reset()
        self._log_row(row)

    def on_train_epoch_end(self) -> None:
        """Log the training figures where no validation will."""
        if not validates(self.trainer):
            self._log_row({})

    def _log_row(self, row: dict[str, Tensor]) -> None:
        if self.trainer.sanity_checking:
            return
        self.log_dict(row | self.tally.means(self.trainer.strategy.reduce), rank_zero_only=False)

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Return logits float32 (B, K) and labels (B,) on the CPU."""
        images, labels = batch
        return self.net(images).float().cpu(), labels.cpu()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Look at the losses before a checkpoint is written: weights after a NaN must not replace good ones."""
        self.tally.flush()

    def configure_optimizers(self) -> Any:
        """Make the optimizer over what is not frozen, and its schedule for the length of this training."""
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        total_steps = int(self.trainer.estimated_stepping_batches)
        epochs = max(self.trainer.max_epochs or 1, 1)
        entries = self.make_schedule(
            optimizer, steps_per_epoch=math.ceil(total_steps / epochs), epochs=epochs, total_steps=total_steps
        )
        return [optimizer], entries


def validates(trainer: Trainer) -> bool:
    """Whether a fit has any validation batches; Lightning's own flag only says that it may have."""
    return sum(trainer.num_val_batches) > 0


class Tally:
    """Training loss and accuracy since the last look, kept on the device and summed up only every few steps."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Tensor, Tensor, Tensor]] = []
        self.sums = [0.0, 0.0, 0.0]  # loss times images, right images, images
        self.steps: list[tuple[int, float, float]] | None = None  # step, loss, accuracy; kept where a list is set

    def add(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note one training step."""
        self._waiting.append((step, loss.detach(), logits.detach(), labels))
        if len(self._waiting) == FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Sum up the waiting steps; TrainingError names the first whose loss is not finite."""
        if not self._waiting:
            return
        steps, loss_list, logits_list, labels_list = zip(*self._waiting, strict=True)
        self._waiting.clear()
        losses = torch.stack(loss_list).double().cpu()
        finite = losses.isfinite()
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise TrainingError(
                f"the training loss became {losses[bad].item()} at step {steps[bad] + 1}; the last good checkpoint is "
                "kept. Try a smaller optim.lr, trainer.gradient_clip_val=1 or trainer.precision=32-true"
            )
        counts = torch.tensor([len(labels) for labels in labels_list], dtype=torch.float64)
        hits = torch.cat(logits_list).argmax(1) == torch.cat(labels_list)
        parts = torch.split(hits, [len(labels) for labels in labels_list])
        right = torch.stack([part.sum() for part in parts]).double().cpu()
        # One by one: the sum must not depend on when someone looked.
        for part in zip((losses * counts).tolist(), right.tolist(), counts.tolist(), strict=True):
            self.sums = [total + value for total, value in zip(self.sums, part, strict=True)]
        if self.steps is not None:
            accuracies = (right / counts).tolist()
            self.steps += zip(steps, losses.tolist(), accuracies, strict=True)

    def state(self) -> dict[str, Any]:
        """What was summed up since the last look, as plain values."""
        self.flush()
        return {"sums": self.sums, "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state` returned."""
        self.sums, self.steps = state["sums"], state["steps"]

    def means(self, reduce: Callable[..., Any]) -> dict[str, Tensor]:
        """Return the mean loss and accuracy since the last call, over all ranks, and start anew."""
        self.flush()
        loss, right, count = reduce(torch.tensor(self.sums, dtype=torch.float64), reduce_op="sum")
        self.sums = [0.0, 0.0, 0.0]
        return {"train/loss": (loss / count).float(), "train/accuracy": (right / count).float()} if count else {}
