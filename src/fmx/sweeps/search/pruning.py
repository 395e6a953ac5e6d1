"""The callback that reports a trial's metric to its search, and stops a trial that the search prunes."""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from fmx.process.exits import Pruned

if TYPE_CHECKING:
    from fmx.sweeps.search.study import RunningTrial

__all__ = ["Pruning"]

log = logging.getLogger(__name__)


class Pruning(Checkpoint):
    """Reports `monitor` to the study after each validation; raises Pruned if the study prunes the trial.

    Does nothing in a run that is no trial or not a trial's first, or after the last step. A Checkpoint, since Lightning
    calls those last: the row of this validation must be in history.csv.
    """

    def __init__(self, *, monitor: str) -> None:
        self.monitor = monitor
        self._validations = 0
        self._trial: RunningTrial | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the trial."""
        if trainer.is_global_zero:
            from fmx.sweeps.search.study import RunningTrial

            self._trial = RunningTrial.of_run(Path(trainer.default_root_dir))
            if self._trial is None:
                log.info("this run is not the first of a running search's trial: its validations do not end it")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and stop if the trial is pruned; all processes of a distributed run stop together."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        value = float(trainer.callback_metrics.get(self.monitor, math.nan))
        stop = self._trial is not None and self._trial.report(self._validations, value)
        stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop and trainer.global_step < trainer.estimated_stepping_batches:
            raise Pruned(epoch=trainer.current_epoch + 1, metric=self.monitor, value=value)

    def state_dict(self) -> dict[str, Any]:
        """The number of validations so far."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of validations."""
        self._validations = state_dict["validations"]
