"""SIGINT, SIGTERM and SIGHUP end a training at its next step, with the state saved."""

import logging
import signal
import threading
from types import FrameType
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from fmx.process.exits import STOPPING, Interrupted, last_signal, leave_closed_terminal, overwrite_echo
from fmx.training.callbacks.checkpoints import LastCheckpoint, is_time_to_ask

__all__ = ["SaveOnSignal"]

log = logging.getLogger(__name__)


class SaveOnSignal(Checkpoint):
    """Saves last.ckpt at the next step after such a signal and raises Interrupted; a second signal ends at once.

    A Checkpoint, so that Lightning calls it after all others: what they did in this step has to be saved as well.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        main = threading.current_thread() is threading.main_thread()  # no other thread may have handlers
        numbers = STOPPING if main else ()
        handlers = {number: signal.getsignal(number) for number in numbers}
        # In the background of a shell script Ctrl-C is meant for others, and ignored; so is SIGHUP below nohup.
        self._earlier = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    @property
    def asked(self) -> bool:
        """Whether a signal came that asks this process to stop."""
        return self._signum is not None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen from the first step on: Lightning has set its own handlers by now."""
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
        if is_time_to_ask(trainer):
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
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
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
