"""What the parts of fmx cost of an epoch: one of them is left out at a time, epoch by epoch, in one process.

    python benchmarks/parts.py [--rounds 8] [--device cuda] [--table]

A profiler would add its own time to calls of a few microseconds. The first round, in which everything is done for the
first time, does not count; what is left out is taken back in before the next epoch.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from alternate import median
from extracted_data import extracted
from machine import describe, in_words
from overhead import CASES
from page_table import write_table
from result_file import load, save

NAMES = ["lenet, batch 256", "mlp, batch 32"]


def nothing(*_: object, **__: object) -> None:
    """Stand in for a part that is left out."""


@contextmanager
def left_out(owner: type, name: str) -> Iterator[None]:
    part = getattr(owner, name)
    setattr(owner, name, nothing)
    try:
        yield
    finally:
        setattr(owner, name, part)


def measure(overrides: list[str], *, rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of the epochs of each variant."""
    from pytorch_lightning import Trainer
    from pytorch_lightning.loggers import TensorBoardLogger
    from pytorch_lightning.loops.fit_loop import _FitLoop

    from fmx.run import main as fmx_main
    from fmx.training.callbacks.lean_steps import LeanSteps
    from fmx.training.classifier import Classifier, TrainMetrics

    parts: Mapping[str, tuple[type, str] | None] = {
        "everything": None,
        "loss, accuracy and gradients of each step": (TrainMetrics, "add"),
        "gradients alone": (Classifier, "on_before_optimizer_step"),
        "steps without Lightning": (LeanSteps, "on_train_batch_end"),
        "checkpoints": (Trainer, "save_checkpoint"),
        "TensorBoard": (TensorBoardLogger, "log_metrics"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    names = list(parts) * (rounds + 1)
    start, end, part_out = _FitLoop.on_advance_start, _FitLoop.on_advance_end, ExitStack()
    name, began = "", 0.0

    def on_advance_start(loop: _FitLoop) -> None:
        nonlocal name, began
        name = names[loop.trainer.current_epoch]
        if part := parts[name]:
            part_out.enter_context(left_out(*part))
        began = time.perf_counter()
        start(loop)

    def on_advance_end(loop: _FitLoop) -> None:
        end(loop)
        seconds[name].append(time.perf_counter() - began)
        part_out.close()

    accelerator = {"cpu": "cpu", "cuda": "gpu"}[device]
    with tempfile.TemporaryDirectory(prefix="fmx-bench-") as folder, ExitStack() as as_it_was:
        for place, hook in ("on_advance_start", on_advance_start), ("on_advance_end", on_advance_end):
            as_it_was.callback(setattr, _FitLoop, place, getattr(_FitLoop, place))
            setattr(_FitLoop, place, hook)
        options = [f"trainer.max_epochs={len(names)}", f"trainer.accelerator={accelerator}"]
        as_it_was.callback(setattr, sys, "argv", sys.argv)
        sys.argv = ["fmx.run", *overrides, *options, f"data.root={extracted()}", f"hydra.run.dir={folder}/run"]
        fmx_main()
    return {name: values[1:] for name, values in seconds.items()}


def write(results: dict[str, Any]) -> None:
    measured = results["measured"]
    parts = [name for name in next(iter(measured.values())) if name != "everything"]
    rows = []
    for case, seconds in measured.items():
        whole = median(seconds["everything"])
        shares = [f"{1000 * (whole - median(seconds[part])):+.0f} ms" for part in parts]
        rows.append([case, f"{whole:.3f} s", *shares])
    rounds = len(next(iter(measured.values()))["everything"])
    caption = (
        f"Medians of {rounds} epochs each, in turn: what an epoch takes longer with a part than without it. On "
        f"{in_words(results['machine'])}."
    )
    write_table("parts", ["case", "an epoch", *parts], rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("parts", arguments.device)
    else:
        machine = describe(arguments.device)
        options = {"rounds": arguments.rounds, "device": arguments.device}
        measured = {name: measure(CASES[name][0], **options) for name in NAMES}
        results = save("parts", machine, measured)
    write(results)


if __name__ == "__main__":
    main()
