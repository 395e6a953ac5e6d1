"""How long fmx takes to answer and to start: help, an error, the first training step, against bare imports.

    python benchmarks/startup.py [--repeats 7] [--device cuda] [--table]

The commands take turns in processes of their own, each with its bytecode compiled and its files in the page cache.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alternate import alternate, median, ratio
from claim import Claim, at_most
from extracted_data import extracted
from machine import describe, in_words
from page_table import write_table
from process import timed
from result_file import load, save

HERE = Path(__file__).parent
PYTHON = sys.executable
IMPORTS = "import torch, torchvision, pytorch_lightning"
NO_EXIT = f"{IMPORTS}, os; os._exit(0)"  # frees nothing of what it imported
READ = "import pathlib, sys; [path.read_bytes() for path in pathlib.Path(sys.argv[1]).glob('*-ubyte')]"


def first_step(data: Path, device: str) -> float:
    """Seconds from the command to the start of the first training step of the default run."""
    accelerator = {"cpu": "cpu", "cuda": "gpu"}[device]
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "began"
        began = time.time()
        timed(
            [PYTHON, "-m", "fmx.run", f"data.root={data}", f"hydra.run.dir={folder}/run", "trainer=smoke",
             f"trainer.accelerator={accelerator}", "+callbacks.first_step._target_=first_step.FirstStep",
             f"+callbacks.first_step.path={note}"],
            env={"PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"},
        )  # fmt: skip
        return float(note.read_text()) - began


def measure(repeats: int, device: str) -> dict[str, Any]:
    data = extracted()
    sides = {
        "import hydra": lambda _: timed([PYTHON, "-c", "import hydra"]).seconds,
        "--help": lambda _: timed([PYTHON, "-m", "fmx.run", "--help"]).seconds,
        "wrong name": lambda _: timed([PYTHON, "-m", "fmx.run", "model=dilatd"], expected=2).seconds,
        "wrong value": lambda _: timed([PYTHON, "-m", "fmx.run", "optim.lr=-1"], expected=2).seconds,
        "three imports": lambda _: timed([PYTHON, "-c", IMPORTS]).seconds,
        "three imports, no exit": lambda _: timed([PYTHON, "-c", NO_EXIT]).seconds,
        "reading the data": lambda _: timed([PYTHON, "-c", READ, f"{data}/FashionMNIST/raw"]).seconds,
        "python": lambda _: timed([PYTHON, "-c", "pass"]).seconds,
        "first step": lambda _: first_step(data, device),
    }
    for side in sides.values():  # bytecode and page cache
        side(0)
    seconds = alternate(sides, repeats)
    reading = max(0.0, median(seconds["reading the data"]) - median(seconds["python"]))
    return {
        "seconds": seconds,
        "help_over_hydra": ratio(seconds["--help"], seconds["import hydra"]),
        "error_over_hydra": ratio(seconds["wrong name"], seconds["import hydra"]),
        "first_step_ratio": median(seconds["first step"]) / (median(seconds["three imports"]) + reading),
        "first_step_ratio_no_exit": (
            median(seconds["first step"]) / (median(seconds["three imports, no exit"]) + reading)
        ),
    }


def claims(measured: dict[str, Any]) -> list[Claim]:
    medians = {name: median(values) for name, values in measured["seconds"].items()}
    limit = max(0.6, 1.5 * medians["import hydra"])
    answers = [
        at_most(f"`{name}`" if name == "--help" else name, medians[name], limit, "{:.2f} s")
        for name in ("--help", "wrong name", "wrong value")
    ]
    return [*answers, at_most("command to first step ÷ imports and reading", measured["first_step_ratio"], 1.15)]


def write(results: dict[str, Any]) -> None:
    measured = results["measured"]
    medians = {name: median(values) for name, values in measured["seconds"].items()}
    *answers, first_step = claims(measured)
    rows = [[answer.what, answer.measured, answer.target] for answer in answers]
    rows.append(
        ["command to first step", (f"{medians['first step']:.2f} s = **{measured['first_step_ratio']:.2f} ×** imports "
         f"({medians['three imports']:.2f} s) and reading; {measured['first_step_ratio_no_exit']:.2f} × where Python's "
         f"end is not counted ({medians['three imports, no exit']:.2f} s)"), first_step.target]
    )  # fmt: skip
    caption = f"Medians of {len(measured['seconds']['--help'])}. On {in_words(results['machine'])}."
    write_table("startup", ["what", "measured", "target"], rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("startup", arguments.device)
    else:
        machine = describe(arguments.device)
        results = save("startup", machine, measure(arguments.repeats, arguments.device))
    write(results)


if __name__ == "__main__":
    main()
