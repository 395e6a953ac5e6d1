"""What a plain Lightning script costs: ten epochs of a multilayer perceptron on MNIST, against the same job in fmx.

    python benchmarks/plain_lightning.py [--rounds 3] [--epochs 10] [--device cuda] [--table]

tutorials/lightning_mlp.py is such a script: a LightningModule with `self.log` and a torchmetrics accuracy at each step,
TensorBoard and CSV files, the best and the last checkpoint, torchvision's data set with ToTensor and Normalize in a
DataLoader without workers, or with two. fmx trains the same network with the same optimizer, batches and split sizes,
with everything on. It writes the loss and accuracy of each step, the script those of every 50th (Lightning's default).
Whole processes take turns, a new seed each round. The CPU's seconds are those of a process with its workers.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from alternate import alternate, median, ratio
from claim import Claim, at_least
from extracted_data import extracted
from machine import describe, in_words
from page_table import write_table
from process import fmx_run, tutorial_run
from result_file import load, save
from vs_tutorial import accuracy

FMX = ["data=mnist", "model=mlp", "optim=adam", "optim.lr=1e-3", "schedule=constant", "data.batch_size=128",
       "callbacks.history.every_step=true", "logger=[default,csv]"]  # fmt: skip
WORKERS = {"no workers": 0, "two workers": 2}
TARGET = 3  # the quicker of the two scripts / fmx, time passed


def plain(seed: int, *, num_workers: int, epochs: int, device: str, data: Path) -> dict[str, float]:
    script = ["lightning_mlp.py", "--num-workers", str(num_workers)]
    run = tutorial_run(script, epochs=epochs, seed=seed, device=device, data=data)
    return {"process_s": run["process_s"], "cpu_s": run["cpu_s"], "accuracy": run["history"][-1]["accuracy"]}


def fmx(seed: int, *, epochs: int, device: str, data: Path) -> dict[str, float]:
    run = fmx_run(*FMX, f"trainer.max_epochs={epochs}", f"seed={seed}", f"data.root={data}", device=device)
    figures = {"process_s": run["process_s"], "cpu_s": run["cpu_s"], "accuracy": run["metrics"]["test"]["accuracy"]}
    return figures | {"threads": run["device"]["threads"]}


def measure(rounds: int, epochs: int, device: str) -> dict[str, Any]:
    options: dict[str, Any] = {"epochs": epochs, "device": device, "data": extracted()}
    sides = {name: partial(plain, num_workers=number, **options) for name, number in WORKERS.items()}
    runs = alternate(sides | {"fmx": partial(fmx, **options)}, rounds)
    columns = {side: {key: [run[key] for run in each] for key in each[0]} for side, each in runs.items()}
    return {"epochs": epochs, "overrides": FMX, "sides": columns}


def claims(results: dict[str, Any]) -> list[Claim]:
    sides, epochs = results["measured"]["sides"], results["measured"]["epochs"]
    least = min(ratio(sides[name]["process_s"], sides["fmx"]["process_s"]) for name in WORKERS)
    return [at_least(f"plain Lightning script ÷ fmx, {epochs} epochs of an MLP on MNIST, process", least, TARGET)]


def write(results: dict[str, Any]) -> None:
    measured, rows = results["measured"], []
    sides = measured["sides"]
    rounds = len(sides["fmx"]["process_s"])
    for name, side in sides.items():
        label = "fmx" if name == "fmx" else f"plain Lightning, {name}"
        cells = [
            cell
            for key in ("process_s", "cpu_s")
            for cell in (f"{median(side[key]):.1f} s", f"**{ratio(side[key], sides['fmx'][key]):.1f} ×**")
        ]
        rows.append([label, *cells, accuracy(side)])
    caption = (
        f"{measured['epochs']} epochs, whole processes in turn; rounds, with a seed each: {rounds}; medians, and "
        f"mean accuracy ± standard error. Target: ≥ {TARGET} × time passed, for both scripts. fmx: "
        f"`{' '.join(measured['overrides'])}`. On {in_words(results['machine'])}, "
        f"threads: {max(sides['fmx']['threads'])}, load {results['machine']['load_before']} before."
    )
    header = ["script", "time passed", "÷ fmx", "CPU time", "÷ fmx", "test accuracy"]
    write_table("plain_lightning", header, rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("plain_lightning", arguments.device)
    else:
        machine = describe(arguments.device)
        results = save("plain_lightning", machine, measure(arguments.rounds, arguments.epochs, arguments.device))
    write(results)


if __name__ == "__main__":
    main()
