"""The two checkpoints of a run: best.ckpt, of the best validation so far, and last.ckpt, from which runs resume."""

import io
import math
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from torch import nn

from fmx.compat import SWITCH, TESTED, gradient_order, resume_in_epoch, sum_gradients_in
from fmx.errors import ConfigError, TrainingError
from fmx.training.classifier import BATCH_NORMS, Classifier, validates
from fmx.training.random_state import random_state, restore_random_state

__all__ = ["BestCheckpoint", "LastCheckpoint", "checkpoint_dir", "is_between_steps", "is_sync_step"]

AT_MOST_EVERY_S = 1.0  # writing a checkpoint would take longer than training that long again
ASK_EVERY = 20  # optimizer steps between exchanges of the processes, for which all wait


def checkpoint_dir(trainer: Trainer) -> Path:
    """The folder of a run's checkpoints."""
    return Path(trainer.default_root_dir) / "checkpoints"


def is_between_steps(trainer: Trainer) -> bool:
    """Whether a training step follows this one directly: no validation is due, no gradients are being accumulated."""
    loop = trainer.fit_loop.epoch_loop
    if (loop.batch_idx + 1) % trainer.accumulate_grad_batches or loop.batch_progress.is_last_batch:
        return False
    every = trainer.val_check_batch
    counted = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    return not isinstance(every, int) or (counted + 1) % every != 0


def is_sync_step(trainer: Trainer) -> bool:
    """Whether the processes of a run exchange requests after this step; the answer is the same in each of them."""
    taken = (trainer.fit_loop.epoch_loop.batch_idx + 1) // trainer.accumulate_grad_batches
    return is_between_steps(trainer) and (trainer.world_size == 1 or taken % ASK_EVERY == 1)


def _is_recent(written: float, trainer: Trainer) -> bool:
    """Whether the last checkpoint is recent enough; never for several processes, which would have to agree."""
    return trainer.world_size == 1 and time.monotonic() - written < AT_MOST_EVERY_S


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt: the weights with the best `monitor` so far, the earlier one where two are equal.

    mode: `max` or `min`. Without validation images, best.ckpt holds recent weights, and the last ones at the end.
    """

    def __init__(self, *, monitor: str, mode: str) -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self._written = -math.inf

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the folder, and drop `monitor` where there is no validation."""
        self.dirpath = str(checkpoint_dir(trainer))
        if not validates(trainer):
            self.monitor = None
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """ConfigError where training would end before its first validation."""
        super().on_train_start(trainer, pl_module)
        first, length = _num_batches_to_validation(trainer), _num_batches(trainer)
        if self.monitor and first > length:
            raise ConfigError(
                f"trainer.val_check_interval={trainer.val_check_interval} leaves no validation to choose a checkpoint "
                f"by in {length} training batches; validate more often, or train longer"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the best validation so far; without validation, if the last checkpoint is not recent."""
        if self.monitor or not _is_recent(self._written, trainer):
            super().on_train_epoch_end(trainer, pl_module)
            self._written = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last weights where there is no validation."""
        if not self.monitor:  # each saves at the ends that are its own, unless the present weights are saved already
            super().on_train_epoch_end(trainer, pl_module)
            super().on_validation_end(trainer, pl_module)


def _num_batches_to_validation(trainer: Trainer) -> int:
    """The number of batches of a process before the first validation."""
    every, epochs = trainer.val_check_batch, trainer.check_val_every_n_epoch
    inside = int(every) if isinstance(every, int) else 0  # a user's Trainer may validate by the clock
    return inside if epochs is None else (epochs - 1) * int(trainer.num_training_batches) + inside


def _num_batches(trainer: Trainer) -> int:
    """The number of batches of a process in the whole training."""
    an_epoch, summed = int(trainer.num_training_batches), trainer.accumulate_grad_batches
    epochs, rest = divmod(int(trainer.estimated_stepping_batches), math.ceil(an_epoch / summed))
    return epochs * an_epoch + rest * summed


class LastCheckpoint(Checkpoint):
    """Keeps last.ckpt, from which training resumes as if it had never stopped; at the end it holds the final weights.

    It is written before each epoch but the first (unless the last one is less than a second old), at the end, and every
    `every_s` seconds. Besides Lightning's state it holds every random state of every process.
    """

    filename = "last"

    def __init__(self, *, every_s: float) -> None:
        self.every_s = every_s
        self.elapsed_before_s = 0.0  # in the parts of this run before it was resumed
        self._at_epoch_start = False
        self._finished = False
        self.is_final = False  # whether last.ckpt holds the final state
        self._states: list[dict[str, Any]] = []  # of every process
        self._modes: dict[str, Any] | None = None  # of what callbacks have frozen, in the checkpoint to resume from
        self._loader_states: list[dict[str, Any]] = []  # of the checkpoint that training resumes from
        self._gradient_order: list[int] = []  # of a distributed run
        self._began = self._saved = time.monotonic()
        self._written = -math.inf  # by this process

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; where training had finished already, skip it."""
        self._began = self._saved = time.monotonic()
        if self._finished:
            trainer.should_stop = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore what is frozen, and the random states, now that nothing else draws before the first step."""
        if self._gradient_order:
            sum_gradients_in(self._gradient_order, trainer.strategy.model)
        if self._modes is not None:
            _restore_modes(pl_module, self._modes)
        if not self._states:
            return
        state = self._states[trainer.global_rank % len(self._states)]
        self._states = []
        restore_random_state(state["random"])
        assert isinstance(pl_module, Classifier)
        pl_module.train_metrics.restore(state["tally"])
        if not resume_in_epoch(trainer, self._loader_states):
            raise TrainingError(
                "training cannot resume in the middle of this epoch with this version of pytorch-lightning: "
                f"install one of {', '.join(TESTED['pytorch-lightning'])}, or unset {SWITCH}"
            )
        pl_module.begin_extension()
        if self._at_epoch_start:  # or Lightning would treat the epoch that begins as ended
            trainer.fit_loop.epoch_loop.restarting = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state between two epochs."""
        if trainer.current_epoch > 0 and not _is_recent(self._written, trainer):
            self.save(trainer, at_epoch_start=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the state within an epoch, every `every_s` seconds."""
        if not is_sync_step(trainer):
            return
        due = time.monotonic() - self._saved >= self.every_s
        if trainer.world_size > 1:
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        self._finished = True
        self.save(trainer)
        self.is_final = True

    def save(self, trainer: Trainer, *, at_epoch_start: bool = False) -> None:
        """Write last.ckpt; every process of a distributed run has to call it at the same step."""
        assert isinstance(trainer.lightning_module, Classifier)
        # "tally" is the key of all checkpoints since 0.1.
        own = {"random": random_state(), "tally": trainer.lightning_module.train_metrics.state()}
        self._states = [own]
        if trainer.world_size > 1:
            self._states = _gather_states(own, trainer.world_size)
            self._gradient_order = gradient_order(trainer.strategy.model)
        self._at_epoch_start = at_epoch_start
        self._modes = _modes(trainer.lightning_module)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()  # a resumed run does not log these points again
        trainer.save_checkpoint(checkpoint_dir(trainer) / f"{self.filename}.ckpt")
        self._states = []
        self._saved = self._written = time.monotonic()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep where the loader stood, as Lightning writes it."""
        loops = checkpoint.get("loops") or {}
        self._loader_states = loops.get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])

    def state_dict(self) -> dict[str, Any]:
        """What training needs to resume from here; other checkpoints, such as best.ckpt, hold no random states."""
        return {
            "states": self._states,
            "modes": self._modes,
            "gradient_order": self._gradient_order,
            "at_epoch_start": self._at_epoch_start,
            "finished": self._finished,
            "elapsed_s": self.elapsed_before_s + time.monotonic() - self._began,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what was read until training starts."""
        self._states = state_dict["states"]
        self._modes = state_dict.get("modes")  # earlier runs did not record them
        order = state_dict.get("gradient_order")  # earlier runs did not record it
        self._gradient_order = order if isinstance(order, list) and all(type(each) is int for each in order) else []
        self._at_epoch_start = state_dict["at_epoch_start"]
        self._finished = state_dict["finished"]
        self.elapsed_before_s = state_dict["elapsed_s"]


def _modes(module: nn.Module) -> dict[str, Any]:
    """Which parameters are frozen, and the batch norms that do not train, with their two flags."""
    norms = {name: each for name, each in module.named_modules() if isinstance(each, BATCH_NORMS)}
    flags = {name: [each.training, each.track_running_stats] for name, each in norms.items()}
    return {
        "frozen": [name for name, each in module.named_parameters() if not each.requires_grad],
        "norms": {name: pair for name, pair in flags.items() if pair != [True, True]},
    }


def _restore_modes(module: nn.Module, modes: dict[str, Any]) -> None:
    """Freeze what was frozen, as callbacks that freeze and thaw (Lightning's BaseFinetuning) do not restore it."""
    for name, each in module.named_parameters():
        each.requires_grad = name not in modes["frozen"]
    for name, part in module.named_modules():
        if isinstance(part, BATCH_NORMS):
            part.training, part.track_running_stats = modes["norms"].get(name, [True, True])


def _gather_states(own: dict[str, Any], world_size: int) -> list[dict[str, Any]]:
    """Every process's state, in the order of ranks; sent as bytes, since torch sends no tensors inside objects."""
    buffer = io.BytesIO()
    torch.save(own, buffer)
    written = [b""] * world_size
    torch.distributed.all_gather_object(written, buffer.getvalue())
    return [torch.load(io.BytesIO(each), map_location="cpu", weights_only=True) for each in written]
