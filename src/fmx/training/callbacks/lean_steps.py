"""Training steps without Lightning's bookkeeping, where no hook needs to be called."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor

from fmx.compat import count_steps, is_tested, next_batches
from fmx.errors import TrainingError
from fmx.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, is_between_steps
from fmx.training.callbacks.history import History
from fmx.training.callbacks.learning_rate import LearningRate
from fmx.training.callbacks.progress import Progress
from fmx.training.callbacks.save_on_signal import SaveOnSignal
from fmx.training.callbacks.swa import SWA
from fmx.training.classifier import Batch, Classifier, Step, scales_gradients
from fmx.training.step_graph import StepGraph, can_be_captured, fixed_parts

__all__ = ["LeanSteps"]

STEP_HOOKS = [
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
]
# Callbacks that need not be called at each step, but at the last one before a validation or the end of an epoch.
PATIENT = (BestCheckpoint, History, LastCheckpoint, SaveOnSignal, LearningRate, Progress, SWA)


class LeanSteps(Callback):
    """Adds lean steps after each of Lightning's training steps, for at most `at_most_s` seconds; 0 for none.

    A lean step computes what Lightning would, bit for bit, and advances its counters, but calls no hook: hooks are most
    of the overhead of a small network's step (benchmarks/overhead.py). Lightning keeps the steps at which something is
    due: the last of an epoch or of the training, the one before a validation, and those that log. It keeps all where
    another callback, precision 16-mixed, a profiler, several processes or accumulated gradients need each step, and
    with versions of Lightning that were not tested (compat.py).
    On a GPU, lean steps that are always the same are replayed as one CUDA graph (`step_graph.py`).
    """

    def __init__(self, *, at_most_s: float) -> None:
        self.at_most_s = at_most_s
        self._runner: _StepRunner | None = None  # None without lean steps
        self._signal_callbacks: list[SaveOnSignal] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare lean steps, unless something needs each step."""
        self._signal_callbacks = [each for each in trainer.callbacks if isinstance(each, SaveOnSignal)]  # type: ignore[attr-defined]
        if (
            is_tested("pytorch-lightning")
            and type(pl_module) is Classifier
            and isinstance(trainer.strategy, SingleDeviceStrategy)
            and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
            and not scales_gradients(trainer)
            and not any(map(_needs_each_step, trainer.callbacks))  # type: ignore[attr-defined]
        ):
            self._runner = _StepRunner(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Train on the next batches."""
        if self._runner is None or trainer.should_stop or trainer.accumulate_grad_batches > 1:
            return
        if not is_between_steps(trainer) or not self._runner.refresh(trainer):
            return
        place, first, taken = trainer.fit_loop.epoch_loop.batch_idx + 1, trainer.global_step, 0
        num_steps, batches, began = _num_lean_steps(trainer), next_batches(trainer), time.monotonic()
        while taken < num_steps and time.monotonic() - began < self.at_most_s and not self._asked_to_stop():
            self._runner(next(batches), Step(first + taken, trainer.current_epoch, place + taken))
            taken += 1
        count_steps(trainer, taken, num_schedulers=len(self._runner.schedulers))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Free the memory of a step."""
        self._runner = None

    def _asked_to_stop(self) -> bool:
        return any(each.asked for each in self._signal_callbacks)


def _needs_each_step(callback: Callback) -> bool:
    return not isinstance(callback, (LeanSteps, *PATIENT)) and any(
        hook in vars(callback) or getattr(type(callback), hook) is not getattr(Callback, hook) for hook in STEP_HOOKS
    )


def _num_lean_steps(trainer: Trainer) -> int:
    """The number of steps after this one and before the next at which Lightning has something to do."""
    loop = trainer.fit_loop.epoch_loop
    num_steps = trainer.num_training_batches - 1 - (loop.batch_idx + 1)
    if log_every := trainer.log_every_n_steps:  # type: ignore[attr-defined]
        num_steps = min(num_steps, _until(trainer.global_step, log_every))
    if isinstance(trainer.val_check_batch, int):
        counted = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
        num_steps = min(num_steps, _until(counted + 1, trainer.val_check_batch))
    if trainer.max_steps != -1:
        num_steps = min(num_steps, trainer.max_steps - 1 - trainer.global_step)
    return int(num_steps)


def _until(position: int, every: int) -> int:
    """The number of positions, this one included, before the last one of a group of `every`, counted from 0."""
    return every - 1 - position % every


class _StepRunner:
    """Trains on one batch as Lightning's loops do, in their order."""

    def __init__(self, trainer: Trainer, classifier: Classifier) -> None:
        self.classifier = classifier
        self.data = trainer.datamodule  # type: ignore[attr-defined]
        self.device = classifier.device
        self.precision = trainer.precision_plugin
        self.clip = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        self.graph: StepGraph | None = None
        self.captured: list[object] | None = None  # what the graph assumes constant; None where steps are not captured

    def refresh(self, trainer: Trainer) -> bool:
        """Read what callbacks may have changed since the last lean steps; False where no lean steps are possible."""
        configs = [config for config in trainer.lr_scheduler_configs if config.interval == "step"]
        if len(trainer.optimizers) > 1 or any(config.frequency > 1 or config.reduce_on_plateau for config in configs):
            return False
        (self.optimizer,) = trainer.optimizers
        self.schedulers = [config.scheduler for config in configs]
        captures = self.device.type == "cuda" and can_be_captured(self.classifier, self.data)
        fixed = fixed_parts(self.classifier, self.data) if captures else None
        if fixed != self.captured:
            self.graph, self.captured = None, fixed
        return True

    def __call__(self, batch: Batch, step: Step) -> None:
        batch = self.data.on_before_batch_transfer(self.precision.convert_input(batch), 0)
        batch = self.data.transfer_batch_to_device(batch, self.device, 0)
        if self.graph is None and len(batch[0]) > 1 and self.captured is not None:
            self._capture(batch)
        fits = self.graph is not None and self.graph.fits(batch)
        gradients_of = self._replayed if fits else self._computed

        def closure() -> Tensor:
            loss = gradients_of(batch, step)
            self.classifier.on_before_optimizer_step(self.optimizer)
            if self.clip[0] is not None:
                self.classifier.configure_gradient_clipping(self.optimizer, *self.clip)
            return loss.detach()

        self.optimizer.step(closure)  # type: ignore[arg-type]
        for scheduler in self.schedulers:
            scheduler.step()

    def _computed(self, batch: Batch, step: Step) -> Tensor:
        batch = self.data.on_after_batch_transfer(batch, 0)
        with self.precision.train_step_context():
            loss = self.classifier.train_on(batch, step)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _replayed(self, batch: Batch, step: Step) -> Tensor:
        assert self.graph is not None
        loss, logits, labels = self.graph(batch)
        self.classifier.train_metrics.add(step, loss, logits, labels)
        return loss

    def _capture(self, batch: Batch) -> None:
        def outputs(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            images, labels = self.data.on_after_batch_transfer((images, labels), 0)
            with self.precision.train_step_context():
                return (*self.classifier.loss_and_logits(images, labels), labels)

        parameters = [p for p in self.classifier.parameters() if p.requires_grad]
        try:
            self.graph = StepGraph(outputs, batch, parameters)
        except RuntimeError as error:  # torch draws no more random numbers on this GPU afterwards
            raise TrainingError(
                "a training step cannot be captured as a CUDA graph; train with callbacks.lean_steps.at_most_s=0 "
                f"instead. The reason: {error}"
            ) from error
