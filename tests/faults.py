"""A callback that makes a run fail in the way that a file beside it says, until the file is gone."""

import json
import os
import signal
import time
from pathlib import Path

from pytorch_lightning import Callback


class Fault(Callback):
    """`faults.json`, in the working directory, maps a seed to raise, kill or hang."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_end(self, trainer, *_):
        file = Path("faults.json")
        fault = json.loads(file.read_text()).get(str(self.seed)) if file.exists() else None
        if fault is None or trainer.global_step < 3:
            return
        if fault == "raise":
            raise RuntimeError("this seed is out of luck")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
        time.sleep(600)


class DiesOnceSubmitted:
    """For hydra.callbacks: where there is a file `die`, kills the command before it records which jobs SLURM has."""

    def __init__(self, **_):
        from fmx.sweeps import slurm_queue

        submit = slurm_queue.submit

        def submit_and_die(*given):
            names = list(submit(*given))
            if Path("die").exists():
                Path("die").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            return names

        slurm_queue.submit = submit_and_die

    def __getattr__(self, name):
        return lambda **_: None


class Slow(Callback):
    """Waits at each step while there is a file in the working directory, so that a test can come in between."""

    def __init__(self, *, file="slow"):
        self.file = Path(file)

    def on_train_batch_end(self, *_):
        if self.file.exists():
            time.sleep(0.1)


class Held(Callback):
    """Waits after the first epoch until that file is gone, or a signal has asked the run to stop."""

    def __init__(self, *, file="slow"):
        self.file = Path(file)

    def on_train_batch_end(self, trainer, *_):
        while trainer.current_epoch and self.file.exists():
            if any(getattr(each, "asked", False) for each in trainer.callbacks):
                return
            time.sleep(0.1)
