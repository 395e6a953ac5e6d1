"""fmx's training steps against a plain loop's in one process, some of each in turn: what its steps alone cost.

    python benchmarks/in_turn.py [--rounds 40] [--only mlp] [--device cuda]

overhead.py compares whole epochs of processes, of which no two are equally quick; here both sides share one process,
one network and its optimizer, so that what else the machine does falls on both. Prints the ratio of medians.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from chosen import chosen
from extracted_data import extracted
from fmx.training.callbacks.lean_steps import _StepRunner
from fmx.training.classifier import Classifier, Step
from machine import describe, in_words
from overhead import CASES
from process import fmx_run
from result_file import measured_before, save

STEPS = 40  # of one side before the other has its turn


class InTurn(Callback):
    """Takes both sides' steps before training starts, and writes the seconds of a step of each turn to `path`."""

    def __init__(self, *, path: str, rounds: int) -> None:
        self.path = Path(path)
        self.rounds = rounds

    def on_train_start(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Let the two sides take turns."""
        data, train = trainer.datamodule, _StepRunner(trainer, pl_module)
        assert train.refresh(trainer)
        images, labels = data.sources["train"].images, data.sources["train"].labels
        images, labels = images.to(pl_module.device), labels.to(pl_module.device)
        order = data.indices["train"].to(pl_module.device)
        chunks = order[torch.randperm(len(order), device=order.device)].split(data.batch_size)
        sums = torch.zeros((), device=order.device), torch.zeros((), dtype=torch.int64, device=order.device)

        def fmx(number: int, chunk: Tensor) -> None:
            train((images.index_select(0, chunk), labels.index_select(0, chunk)), Step(number, 0, number))

        def plain(_: int, chunk: Tensor) -> None:
            x, y = data.normalize(data.augment(images.index_select(0, chunk))), labels.index_select(0, chunk)
            with train.precision.train_step_context():
                logits = pl_module.net(x)
                loss = pl_module.loss(logits, y)
            train.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            train.optimizer.step()
            sums[0].add_(loss.detach() * len(y))
            sums[1].add_((logits.detach().argmax(1) == y).sum())

        sides = {"fmx": fmx, "plain loop": plain}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(self.rounds + 1):
            first = number * STEPS % (len(chunks) - STEPS)
            for name in list(sides)[:: 1 if number % 2 else -1]:
                began = time.perf_counter()
                for place in range(first, first + STEPS):
                    sides[name](place, chunks[place])
                if order.is_cuda:
                    torch.cuda.synchronize()
                seconds[name].append((time.perf_counter() - began) / STEPS)
        self.path.write_text(json.dumps({name: values[1:] for name, values in seconds.items()}))


def measure(overrides: list[str], *, rounds: int, device: str) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "seconds.json"
        options = ["schedule=constant", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]
        options += ["+callbacks.in_turn._target_=in_turn.InTurn", f"+callbacks.in_turn.path={result}"]
        options += [f"+callbacks.in_turn.rounds={rounds}", f"data.root={extracted()}"]
        path = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
        fmx_run(*overrides, *options, device=device, env={"PYTHONPATH": path})
        seconds: dict[str, list[float]] = json.loads(result.read_text())
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", default="")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    machine = describe(arguments.device)
    measured = measured_before("in_turn", machine) if arguments.only else {}
    names = chosen(arguments.only, [name.partition(",")[0] for name in CASES])
    for name, (overrides, _) in CASES.items():
        if name.partition(",")[0] in names:
            seconds = measure(overrides, rounds=arguments.rounds, device=arguments.device)
            fmx, plain = (1000 * statistics.median(values) for values in seconds.values())
            measured[name] = {"seconds": seconds, "ratio": fmx / plain}
            print(f"{name}: {fmx:.3f} ms a step, plain {plain:.3f} ms: {fmx / plain:.3f} ×", flush=True)
    save("in_turn", machine, measured)
    print(f"On {in_words(machine)}.")


if __name__ == "__main__":
    main()
