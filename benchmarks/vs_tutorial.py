"""Each recipe as tutorials write it against the same recipe in fmx: seconds an epoch, whole process, accuracy.

    python benchmarks/vs_tutorial.py [--epochs 2] [--seeds 5] [--only lenet_mnist,mlp_sgd] [--device cuda] [--table]

The two sides take turns, a new seed each round; both evaluate after each epoch. fmx runs with everything on. A few
epochs show the speed; the published lengths are those of `make recipes`. --only keeps the other rows as they are, and
--table only writes the table in docs/ again.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

from alternate import alternate, median, ratio
from chosen import chosen
from extracted_data import extracted
from machine import describe, in_words
from page_table import write_table
from process import fmx_run, tutorial_run
from result_file import load, measured_before, save

RECIPES = {  # recipe: its tutorial script
    "three_conv_adam": ["three_conv.py"],
    "dropout_cnn_adam": ["dropout_cnn.py"],
    "dilated_adam": ["dilated.py"],
    "avgpool_adam": ["dilated.py", "--dilation", "1"],
    "lenet_mnist": ["lenet.py"],
    "mlp_sgd": ["mlp.py"],
}


def tutorial(script: list[str], *, epochs: int, seed: int, device: str, data: Path) -> dict[str, Any]:
    run = tutorial_run(script, epochs=epochs, seed=seed, device=device, data=data)
    return {
        "epoch_s": median([epoch["seconds"] for epoch in run["history"]]),
        "process_s": run["process_s"],
        "accuracy": run["history"][-1]["accuracy"],
    }


def fmx(recipe: str, *, epochs: int, seed: int, device: str, data: Path) -> dict[str, Any]:
    # The scripts evaluate what they end with, so the last weights are tested here too.
    length = [f"trainer.max_epochs={epochs}", "select=last"]
    overrides = [f"experiment={recipe}", *length, f"seed={seed}", f"data.root={data}"]
    run = fmx_run(*overrides, device=device)
    return {
        "epoch_s": run["timing"]["seconds_per_epoch"],
        "process_s": run["process_s"],
        "accuracy": run["metrics"]["test"]["accuracy"],
        "precision": run["device"]["precision"],
        "threads": run["device"]["threads"],
    }


def measure(recipe: str, *, epochs: int, seeds: int, device: str, data: Path) -> dict[str, Any]:
    script = RECIPES[recipe]
    runs = alternate(
        {
            "tutorial": lambda seed: tutorial(script, epochs=epochs, seed=seed, device=device, data=data),
            "fmx": lambda seed: fmx(recipe, epochs=epochs, seed=seed, device=device, data=data),
        },
        seeds,
    )
    columns = {
        side: {key: [run[key] for run in rounds] for key in ("epoch_s", "process_s", "accuracy")}
        for side, rounds in runs.items()
    }
    measured = {
        "epochs": epochs,
        "seeds": seeds,
        "precision": runs["fmx"][0]["precision"],
        **columns,
        "epoch_ratio": ratio(columns["tutorial"]["epoch_s"], columns["fmx"]["epoch_s"]),
        "process_ratio": ratio(columns["tutorial"]["process_s"], columns["fmx"]["process_s"]),
    }
    print(f"{recipe}: {measured['epoch_ratio']:.1f} × an epoch, {measured['process_ratio']:.1f} × the process, "
          f"accuracy {accuracy(columns['tutorial'])} | {accuracy(columns['fmx'])}", flush=True)  # fmt: skip
    return measured


def accuracy(side: dict[str, list[float]]) -> str:
    """Mean and, of several, standard error, in per cent."""
    values = [100 * value for value in side["accuracy"]]
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{error} %"


def write(results: dict[str, Any]) -> None:
    rows = [
        [
            f"`{recipe}`",
            f"{median(r['tutorial']['epoch_s']):.2f} s",
            f"{median(r['fmx']['epoch_s']):.2f} s",
            f"**{r['epoch_ratio']:.1f} ×**",
            f"{r['process_ratio']:.1f} ×",
            f"{accuracy(r['tutorial'])} · {accuracy(r['fmx'])}",
            f"{r['epochs']} / {r['seeds']}",
            r["precision"],
        ]
        for recipe, r in results["measured"].items()
    ]
    header = ["recipe", "tutorial, an epoch", "fmx, an epoch", "ratio", "whole process", "accuracy of both"]
    caption = f"Medians; accuracy ± standard error after these epochs. On {in_words(results['machine'])}."
    write_table("vs_tutorial", [*header, "epochs / seeds", "precision"], rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("vs_tutorial", arguments.device)
    else:
        machine, data = describe(arguments.device), extracted()
        options = {"epochs": arguments.epochs, "seeds": arguments.seeds, "device": arguments.device, "data": data}
        kept = measured_before("vs_tutorial", machine) if arguments.only else {}
        measured = {recipe: measure(recipe, **options) for recipe in chosen(arguments.only, RECIPES)}
        results = save("vs_tutorial", machine, kept | measured)
    write(results)


if __name__ == "__main__":
    main()
