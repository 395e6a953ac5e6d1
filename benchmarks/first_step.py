"""A callback from outside fmx that notes when training begins its first step."""

import time
from pathlib import Path

from pytorch_lightning import Callback


class FirstStep(Callback):
    def __init__(self, *, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 0:
            self.path.write_text(str(time.time()))
