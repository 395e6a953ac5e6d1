"""Seconds to a test accuracy: experiment=fast against ten epochs of the three_conv tutorial script.

    python benchmarks/time_to_accuracy.py [--seeds 10] [--tutorial-epochs 3] [--only 92.04] [--device cuda] [--table]
    python benchmarks/time_to_accuracy.py --tune trainer.max_epochs=3 optim.lr=0.02

The tutorial's ten epochs are its median epoch times ten, and its process the rest of its process besides; with
--tutorial-epochs 10 they are run. --only keeps the rows of the others, each with the ratio of its own go; with --more
it keeps the seeds of its own rows, too, and runs those that they lack; the tutorial's side is then of the last go.
--tune says what values of your own reach on 5,000 held-out training images, drawn anew for each of four seeds; the test
set plays no part in it.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from alternate import median
from chosen import chosen
from claim import Claim, at_least
from extracted_data import extracted
from machine import describe, in_words
from process import fmx_run, timed
from readme_table import write_table
from result_file import load, measured_before, save

TUTORIAL = Path(__file__).with_name("tutorials") / "three_conv.py"
LONGER = ["experiment=fast", "trainer.limit_train_batches=1.0", "loss.label_smoothing=0.1"]
SHIFTED = ["augment=crop_flip", "augment._args_.0.padding=1"]  # by one pixel instead of two
FIGURES = ["training_s", "process_s", "accuracy"]  # of each seed
SEEDS = 10  # over which an accuracy is asked for
TARGETS = {  # accuracy: the command's own values
    "92.04": ["experiment=fast"],
    "92.04 without bf16": ["experiment=fast", "trainer.precision=32-true"],
    "93": [*LONGER, "augment=flip", "model.net.widths=[96,192]", "trainer.max_epochs=6"],
    "94": [*LONGER, *SHIFTED, "model=cosine_resnet", "trainer.max_epochs=16"],
}


def tutorial(epochs: int, device: str, data: Path) -> dict[str, float]:
    """Training and process seconds of ten epochs."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        options = ["--data", str(data), "--epochs", str(epochs), "--device", device, "--result", str(result)]
        finished = timed([sys.executable, str(TUTORIAL), *options])
        history = json.loads(result.read_text())
    seconds = [epoch["seconds"] for epoch in history]
    training = 10 * median(seconds)
    return {"training_s": training, "process_s": finished.seconds - sum(seconds) + training}


def fast(overrides: list[str], seed: int, device: str, data: Path) -> dict[str, float]:
    run = fmx_run(*overrides, f"seed={seed}", f"data.root={data}", device=device)
    return {
        "training_s": sum(float(row["seconds"]) for row in run["history"]),
        "process_s": run["process_s"],
        "accuracy": 100 * run["metrics"]["test"]["accuracy"],
    }


def measure(
    names: list[str], *, seeds: int, tutorial_epochs: int, device: str, earlier: dict[str, Any]
) -> dict[str, Any]:
    """The rows of `names`; the seeds that `earlier` rows have are not run again."""
    data = extracted()
    before = tutorial(tutorial_epochs, device, data)
    measured: dict[str, Any] = {}
    for name in names:
        columns = {key: list(earlier.get(name, {}).get(key, [])) for key in FIGURES}
        for seed in range(len(columns["accuracy"]) + 1, seeds + 1):
            run = fast(TARGETS[name], seed, device, data)
            for key, values in columns.items():
                values.append(run[key])
            print(f"{name}, seed {seed}: {run['accuracy']:.2f} % in {run['training_s']:.2f} s", flush=True)
        measured[name] = {"overrides": TARGETS[name], **columns}
        print(
            f"{name}: {statistics.mean(columns['accuracy']):.2f} % in {median(columns['training_s']):.2f} s", flush=True
        )
    after = tutorial(tutorial_epochs, device, data)
    sides = {key: [before[key], after[key]] for key in before}
    for entry in measured.values():
        for key in ("training_s", "process_s"):
            entry[f"{key[:-2]}_ratio"] = median(sides[key]) / median(entry[key])
    return {"tutorial": sides | {"epochs_run": tutorial_epochs}, "fast": measured}


def tune(overrides: list[str], device: str) -> None:
    accuracies = []
    for seed in range(4):
        split = ["data.validation=5000", f"data.split_seed={seed}", "trainer.limit_test_batches=1", f"seed={seed}"]
        run = fmx_run("experiment=fast", *split, *overrides, device=device)
        accuracies.append(100 * run["metrics"]["val"]["accuracy"])
        print(f"split {seed}: {accuracies[-1]:.2f} %, {run['timing']['fit_s']:.1f} s", flush=True)
    print(f"mean {statistics.mean(accuracies):.2f} %")


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of the mean, Student's t."""
    from scipy.stats import t

    half: float = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return half


def claims(measured: dict[str, Any]) -> list[Claim]:
    rows = []
    for accuracy in ("92.04", "93", "94"):
        what, target = f"mean test accuracy ({accuracy})", f"≥ {accuracy} %, {SEEDS} seeds"
        if (entry := measured["fast"].get(accuracy)) is None:
            rows.append(Claim(what, target, "not measured", holds=False))
            continue
        mean, seeds = statistics.mean(entry["accuracy"]), len(entry["accuracy"])
        reached = f"{mean:.2f} % in {median(entry['training_s']):.1f} s ({seeds} seed{'s' * (seeds > 1)})"
        rows.append(Claim(what, target, reached, mean >= float(accuracy) and seeds >= SEEDS))
    if fast := measured["fast"].get("92.04"):  # --only may have left it out
        ten_epochs = "tutorial's ten epochs ÷ `experiment=fast`"
        rows.append(at_least(f"{ten_epochs}, training", fast["training_ratio"], 50, "{:.0f} ×"))
        rows.append(at_least(f"{ten_epochs}, process", fast["process_ratio"], 25, "{:.0f} ×"))
    return rows


def write(results: dict[str, Any]) -> None:
    sides, entries = results["measured"]["tutorial"], results["measured"]["fast"]
    training, process = median(sides["training_s"]), median(sides["process_s"])
    rows = [["tutorial, ten epochs", "—", f"{training:.0f} s", "1 ×", f"{process:.0f} s", "1 ×"]]
    for name, entry in entries.items():
        values = entry["accuracy"]
        half = f" ± {interval(values):.2f}" if len(values) > 1 else ""
        rows.append(
            [f"`{' '.join(entry['overrides'])}` ({name})",
             f"{statistics.mean(values):.2f}{half} % ({len(values)})",
             f"{median(entry['training_s']):.2f} s", f"**{entry['training_ratio']:.0f} ×**",
             f"{median(entry['process_s']):.1f} s", f"{entry['process_ratio']:.0f} ×"]
        )  # fmt: skip
    caption = (
        "Test accuracy: mean and 95 % interval, and how many seeds; seconds are medians. The tutorial ran "
        f"{sides['epochs_run']} of its epochs before and after; each ratio is of its row's own go. Targets: ≥ 50 × "
        f"training and ≥ 25 × process for 92.04 %. On {in_words(results['machine'])}."
    )
    header = ["command (for an accuracy of, %)", "test accuracy (seeds)", "training", "ratio", "whole process", "ratio"]
    write_table("time_to_accuracy", header, rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--tutorial-epochs", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--tune", nargs="*", metavar="OVERRIDE")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.more and not arguments.only:
        parser.error("--more goes with --only")
    if arguments.tune is not None:
        tune(arguments.tune, arguments.device)
        return
    if arguments.table:
        results = load("time_to_accuracy", arguments.device)
    else:
        machine, names = describe(arguments.device), chosen(arguments.only, TARGETS)
        options = {"tutorial_epochs": arguments.tutorial_epochs, "device": arguments.device}
        kept = measured_before("time_to_accuracy", machine) if arguments.only else {}
        rows = kept.get("fast", {}) if arguments.more else {}
        earlier = {name: row for name, row in rows.items() if row["overrides"] == TARGETS[name]}
        measured = measure(names, seeds=arguments.seeds, earlier=earlier, **options)
        if arguments.only:
            rows = kept.get("fast", {}) | measured["fast"]
            measured["fast"] = {name: rows[name] for name in TARGETS if name in rows}
        results = save("time_to_accuracy", machine, measured)
    write(results)


if __name__ == "__main__":
    main()
