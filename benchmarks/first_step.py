"""A callback from outside fmx that notes when training begins its first step."""

import time
from pathlib import Path

from pytorch_lightning import Callback


class FirstStep(Callback):
    """Writes the time of the first step to a file."""

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_start(self, *arguments) -> None:
        """Note the time of batch 0."""
        if arguments[-1] == 0:
            self.path.write_text(str(time.time()))
