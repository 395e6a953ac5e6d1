"""Seconds to a test accuracy: experiment=fast against ten epochs of the three_conv tutorial script.

    python benchmarks/time_to_accuracy.py [--seeds 10] [--turns 6] [--only 92.04] [--device cuda] [--table]
    python benchmarks/time_to_accuracy.py --tune trainer.max_epochs=3 optim.lr=0.02

The tutorial's ten epochs are its median epoch times ten, and its process the rest of its process besides; it runs
before the others, after them and, with more --turns than two, evenly between them, one epoch each time (three on a
GPU). --only keeps the rows of the others, each with the ratio of its own go; with --more it adds the test accuracies of
the seeds that its own rows lack, in a sweep with which the same command goes on when it was stopped; seconds stay those
of the runs before. On a GPU the seeds train in one process, after a run that warms it up and is thrown away; the
process seconds are of one more run, by itself. --tune says what values of your own reach on 5,000 held-out training
images, drawn anew for each of four seeds; the test set plays no part in it.
"""

import argparse
import hashlib
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from alternate import median
from chosen import chosen
from claim import Claim, at_least, at_most
from extracted_data import extracted
from machine import describe, has_bf16_units, in_words
from page_table import write_table
from process import ACCELERATORS, fmx_run, read_run, timed, tutorial_run
from result_file import load, measured_before, save

SWEEPS = Path(__file__).resolve().parents[1] / "outputs" / "time_to_accuracy"
LONGER = ["experiment=fast", "trainer.limit_train_batches=1.0", "loss.label_smoothing=0.1"]
SHIFTED = ["augment=crop_flip", "augment._args_.0.padding=1"]  # by one pixel instead of two
BEFORE_AND_AFTER = 2  # turns
SEEDS = 10  # over which an accuracy is asked for
# Accuracy: the command's own values. Those for a GPU, which is quicker with larger batches and wide layers, were chosen
# on 10,000 held-out images, drawn anew for each seed.
TARGETS = {
    "92.04": ["experiment=fast"],
    "92.04 without bf16": ["experiment=fast", "trainer.precision=32-true"],
    "93": [*LONGER, "augment=flip", "model.net.widths=[96,192]", "trainer.max_epochs=6"],
    "94": [*LONGER, *SHIFTED, "model=cosine_resnet", "model.net.tta=flip_shift", "trainer.max_epochs=12"],
    "94 on a GPU": [
        *LONGER, *SHIFTED, "model=cosine_resnet", "model.net.tta=flip_shift", "model.net.widths=[64,128,256]",
        "data.batch_size=1024", "optim.lr=1.4e-2", "optim.weight_decay=0.2", "optim.betas=[0.9,0.95]",
        "trainer.max_epochs=11",
    ],
}  # fmt: skip
HERE = Path(__file__).parent
ONLY_ON_GPU, ONLY_ON_CPU = {"94 on a GPU"}, {"92.04 without bf16", "94"}


def tutorial(epochs: int, device: str, data: Path) -> dict[str, float]:
    """Training and process seconds of ten epochs."""
    run = tutorial_run(["three_conv.py"], epochs=epochs, seed=1, device=device, data=data)
    seconds = [epoch["seconds"] for epoch in run["history"]]
    training = 10 * median(seconds)
    return {"training_s": training, "process_s": run["process_s"] - sum(seconds) + training}


def fast(overrides: list[str], seed: int, device: str, data: Path) -> dict[str, float]:
    run = fmx_run(*overrides, f"seed={seed}", f"data.root={data}", device=device)
    return {**figures(run), "process_s": run["process_s"]}


def figures(run: dict[str, Any]) -> dict[str, float]:
    return {
        "training_s": sum(float(row["seconds"]) for row in run["history"]),
        "accuracy": 100 * run["metrics"]["test"]["accuracy"],
    }


def in_one_process(overrides: list[str], seeds: int, device: str, data: Path) -> dict[str, list[float]]:
    """What `fast` says of each seed, of runs of a process that is warm; its process seconds are of one that is not."""
    process_s = fast(overrides, 1, device, data)["process_s"]
    with tempfile.TemporaryDirectory(prefix="fmx-bench-") as folder:
        options = [f"data.root={data}", f"trainer.accelerator={ACCELERATORS[device]}"]
        timed([sys.executable, str(HERE / "warm_runs.py"), folder, str(seeds), *overrides, *options])
        runs = [figures(read_run(Path(folder) / str(seed))) for seed in range(1, seeds + 1)]
    return {"process_s": [process_s], **{key: [run[key] for run in runs] for key in runs[0]}}


def swept(overrides: list[str], seeds: range, device: str, data: Path, folder: Path) -> list[float]:
    """Test accuracies of the seeds, run in a sweep of that folder as the launcher sees fit: no time is taken of it."""
    sweep = [f"seed={','.join(map(str, seeds))}", f"data.root={data}", f"hydra.sweep.dir={folder}"]
    command = [sys.executable, "-m", "fmx.run", "-m", *overrides, *sweep]
    timed([*command, f"trainer.accelerator={ACCELERATORS[device]}"])
    files = [folder / str(job) / "metrics.json" for job in range(len(seeds))]
    return [100 * json.loads(file.read_text(encoding="utf-8"))["test"]["accuracy"] for file in files]


def measure(names: list[str], seeds: int, turns: int, device: str) -> dict[str, Any]:
    data = extracted()
    # On a GPU all seeds are one process, and an epoch would hold the GPU's first use.
    once, epochs = ([0], 3) if device == "cuda" else (range(1, seeds + 1), 1)
    runs = [(name, seed) for name in names for seed in once]
    due = [round(turn * len(runs) / (turns - 1)) for turn in range(turns)]
    sides: dict[str, list[float]] = {}
    columns: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for done in range(len(runs) + 1):
        for _ in range(due.count(done)):
            _append(sides, {key: [value] for key, value in tutorial(epochs, device, data).items()})
        if done < len(runs):
            name, seed = runs[done]
            if device == "cuda":
                new = in_one_process(TARGETS[name], seeds, device, data)
            else:
                new = {key: [value] for key, value in fast(TARGETS[name], seed, device, data).items()}
            _append(columns[name], new)
            accuracy, training = statistics.mean(new["accuracy"]), median(new["training_s"])
            print(f"{name}, seed {seed or 'all'}: {accuracy:.2f} % in {training:.2f} s", flush=True)
    measured: dict[str, Any] = {name: {"overrides": TARGETS[name], **columns[name]} for name in names}
    for entry in measured.values():
        for key in ("training_s", "process_s"):
            entry[f"{key[:-2]}_ratio"] = median(sides[key]) / median(entry[key])
    return {"tutorial": sides | {"epochs_run": epochs}, "fast": measured}


def _append(columns: dict[str, list[float]], more: dict[str, list[float]]) -> None:
    for key, values in more.items():
        columns.setdefault(key, []).extend(values)


def add_seeds(rows: dict[str, Any], names: list[str], seeds: int, device: str) -> None:
    """Add to the accuracies of `rows` those of the seeds that they lack."""
    data = extracted()
    for name in names:
        row = rows.get(name, {})
        if row.get("overrides") != TARGETS[name]:
            raise SystemExit(f"no run of {name} on such a machine is on record: --only {name} --seeds 1 makes one")
        lacking = range(len(row["accuracy"]) + 1, seeds + 1)
        if lacking:
            recipe = hashlib.blake2b(" ".join(TARGETS[name]).encode(), digest_size=4).hexdigest()
            folder = SWEEPS / f"{name}_{recipe}" / f"{lacking[0]}-{lacking[-1]}"
            row["accuracy"] += swept(TARGETS[name], lacking, device, data, folder)


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


def claims(results: dict[str, Any]) -> list[Claim]:
    measured, rows = results["measured"], []
    for accuracy in ("92.04", "93", "94"):
        what, target = f"mean test accuracy ({accuracy})", f"≥ {accuracy} %, {SEEDS} seeds"
        entry = measured["fast"].get(accuracy) or measured["fast"].get(f"{accuracy} on a GPU")
        if entry is None:
            rows.append(Claim(what, target, "not measured", holds=False))
            continue
        mean, seeds = statistics.mean(entry["accuracy"]), len(entry["accuracy"])
        reached = f"{mean:.2f} % in {median(entry['training_s']):.1f} s ({seeds} seed{'s' * (seeds > 1)})"
        rows.append(Claim(what, target, reached, mean >= float(accuracy) and seeds >= SEEDS, entry.get("date")))
    if fast := measured["fast"].get("92.04"):  # --only may have left it out
        ten_epochs = "tutorial's ten epochs ÷ `experiment=fast`"
        if has_bf16_units(results["machine"]):  # the target is theirs alone
            what = f"{ten_epochs}, training with bf16 units"
            rows.append(at_least(what, fast["training_ratio"], 50, "{:.0f} ×", date=fast.get("date")))
        rows.append(at_least(f"{ten_epochs}, process", fast["process_ratio"], 25, "{:.0f} ×", date=fast.get("date")))
    if on_gpu := measured["fast"].get("94 on a GPU"):
        what, seconds = "94 % on a GPU, training in a warm process", median(on_gpu["training_s"])
        rows.append(at_most(what, seconds, 1.0, "{:.2f} s", date=on_gpu.get("date")))
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
    turns = len(sides["training_s"])
    when = "before and after" if turns == BEFORE_AND_AFTER else f"{turns} times, between the others too"
    caption = (
        "Test accuracy: mean and 95 % interval, and how many seeds; seconds are medians. The tutorial ran "
        f"{sides['epochs_run']} of its epochs {when}; each ratio is of its row's own go. Targets: ≥ 50 × "
        f"training with bf16 units and ≥ 25 × process for 92.04 %. On {in_words(results['machine'])}."
    )
    header = ["command (for an accuracy of, %)", "test accuracy (seeds)", "training", "ratio", "whole process", "ratio"]
    write_table("time_to_accuracy", header, rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--only", default="")
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--tune", nargs="*", metavar="OVERRIDE")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.turns < len(("first", "last")):
        parser.error("--tutorial-epochs is at least 2: one before the others, one after them")
    if arguments.more and not arguments.only:
        parser.error("--more goes with --only")
    if arguments.tune is not None:
        tune(arguments.tune, arguments.device)
        return
    if arguments.table:
        results = load("time_to_accuracy", arguments.device)
    else:
        elsewhere = ONLY_ON_CPU if arguments.device == "cuda" else ONLY_ON_GPU
        names = chosen(arguments.only, [name for name in TARGETS if name not in elsewhere])
        machine = describe(arguments.device)
        measured = measured_before("time_to_accuracy", machine, under="fast") if arguments.only else {}
        if arguments.more:
            add_seeds(measured.get("fast", {}), names, arguments.seeds, arguments.device)
        else:
            rows = measured.get("fast", {})
            measured = measure(names, arguments.seeds, arguments.turns, arguments.device)
            rows = rows | measured["fast"]
            measured["fast"] = {name: rows[name] for name in TARGETS if name in rows}
        results = save("time_to_accuracy", machine, measured)
    write(results)


if __name__ == "__main__":
    main()
