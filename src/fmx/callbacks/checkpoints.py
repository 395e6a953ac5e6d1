"""The two checkpoints of a run: best.ckpt, the best validation so far, and last.ckpt, the end of the last epoch."""

from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

__all__ = ["BestCheckpoint", "LastCheckpoint", "checkpoint_dir"]


def checkpoint_dir(trainer: Trainer) -> Path:
    """The folder of a run's checkpoints."""
    return Path(trainer.default_root_dir) / "checkpoints"


class BestCheckpoint(ModelCheckpoint):
    """Keeps best.ckpt: the weights with the best `monitor` so far, the earlier one where two are equal.

    mode: `max` or `min`. Where nothing is held out, best.ckpt is the newest epoch's.
    """

    def __init__(self, *, monitor: str, mode: str) -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, and whether there is a validation to choose by."""
        self.dirpath = str(checkpoint_dir(trainer))
        if not trainer.datamodule.has_validation:  # type: ignore[attr-defined]
            self.monitor = None
        super().setup(trainer, pl_module, stage)


class LastCheckpoint(ModelCheckpoint):
    """Keeps last.ckpt: the state after the newest epoch."""

    def __init__(self) -> None:
        super().__init__(filename="last", enable_version_counter=False, save_on_train_epoch_end=True)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder."""
        self.dirpath = str(checkpoint_dir(trainer))
        super().setup(trainer, pl_module, stage)
