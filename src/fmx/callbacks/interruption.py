"""SIGINT and SIGTERM end a training at its next step, with the state saved."""

import logging
import signal
from types import FrameType

from pytorch_lightning import Callback, LightningModule, Trainer

from fmx.callbacks.checkpoints import checkpoint_dir
from fmx.exits import Interrupted

__all__ = ["Interruption"]

log = logging.getLogger(__name__)


class Interruption(Callback):
    """Saves last.ckpt at the next step after SIGINT or SIGTERM and raises Interrupted; a second signal ends at once."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen from the first step on: Lightning has set its own handlers by now."""
        for number in self._earlier:
            signal.signal(number, self._note)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Save and stop where a signal came during the step."""
        if self._signum is not None:
            log.warning("%s: saving the state after step %d", signal.Signals(self._signum).name, trainer.global_step)
            trainer.save_checkpoint(checkpoint_dir(trainer) / "last.ckpt")
            raise Interrupted(self._signum)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self._signum is not None:
            self._restore()
            raise Interrupted(signum)
        self._signum = signum

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
