"""The LightningModule: a network with its loss, optimizer, schedule and metrics."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics import MeanMetric, Metric, MetricCollection

from fmx.data.loader import EpochSampler
from fmx.errors import ConfigError, TrainingError
from fmx.models.logits import logits_of
from fmx.runs.extension import Extension
from fmx.training.compiled_net import CompiledNet
from fmx.training.counts import update
from fmx.training.losses import NLL, CrossEntropy
from fmx.training.parameter_groups import OptimizerFactory, ParameterGroups
from fmx.training.schedule import Schedule

__all__ = ["Batch", "Classifier", "Step", "scales_gradients", "validates"]

log = logging.getLogger(__name__)
LOSSES_ON_LOGITS = (CrossEntropy, NLL, nn.CrossEntropyLoss)
PROBABILITY_TOLERANCE = 1e-2  # of a row's sum; bf16 has three digits
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

Batch = tuple[Tensor, Tensor]  # images float (B, C, H, W), labels int64 (B,), or float (B, K) of mixed images
MANY = 8  # images that an error lists
REMEDIES = (
    "Try a smaller optim.lr, trainer.gradient_clip_val=1, trainer.precision=32-true or "
    "'callbacks=[default,skip_nonfinite]'"
)
FLUSH_EVERY = 64  # training steps; reading the losses makes the CPU wait for the GPU


class Classifier(LightningModule):
    """Trains a network that maps images (B, C, H, W) to logits (B, K).

    A subclass may do something else in a step: it overrides `loss_and_logits`, or `training_step`, which then calls
    `record`. A loss whose attribute `takes_images` is true is given the images of a step as well.

    optimizer: a partial that lacks its parameters. groups: how these are divided.
    metrics: torchmetrics by name, updated with logits and labels.
    Logs one row per validation: `train/loss`, `train/accuracy` since the last one, `val/loss` and each scalar metric.
    Raises TrainingError, with the step and its images, once a loss or a gradient is not finite.
    """

    def __init__(
        self,
        *,
        net: nn.Module,
        loss: nn.Module,
        optimizer: OptimizerFactory,
        groups: ParameterGroups,
        schedule: Schedule,
        metrics: Mapping[str, Metric],
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.make_optimizer = optimizer
        self.groups = groups
        self.rate_factors: dict[str, float] = {}  # of single parameters, by name; for callbacks, set in `setup`
        self.make_schedule = schedule
        # torchmetrics would merge metrics that agree on the first batch, as top-1 and top-5 accuracy may.
        self.val_metrics = MetricCollection(dict(metrics), compute_groups=False)
        self.val_loss = MeanMetric(nan_strategy="disable")
        self.train_metrics = TrainMetrics(self.images_of, remedies=_remedies(loss))
        self.extension: Extension | None = None  # how this run goes on with another
        self.compiled: CompiledNet | None = None  # for training steps
        self._configured: list[dict[str, Any]] = []  # the settings of the optimizer's groups before the first step
        self._watched: list[nn.Parameter] = []  # whose gradients are checked
        self._loss_takes_images = bool(getattr(loss, "takes_images", False))
        self._has_checked_logits = False
        self._said: set[str] = set()  # the kinds of output, other than tensors, that the log names

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, C, H, W) to logits (B, K)."""
        return logits_of(self.net(images))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the batch's mean training loss, scaled for its window of accumulated batches."""
        loss = self.train_on(batch, Step(self.global_step, self.current_epoch, batch_idx))
        # Lightning divides by accumulate_grad_batches, but an epoch's last window may hold fewer.
        summed, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        held = batches % summed
        return loss * (summed / held) if held and batch_idx >= batches - held else loss

    def train_on(self, batch: Batch, step: "Step") -> Tensor:
        """Return the mean training loss of a step's batch, and update the training metrics."""
        images, labels = batch
        is_single = len(images) == 1 and step.batch > 0  # as the last batch of an epoch may be
        with self.compiled_step(images), _running_statistics(self.net) if is_single else nullcontext():
            loss, logits = self.loss_and_logits(images, labels)
        self.train_metrics.add(step, loss, logits, labels)
        return loss

    def compiled_step(self, images: Tensor) -> AbstractContextManager[None]:
        """In the block, the network is compiled where trainer.compile says so."""
        return nullcontext() if self.compiled is None else self.compiled.step(images)

    def loss_and_logits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss of normalised images (B, C, H, W) and their labels, and their logits (B, K)."""
        logits = logits_of(self.net(images), self._said)
        return self.loss(*((logits, labels, images) if self._loss_takes_images else (logits, labels))), logits

    def record(self, batch_idx: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Keep the loss and the accuracy of a step for history.csv, and check the loss.

        For a `training_step` that calls neither that of this class nor `train_on`, once for each batch.
        """
        self.train_metrics.add(Step(self.global_step, self.current_epoch, batch_idx), loss, logits, labels)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep the gradients, which are checked together with the losses."""
        gradients = [p.grad for p in self._watched if p.grad is not None]
        if gradients and not scales_gradients(self.trainer):
            self.train_metrics.add_gradients([grad if grad.dim() == 1 else grad.sum().view(1) for grad in gradients])

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip like Lightning, which refuses fused optimizers even with bf16-mixed, where no gradients are scaled."""
        if scales_gradients(self.trainer):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val is not None:
            clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
            clip([p for group in optimizer.param_groups for p in group["params"]], gradient_clip_val)

    def images_of(self, step: "Step") -> str:
        """The positions in the training set of a step's images, of those that this process served."""
        order = getattr(self.trainer.train_dataloader, "sampler", None)
        if not isinstance(order, EpochSampler):
            return ""
        epoch, size = order.epoch, self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        order.set_epoch(step.epoch)
        images = order.indices()[step.batch * size : (step.batch + 1) * size].tolist()
        order.set_epoch(epoch)
        return f": training images {', '.join(map(str, images[:MANY]))}{', …' if len(images) > MANY else ''}"

    def on_validation_start(self) -> None:
        """Broadcast the buffers of rank 0, which checkpoints save: running averages differ between ranks."""
        if self.trainer.world_size > 1:
            for buffer in self.net.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics with a batch."""
        images, labels = batch
        logits = logits_of(self.net(images)).float()
        if not self._has_checked_logits:
            self._has_checked_logits = True
            self._warn_of_probabilities(logits)
        # One value per image: MeanMetric ignores its weights where nan_strategy is "disable" (torchmetrics 1.9).
        self.val_loss.update(self.loss(logits, labels).expand(len(labels)))
        update(self.val_metrics, logits, labels)

    def _warn_of_probabilities(self, logits: Tensor) -> None:
        """Warn where a network ends in Softmax and its loss applies another one: it would learn slowly."""
        sums_to_one = (logits.sum(dim=1) - 1).abs().max() < PROBABILITY_TOLERANCE
        if isinstance(self.loss, LOSSES_ON_LOGITS) and bool(sums_to_one) and bool((logits >= 0).all()):
            log.warning(
                "model.net: its outputs are probabilities (each row is at least 0 and sums to 1), but the loss "
                "%s takes logits and applies a softmax itself: leave out the Softmax at the end of the network",
                type(self.loss).__name__,
            )

    def on_validation_epoch_end(self) -> None:
        """Log the row of this validation."""
        row = {"val/loss": self.val_loss.compute()}
        row |= {f"val/{name}": value for name, value in self.val_metrics.compute().items() if value.numel() == 1}
        self.val_loss.reset()
        self.val_metrics.reset()
        self._log_row(row)

    def on_train_epoch_end(self) -> None:
        """Log the training metrics where no validation does."""
        if not validates(self.trainer):
            self._log_row({})

    def _log_row(self, row: dict[str, Tensor]) -> None:
        if self.trainer.sanity_checking:
            return
        self.log_dict(row | self.train_metrics.means(self._summed_over_ranks), rank_zero_only=False)

    def _summed_over_ranks(self, values: Tensor) -> Tensor:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            values = values.to(self.trainer.strategy.root_device)  # NCCL reduces no tensors on the CPU
        total: Tensor = self.trainer.strategy.reduce(values, reduce_op="sum")
        return total

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Return logits float32 (B, K) and labels (B,) on the CPU."""
        images, labels = batch
        return logits_of(self.net(images)).float().cpu(), labels.cpu()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return what predict_step does by name: `logits` and `labels`."""
        logits, labels = self.predict_step(batch, batch_idx)
        return {"logits": logits, "labels": labels}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check losses and weights before a checkpoint is written: weights after a NaN must not replace good ones."""
        self.train_metrics.flush()
        for name, weight in self.named_parameters():
            if not weight.isfinite().all():
                raise TrainingError(
                    f"{name} has values that are not finite after step {self.global_step}; the checkpoints before it "
                    f"are kept. {REMEDIES}"
                )

    def configure_optimizers(self) -> Any:
        """Make the optimizer of the trainable parameters, and its schedule for the length of this training."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = self.groups.make(self.make_optimizer, self, self.rate_factors)
        if (described := self.groups.describe(optimizer)) and self.trainer.is_global_zero:
            log.info("%s", described)
        # The gradient of a bias, or of the shift of a normalisation, is a sum over its layer's gradients: it is not
        # finite if any of these is not, and cheap to check. Without such parameters, all are checked.
        self._watched = [p for p in parameters if p.dim() == 1] or parameters
        total_steps = int(self.trainer.estimated_stepping_batches)  # also sets num_training_batches
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        if self.extension is not None and self.extension.anew:
            total_steps -= self.extension.step if self.trainer.max_steps > 0 else self.extension.epoch * steps
        epochs = math.ceil(total_steps / steps)  # fewer than max_epochs where max_steps ends the training
        entries = self.make_schedule(optimizer, steps_per_epoch=steps, epochs=epochs, total_steps=total_steps)
        for entry in entries:
            length = total_steps if entry["interval"] == "step" else epochs
            if isinstance(entry["scheduler"], OneCycleLR) and entry["scheduler"].total_steps < length:
                raise ConfigError(
                    f"the schedule ends after {entry['scheduler'].total_steps} of the training's {length} "
                    f"{entry['interval']}s; schedule.scheduler.total_steps=null is as long as the training"
                )
            if "monitor" in entry:
                entry["frequency"] = self.trainer.check_val_every_n_epoch or 1
        self._configured = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return [optimizer], entries

    def begin_extension(self) -> None:
        """Give the optimizer the settings of this run; those of the run that it goes on with came with its state.

        Called where training begins or goes on, after all state is restored.
        """
        if self.extension is None or self.global_step != self.extension.step:
            return
        changed = {key.removeprefix("optim.").partition(".")[0] for key in self.extension.changed}
        # A callback that thaws layers may have added groups behind those of the configuration.
        for group, configured in zip(self.trainer.optimizers[0].param_groups, self._configured, strict=False):
            group.update({k: v for k, v in configured.items() if self.extension.anew or k in changed})


def validates(trainer: Trainer) -> bool:
    """Whether a fit has any validation images; Lightning's own flag only says that it may have."""
    return bool(trainer.datamodule.has_validation)  # type: ignore[attr-defined]


def scales_gradients(trainer: Trainer) -> bool:
    """Whether precision 16-mixed skips steps itself, while it searches a scale for the gradients."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _remedies(loss: nn.Module) -> str:
    """What to try against a loss that is not finite; torch's losses have no mean for a batch of ignored images."""
    weight, ignored = getattr(loss, "weight", None), getattr(loss, "ignore_index", None)
    leaves_out = (isinstance(weight, Tensor) and not weight.all()) or (isinstance(ignored, int) and ignored >= 0)
    if not leaves_out or not type(loss).__module__.startswith("torch."):
        return REMEDIES
    zeros = (weight == 0).nonzero().flatten().tolist() if isinstance(weight, Tensor) else []
    classes = [*zeros, *([ignored] if isinstance(ignored, int) and ignored >= 0 and ignored not in zeros else [])]
    named = ", ".join(map(str, classes[:MANY])) + (", …" if len(classes) > MANY else "")
    return (
        f"{type(loss).__name__} leaves out the labels {named} (weight 0, or ignore_index), and has no mean for a batch "
        "of those alone: a larger data.batch_size, or loss=cross_entropy with loss.weight, for which such a batch has "
        f"the loss 0. Else: {REMEDIES}"
    )


@contextmanager
def _running_statistics(net: nn.Module) -> Iterator[None]:
    """Let batch norm use its running mean and variance: a single image may have no variance."""
    norms = [m for m in net.modules() if isinstance(m, BATCH_NORMS) and m.training and m.track_running_stats]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


class Step(NamedTuple):
    """A training step: the number of optimizer steps before it, its epoch, and its batch in the epoch, each from 0."""

    number: int
    epoch: int
    batch: int


class TrainMetrics:
    """Training loss and accuracy since the last row, kept on the device and summed every FLUSH_EVERY steps.

    images_of: describes the images of a step in errors. remedies: what to try where a loss is not finite. tolerates:
    leave out steps whose loss is not finite, because a callback handles them.
    """

    def __init__(self, images_of: Callable[[Step], str] = lambda _: "", *, remedies: str = REMEDIES) -> None:
        self._images_of = images_of
        self._remedies = remedies
        self.tolerates = False
        self._waiting: list[tuple[Step, int]] = []  # steps and their images
        self._last: Step | None = None
        self._step_buffers: _StepBuffers | None = None  # losses, gradients and hits of those steps
        self.sums = [0.0, 0.0, 0.0]  # loss times images, right images, images
        self.steps: list[tuple[int, float, float]] | None = None  # step, loss, accuracy; kept where a list is set

    def add(self, step: Step, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add one training step; a mixed image, with labels (B, K), is right where its larger part is found.

        Of a step that the optimizer evaluates several times, as LBFGS and SAM do, the first loss counts: that of the
        weights that the step before left.
        """
        if step == self._last:
            return
        self._last = step
        if len(self._waiting) == FLUSH_EVERY:
            self.flush()
        if self._step_buffers is None or self._step_buffers.batch_size < len(labels):
            self.flush()
            self._step_buffers = _StepBuffers(len(labels), labels.device)
        self._step_buffers.add(len(self._waiting), loss.detach(), logits.detach(), labels)
        self._waiting.append((step, len(labels)))

    def add_gradients(self, vectors: Sequence[Tensor]) -> None:
        """Add gradients (N,) of the last step, which should be finite."""
        if self._step_buffers is not None and self._waiting:
            self._step_buffers.add_gradients(len(self._waiting) - 1, vectors)

    @property
    def is_empty(self) -> bool:
        """Whether no step was added since the last row."""
        return not self._waiting and not self.sums[2]

    def _check(self, losses: Sequence[float], gradients: Sequence[float]) -> None:
        """TrainingError for the first step whose loss, or else whose gradient, is not finite."""
        for (step, _), loss, gradient in zip(self._waiting, losses, gradients, strict=True):
            if math.isfinite(loss) and math.isfinite(gradient):
                continue
            what, value = ("gradient", gradient) if math.isfinite(loss) else ("loss", loss)
            raise TrainingError(
                f"the training {what} became {value} at step {step.number + 1} (epoch {step.epoch + 1}, batch "
                f"{step.batch + 1}{self._images_of(step)}); the checkpoints before it are kept. {self._remedies}"
            )

    def flush(self) -> None:
        """Sum up the waiting steps; TrainingError names the first whose loss or gradients are not finite."""
        if not self._waiting or self._step_buffers is None:
            return
        losses, gradients, right = self._step_buffers.first(len(self._waiting))
        if not self.tolerates:
            self._check(losses, gradients)
        self._step_buffers.forget_gradients()
        # One by one: the sum must not depend on when it is flushed.
        for (step, count), loss, hits in zip(self._waiting, losses, right, strict=True):
            if not math.isfinite(loss):
                continue
            self.sums = [total + value for total, value in zip(self.sums, (loss * count, hits, count), strict=True)]
            if self.steps is not None:
                self.steps.append((step.number, loss, hits / count))
        self._waiting = []

    def state(self) -> dict[str, Any]:
        """The sums since the last row, as plain values."""
        self.flush()
        return {"sums": self.sums, "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state` returned."""
        self.sums, self.steps = state["sums"], state["steps"]

    def means(self, summed: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the mean loss and accuracy since the last call, and reset them; summed: sums a tensor over ranks."""
        self.flush()
        loss, right, count = summed(torch.tensor(self.sums, dtype=torch.float64))
        self.sums = [0.0, 0.0, 0.0]
        return {"train/loss": (loss / count).float(), "train/accuracy": (right / count).float()} if count else {}


class _StepBuffers:
    """What TrainMetrics keeps of each step, in preallocated memory on the device.

    Tensors kept from each step would fragment the heap, which makes training on a CPU slower and larger.
    """

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self.batch_size = batch_size
        self.losses = torch.zeros(FLUSH_EVERY, device=device)
        self.gradients = torch.zeros(FLUSH_EVERY, 0, device=device)
        self.hits = torch.zeros(FLUSH_EVERY, batch_size, dtype=torch.bool, device=device)
        self._places = list(zip(self.losses.unbind(), self.hits.unbind(), strict=True))
        self._gradient_rows = self.gradients.unbind()

    def add(self, place: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        kept, hits = self._places[place]
        kept.copy_(loss)
        if len(labels) < self.batch_size:
            hits.zero_()
            hits = hits[: len(labels)]
        torch.eq(logits.argmax(1), labels if labels.dim() == 1 else labels.argmax(1), out=hits)

    def add_gradients(self, place: int, vectors: Sequence[Tensor]) -> None:
        size, width = sum(map(Tensor.numel, vectors)), self._gradient_rows[0].numel()
        if size > width:
            self.gradients = nn.functional.pad(self.gradients, (0, size - width))
            self._gradient_rows = self.gradients.unbind()
        row = self._gradient_rows[place]
        # Copied, not summed: a sum at each step would slow small networks.
        torch.cat([*vectors], out=row if size >= width else row[:size])

    def forget_gradients(self) -> None:
        self.gradients.zero_()

    def first(self, steps: int) -> tuple[list[float], list[float], list[float]]:
        """Losses, sums of gradients and numbers of right images of the first steps."""
        parts = [self.losses[:steps], self.gradients[:steps].sum(1), self.hits[:steps].sum(1)]
        losses, gradients, right = torch.stack(parts).cpu().double().tolist()  # Apple's GPUs have no float64
        return losses, gradients, right
