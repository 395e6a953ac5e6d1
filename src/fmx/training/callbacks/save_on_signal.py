"""SIGINT, SIGTERM and SIGHUP stop training at the next step, after saving its state."""

import logging
import signal
import threading
from types import FrameType
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from fmx.process.exits import STOPPING, Interrupted, last_signal, leave_closed_terminal, overwrite_echo
from fmx.training.callbacks.checkpoints import LastCheckpoint, is_sync_step

__all__ = ["SaveOnSignal"]

log = logging.getLogger(__name__)


class SaveOnSignal(Checkpoint):
    """Saves last.ckpt at the next step after a signal and raises Interrupted; a second signal raises it at once.

    A Checkpoint, so that Lightning calls it after all other callbacks, whose changes in this step must be saved too.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        main = threading.current_thread() is threading.main_thread()  # other threads cannot set handlers
        numbers = STOPPING if main else ()
        handlers = {number: signal.getsignal(number) for number in numbers}
        # A background job of a shell script ignores SIGINT, and nohup ignores SIGHUP: both stay ignored.
        self._earlier = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    @property
    def asked(self) -> bool:
        """Whether a signal has asked this process to stop."""
        return self._signum is not None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the handlers, after Lightning has set its own."""
        self._signum = last_signal()
        for number in self._earlier:
            signal.signal(number, self._note)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop where a signal came at the end of the epoch before."""
        self._stop_if_asked(trainer, at_epoch_start=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop where a signal came, as soon as no validation is due first."""
        if is_sync_step(trainer):
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer, *, at_epoch_start: bool = False) -> None:
        asked = self.asked
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if not asked:
            return
        signum = self._signum or signal.SIGTERM  # another process of this run was asked
        log.warning("%s: saving the state after step %d", signal.Signals(signum).name, trainer.global_step)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LastCheckpoint):
                callback.save(trainer, at_epoch_start=at_epoch_start)
        raise Interrupted(signum, agreed=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the earlier handlers."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the earlier handlers."""
        self._restore()

    def _note(self, signum: int, _: FrameType | None) -> None:
        overwrite_echo(signum)
        if self._signum is not None:
            self._restore()
            raise Interrupted(signum)
        self._signum = signum
        leave_closed_terminal(signum)

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
