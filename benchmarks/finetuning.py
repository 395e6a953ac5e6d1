"""What fine-tuning gains on few images: test accuracy with layer decay and thawing, frozen, and from scratch.

    python benchmarks/finetuning.py [--seeds 1,2,3] [--table]

For each pair of data sets and each seed LeNet-5 is trained on the first one, and its weights are the start of all ways
but `scratch` on a few images of the second one. All ways have the same rate, steps and images, and none was tuned; the
last weights are tested once. Runs go to outputs/finetuning/PAIR/WAY/SEED; those that are complete are not run again.
One run a core, one thread a run. The difference to `frozen` is paired by seed, with Student's t.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fmx.process.cores import num_cores
from fmx.reporting.intervals import student_t
from machine import describe, in_words
from page_table import write_table

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "outputs" / "finetuning"
RESULTS = ROOT / "benchmarks" / "results" / "finetuning.json"  # accuracies depend on no machine
COMMON = ["model=lenet", "augment=none", "logger=none", "trainer.precision=32-true", "select=last"]
FIRST = [*COMMON, "trainer.max_epochs=2"]
LENGTH = ["data.batch_size=32", "trainer.max_epochs=30", "trainer.check_val_every_n_epoch=30"]
# By name: the first data set, the second one, and how many of its images are trained on.
PAIRS = {
    "MNIST to the digits": ("mnist", ["data=digits", "data.image_size=28", "data.validation=1287"], 150),
    "Fashion-MNIST to MNIST": ("fashion_mnist", ["data=mnist", "data.validation=59500"], 500),
}
UNFREEZE, DECAY = "callbacks=[default,unfreeze]", "optim.layer_decay=0.75"
WAYS = {
    "scratch": [],
    "frozen": [UNFREEZE, "callbacks.unfreeze.epoch=null"],  # the last layer alone
    "one rate": [],
    "layer decay": [DECAY],
    "thaw": [UNFREEZE, "callbacks.unfreeze.epoch=11", "callbacks.unfreeze.lr_factor=0.5"],
    "thaw, layer decay": [UNFREEZE, "callbacks.unfreeze.epoch=11", "callbacks.unfreeze.lr_factor=1", DECAY],
}


def accuracy(folder: Path, *words: str) -> float:
    """The test accuracy of a run, which is made unless it is complete."""
    record = folder / "run.json"
    if not record.is_file() or json.loads(record.read_text())["status"] != "completed":
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "fmx.run", *words, f"hydra.run.dir={folder}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{folder} failed:\n{done.stdout}{done.stderr}")
        print(folder.relative_to(RUNS), flush=True)
    return float(json.loads((folder / "metrics.json").read_text())["test"]["accuracy"])


def measure(seeds: list[int]) -> dict[str, dict[str, list[float]]]:
    """Accuracies by pair and way, one per seed."""
    rows = {}
    with ThreadPoolExecutor(num_cores()) as pool:
        for pair, (first, second, _) in PAIRS.items():
            home = RUNS / pair.replace(" ", "_")
            starts = {seed: home / "first" / str(seed) for seed in seeds}
            list(pool.map(lambda s: accuracy(starts[s], f"data={first}", *FIRST, f"seed={s}"), seeds))  # noqa: B023
            jobs = [(way, seed, [] if way == "scratch" else [f"init={starts[seed]}"]) for way in WAYS for seed in seeds]
            made = pool.map(
                lambda job: accuracy(
                    home / job[0].replace(", ", "_").replace(" ", "_") / str(job[1]),  # noqa: B023
                    *second, *COMMON, *LENGTH, *WAYS[job[0]], *job[2], f"seed={job[1]}",  # noqa: B023
                ),
                jobs,
            )  # fmt: skip
            found = dict(zip([job[:2] for job in jobs], made, strict=True))
            rows[pair] = {way: [found[way, seed] for seed in seeds] for way in WAYS}
    return rows


def in_percent(values: list[float], sign: str = "") -> str:
    """A mean and its interval."""
    spread = student_t([100 * value for value in values])
    ends = "" if spread.interval is None else f" ({spread.interval.low:{sign}.2f} to {spread.interval.high:{sign}.2f})"
    return f"{spread.mean:{sign}.2f}{ends}"


def write(results: dict[str, Any]) -> None:
    table = []
    for pair, by_way in results["accuracies"].items():
        for way, values in by_way.items():
            gains = [one - other for one, other in zip(values, by_way["frozen"], strict=True)]
            gained = "—" if way == "frozen" else in_percent(gains, "+")
            table.append([pair, way, in_percent(values), gained, str(len(values))])
    counts = " and ".join(f"{count} images of {pair.partition(' to ')[2]}" for pair, (_, _, count) in PAIRS.items())
    caption = (
        f"LeNet-5, trained on the first data set for 2 epochs, then on {counts} for 30; accuracy on the whole test "
        "set of the second with the last weights, in percent. In brackets 95 % intervals of the mean over seeds "
        "(Student's t; of the gain over the frozen network, paired by seed). No value was tuned. On "
        f"{in_words(results['machine'])}."
    )
    write_table("finetuning", ["from and to", "way", "test accuracy", "gain in points", "seeds"], table, caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--table", action="store_true", help="write the table of the last measurement again")
    arguments = parser.parse_args()
    if not arguments.table:
        accuracies = measure([int(seed) for seed in arguments.seeds.split(",")])
        results = {"date": time.strftime("%Y-%m-%d"), "machine": describe(), "accuracies": accuracies}
        RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write(json.loads(RESULTS.read_text()))


if __name__ == "__main__":
    main()
