"""What ended a training: its length, or whatever came before."""

from collections.abc import Mapping

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, Timer

__all__ = ["what_ended"]


def what_ended(trainer: Trainer, callbacks: Mapping[str, Callback]) -> tuple[str, bool]:
    """The setting or callback that ended a fit, and whether that was before the last of trainer.max_epochs.

    callbacks: those of the configuration, by name.
    """
    epochs, steps = trainer.max_epochs, trainer.max_steps
    ended_within = not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    if epochs is not None and trainer.current_epoch >= epochs and not ended_within:
        return f"trainer.max_epochs={epochs}", False
    if 0 < steps <= trainer.global_step:
        return f"trainer.max_steps={steps}", True
    names = {id(callback): f"callbacks.{name}" for name, callback in callbacks.items()}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = names.get(id(callback), "trainer.max_time")  # for which Lightning adds a Timer
        if isinstance(callback, EarlyStopping) and callback.stopping_reason.value:
            why = str(callback.stopping_reason_message).removesuffix(" Signaling Trainer to stop.")
            return f"{name} (EarlyStopping): {why}", True
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            return f"{name}: {callback.time_elapsed() + left:g} s have passed", True
    own = [f"callbacks.{name} ({_path(each)})" for name, each in callbacks.items() if not _is_known(each)]
    return " ".join(["trainer.should_stop was set", *(["by", " or ".join(own)] if own else [])]), True


def _path(callback: Callback) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"


def _is_known(callback: Callback) -> bool:
    """Whether a callback is of fmx or Lightning, none of which is left that stops a training."""
    return _path(callback).startswith(("fmx.", "pytorch_lightning."))
