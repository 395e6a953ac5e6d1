"""Does the fast precision cost accuracy? bf16-mixed against 32-true, recipe by recipe, the same seeds.

    python benchmarks/precision.py [--seeds 5] [--epochs 3] [--only lenet_mnist] [--device cuda] [--table]

Prints the difference of test accuracies, bf16 minus float32, and its 95 % interval over the seeds (paired). --epochs
shortens the recipes, and the table says so; 0 keeps their lengths. --only keeps the rows of the others. Not part of
run_all.py: it takes hours.
"""

import argparse
import statistics
from typing import Any

from alternate import alternate
from chosen import chosen
from claim import Claim
from extracted_data import extracted
from machine import describe, in_words
from page_table import write_table
from process import fmx_run
from result_file import load, measured_before, save
from time_to_accuracy import interval

RECIPES = ["fast", "three_conv_adam", "dropout_cnn_adam", "dilated_adam", "avgpool_adam", "lenet_mnist", "mlp_sgd"]
SEEDS = 5


def measure(recipe: str, *, seeds: int, epochs: int, device: str) -> dict[str, Any]:
    data = extracted()
    length = [f"trainer.max_epochs={epochs}"] if epochs else []

    def accuracy(precision: str, seed: int) -> float:
        overrides = [f"experiment={recipe}", f"seed={seed}", f"trainer.precision={precision}", f"data.root={data}"]
        value: float = fmx_run(*overrides, *length, device=device)["metrics"]["test"]["accuracy"]
        return 100 * value

    runs = alternate(
        {
            "bf16-mixed": lambda seed: accuracy("bf16-mixed", seed),
            "32-true": lambda seed: accuracy("32-true", seed),
        },
        seeds,
    )
    print(recipe, difference(runs), flush=True)
    return {"epochs": epochs, "accuracy": runs}


def pairs(runs: dict[str, list[float]]) -> list[float]:
    return [low - full for low, full in zip(runs["bf16-mixed"], runs["32-true"], strict=True)]


def difference(runs: dict[str, list[float]]) -> str:
    """Mean paired difference and its 95 % interval, in percentage points."""
    mean = statistics.mean(pairs(runs))
    if len(pairs(runs)) == 1:
        return f"{mean:+.2f}"
    half = interval(pairs(runs))
    return f"{mean:+.2f} ({mean - half:+.2f} … {mean + half:+.2f})"


def claims(results: dict[str, Any]) -> list[Claim]:
    measured = results["measured"]
    differences = [pairs(entry["accuracy"]) for entry in measured.values()]
    enough = len(measured) == len(RECIPES) and all(len(each) >= SEEDS for each in differences)
    worse = sum(len(each) > 1 and statistics.mean(each) + interval(each) < 0 for each in differences)
    what = "recipes that bf16 makes less accurate (95 % interval below 0)"
    target, count = f"0 of {len(RECIPES)}, {SEEDS} seeds", f"{worse} of {len(measured)}"
    oldest = min((entry["date"] for entry in measured.values() if "date" in entry), default=None)
    return [Claim(what, target, count, enough and not worse, oldest)]


def write(results: dict[str, Any]) -> None:
    rows = []
    for recipe, entry in results["measured"].items():
        means = [f"{statistics.mean(values):.2f} %" for values in entry["accuracy"].values()]
        length = f"epochs: {entry['epochs']}" if entry["epochs"] else "as published"
        rows.append(
            [f"`{recipe}`", *means, difference(entry["accuracy"]), str(len(entry["accuracy"]["32-true"])), length]
        )
    header = ["recipe", "bf16-mixed", "32-true", "difference, points (95 % interval)", "seeds", "length"]
    caption = (
        "Mean test accuracy of the checkpoint that the recipe chooses (of mlp_sgd's one epoch, that of step 1,000). On "
        f"{in_words(results['machine'])}."
    )
    write_table("precision", header, rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("precision", arguments.device)
    else:
        machine, recipes = describe(arguments.device), chosen(arguments.only, RECIPES)
        measured = measured_before("precision", machine) if arguments.only else {}
        for recipe in recipes:
            options = {"seeds": arguments.seeds, "epochs": arguments.epochs, "device": arguments.device}
            measured[recipe] = measure(recipe, **options)
            results = save("precision", machine, measured)
    write(results)


if __name__ == "__main__":
    main()
