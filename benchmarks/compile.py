"""What trainer.compile costs and gains on a CPU: seconds of the first step, and of the ones after it.

    python benchmarks/compile.py [--rounds 10] [--only mlp,lenet]

Each network trains as its runs do, compiled and not, in one process, some steps of each in turn. Its first compiled
step is timed there, with a full cache of compiled code, and before in a process with an empty one. No further processes
compile, so that its CPU time, with that of its compilers, is all that it takes.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from alternate import alternate, median
from chosen import chosen
from extracted_data import extracted
from fmx.runs.composition import compose_config
from fmx.training.build import build_classifier, build_data
from fmx.training.compiled_net import CompiledNet
from fmx.training.hardware import ask_for_gpus_once, keep_freed_memory, resolve_precision
from machine import describe, in_words
from page_table import write_table
from result_file import measured_before, save

MODELS = ["mlp", "lenet", "three_conv", "resnet20"]
STEPS = 10  # of one side before the other has its turn
SIDES = ["eager", "compiled"]
Seconds = tuple[float, float]  # that passed, and of the CPU


def timed(function: Callable[[], object]) -> Seconds:
    """The seconds that a call takes."""
    began, before = time.perf_counter(), cpu_time()
    function()
    return time.perf_counter() - began, cpu_time() - before


def cpu_time() -> float:
    """That of this process and of the compilers that it has called."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def first_step(model: str) -> dict[str, Any]:
    """The seconds of the first compiled step, with an empty cache."""
    step, _ = steps_of(model, compiled=True)
    return {"first_cold": timed(lambda: step(0))}


def in_turn(model: str, rounds: int) -> dict[str, Any]:
    """The seconds of a step of each side, and of the first compiled one, with a full cache."""
    sides, firsts, number = {}, {}, 0
    for side in SIDES:
        sides[side], number = steps_of(model, compiled=side == "compiled")
        firsts[side] = timed(lambda side=side: sides[side](0))

    def turn(side: str, first: int) -> Seconds:
        passed, computed = timed(lambda: [sides[side](first * STEPS + each) for each in range(STEPS)])
        return passed / STEPS, computed / STEPS

    taken = alternate({side: lambda first, side=side: turn(side, first) for side in SIDES}, rounds)
    medians = {side: [median([each[kind] for each in taken[side]]) for kind in (0, 1)] for side in SIDES}
    return {
        "first_warm": firsts["compiled"],
        "steps": medians,
        "steps_per_epoch": number,
        "threads": torch.get_num_threads(),
    }


def steps_of(model: str, *, compiled: bool) -> tuple[Callable[[int], None], int]:
    """A function that trains on the batch of a number, and the number of batches of an epoch."""
    cfg = compose_config([f"model={model}", "augment=none", f"data.root={extracted()}"])
    torch.manual_seed(1)
    classifier, data = build_classifier(cfg), build_data(cfg)
    optimizer = classifier.make_optimizer(classifier.net.parameters())
    order = data.indices["train"][torch.randperm(len(data.indices["train"]))]
    chunks = order.split(data.batch_size)[: len(order) // data.batch_size]
    images, labels = data.sources["train"].images, data.sources["train"].labels
    is_mixed = resolve_precision(cfg.trainer.precision, accelerator="cpu", net=classifier.net) == "bf16-mixed"
    if compiled:
        classifier.compiled = CompiledNet(classifier.net, batch_size=data.batch_size)

    def step(number: int) -> None:
        chunk = chunks[number % len(chunks)]
        x, y = data.normalize(images.index_select(0, chunk)), labels.index_select(0, chunk)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed), classifier.compiled_step(x):
            loss, _ = classifier.loss_and_logits(x, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, math.ceil(len(order) / data.batch_size)


def measure(model: str, rounds: int) -> dict[str, Any]:
    """All figures of a network, each from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        measured = {}
        for part in (["--first"], []):
            command = [sys.executable, __file__, "--of", model, "--rounds", str(rounds), *part]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            measured |= json.loads(done.stdout.splitlines()[-1])
    print(model, measured, flush=True)
    return measured


def row(model: str, measured: dict[str, Any]) -> list[str]:
    (passed, eager), (passed_compiled, compiled) = (measured["steps"][side] for side in SIDES)
    gain = (eager - compiled) * measured["steps_per_epoch"]
    firsts = [measured[name][1] for name in ("first_cold", "first_warm")]
    pays = [f"{math.ceil(first / gain):,}" if gain > 0 else "never" for first in firsts]
    return [
        f"`{model}`", f"{1e3 * eager:.2f} ms", f"{1e3 * compiled:.2f} ms", f"{compiled / eager:.2f}",
        f"{passed_compiled / passed:.2f}", *(f"{first:.0f} s" for first in firsts), *pays,
    ]  # fmt: skip


def write(results: dict[str, Any]) -> None:
    header = ["model", "a step", "compiled", "ratio", "ratio of the time passed", "first step", "with a full cache"]
    header += ["epochs until it pays", "with a full cache"]
    threads = " or ".join(sorted({str(each["threads"]) for each in results["measured"].values()}))
    caption = (
        "Seconds of the CPU, but for one column; medians of steps of `data.batch_size` images of Fashion-MNIST, in "
        f"turn, with OMP_NUM_THREADS={threads}. On {in_words(results['machine'])}. Printed by "
        "`python benchmarks/compile.py`."
    )
    write_table("compile", header, [row(model, each) for model, each in results["measured"].items()], caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default="")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.of:
        keep_freed_memory()
        ask_for_gpus_once()
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        made = first_step(arguments.of) if arguments.first else in_turn(arguments.of, arguments.rounds)
        print(json.dumps(made))
        return
    machine = describe("cpu")
    measured = measured_before("compile", machine) if arguments.only else {}
    measured |= {model: measure(model, arguments.rounds) for model in chosen(arguments.only, MODELS)}
    write(save("compile", machine, measured))


if __name__ == "__main__":
    main()
