"""How a run begins that goes on with a finished one: with copies of its state, its best weights and its history."""

import logging
import time
from pathlib import Path
from typing import Any

import torch

from fmx.config.bounded_files import read_bytes
from fmx.errors import DataError
from fmx.runs.checkpoint_files import NEWEST, CheckpointFiles, load_checkpoint
from fmx.runs.extension import Extension
from fmx.training.callbacks.checkpoints import LastCheckpoint
from fmx.training.callbacks.history import HISTORY, STEPS

__all__ = ["begin_extension", "log_extension"]

log = logging.getLogger(__name__)
MAX_HISTORY_BYTES = 256_000_000  # some hundred per validation, some twenty per step
WAIT_S = 60.0  # of other processes, for the copies of the first
PAUSE_S = 0.1


def log_extension(extension: Extension, epochs: int) -> None:
    """Log what goes on, and what of it changes. epochs: of both trainings together."""
    log.info(
        "extend: goes on with %s, after epoch %d (step %d), to epoch %d",
        extension.parent,
        extension.epoch,
        extension.step,
        epochs,
    )
    if extension.changed:
        log.info("extend: changed: %s", extension.changes)
    if extension.anew:
        log.info("extend: the schedule starts anew, over the added epochs; the optimizer keeps its state")
    else:
        log.info("extend: schedule and optimizer go on from their state")


def begin_extension(extension: Extension, run_dir: Path, *, writes: bool) -> None:
    """Copy from the parent what the new run goes on with; last of all the checkpoint that it then resumes from.

    writes: whether this is the process that writes; others wait for it. DataError: a file is missing or damaged.
    """
    newest = run_dir / "checkpoints" / NEWEST
    if not writes:
        end = time.monotonic() + WAIT_S
        while not newest.is_file() and time.monotonic() < end:
            time.sleep(PAUSE_S)
        return
    folder, files = extension.parent / "checkpoints", CheckpointFiles()
    state = load_checkpoint(folder / NEWEST)
    for name in (HISTORY, STEPS):
        if (extension.parent / name).is_file():
            (run_dir / name).write_bytes(read_bytes(extension.parent / name, at_most=MAX_HISTORY_BYTES))
    if (folder / "best.ckpt").is_file():
        files.save_checkpoint(load_checkpoint(folder / "best.ckpt"), newest.with_name("best.ckpt"))
    weights = state.get("current_model_state")
    if isinstance(weights, dict) and all(
        torch.equal(each, state["state_dict"][name]) for name, each in weights.items()
    ):
        log.info("extend: the weights go on from their average: the checkpoint of that run has no others")
    files.save_checkpoint(_unfinished(state, folder / NEWEST, anew=extension.anew), newest)


def _unfinished(state: dict[str, Any], path: Path, *, anew: bool) -> dict[str, Any]:
    """The final state of a training as that at the start of a further epoch."""
    try:
        state["callbacks"][LastCheckpoint.__name__] |= {"finished": False, "at_epoch_start": True}
        state["loops"]["fit_loop"]["state_dict"]["combined_loader"] = []  # it has served its last epoch
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be continued from: it does not hold the state of a training") from error
    return state | {"lr_schedulers": []} if anew else state
