"""A callback from outside fmx that notes how old its process is when training begins its first step."""

import os
import time
from pathlib import Path

from pytorch_lightning import Callback


class AgeAtFirstStep(Callback):
    """Writes the seconds since the process began, from Linux's own clock, to a file."""

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_start(self, trainer, *_) -> None:
        """Note the age at step 0."""
        if trainer.global_step == 0:
            began = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
            age = time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")
            self.path.write_text(str(age))
