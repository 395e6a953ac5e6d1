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
        "first step": lambda _: first_step(data, device),
    }
    for side in sides.values():  # bytecode and page cache
        side(0)
    return {"seconds": alternate(sides, repeats)}


def claims(results: dict[str, Any]) -> list[Claim]:
    seconds = results["measured"]["seconds"]
    medians = {name: median(values) for name, values in seconds.items()}
    limit = max(0.6, 1.5 * medians["import hydra"])
    answers = [
        at_most(f"`{name}`" if name == "--help" else name, medians[name], limit, "{:.2f} s")
        for name in ("--help", "wrong name", "wrong value")
    ]
    # The first step comes long before Python's end, so that of the imports does not count either.
    to_imports = ratio(seconds["first step"], seconds["three imports, no exit"])
    return [*answers, at_most("command to first step ÷ imports", to_imports, 0.6)]


def write(results: dict[str, Any]) -> None:
    medians = {name: median(values) for name, values in results["measured"]["seconds"].items()}
    *answers, first_step = claims(results)
    rows = [[answer.what, answer.measured, answer.target] for answer in answers]
    rows.append(
        ["command to first step", (f"{medians['first step']:.2f} s = **{first_step.measured}** imports "
         f"({medians['three imports, no exit']:.2f} s)"), first_step.target]
    )  # fmt: skip
    caption = (
        f"Medians of {len(results['measured']['seconds']['--help'])}. Imports: `{IMPORTS}`, without Python's end; with "
        f"it they take {medians['three imports']:.2f} s. On {in_words(results['machine'])}."
    )
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
