"""What augmentations gain on a part of Fashion-MNIST: test accuracy against the same training without any.

    python benchmarks/augmentations.py [--seeds 1,2,3] [--images 30000] [--epochs 12] [--only none,mixup] [--table]

Each run trains on the same images of the training set and is tested once, with its last weights; a single batch is
validated, at the end. Runs go to outputs/augmentations/IMAGES_EPOCHS/AUGMENT/SEED; those that are complete are not run
again. One run a core, one thread a run. The difference to `none` is paired by seed, with Student's t.
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
from fmx.reporting.intervals import Spread, student_t
from machine import describe, in_words
from page_table import write_table

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "outputs" / "augmentations"
RESULTS = ROOT / "benchmarks" / "results" / "augmentations.json"  # accuracies depend on no machine
AUGMENTS = ("none", "randaugment", "mixup", "cutmix")  # the first is what the others are compared with
IN_ALL = 60_000
RECIPE = ["experiment=fast", "logger=none", "trainer.limit_train_batches=1.0", "trainer.limit_val_batches=1"]


def run(folder: Path, augment: str, seed: int, images: int, epochs: int) -> dict[str, Any]:
    """Accuracy and seconds of a run, which is made unless it is complete."""
    record = folder / "run.json"
    if not record.is_file() or json.loads(record.read_text())["status"] != "completed":
        length = [f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"]
        part = [f"data.validation={IN_ALL - images}", f"augment={augment}", f"seed={seed}"]
        command = [sys.executable, "-m", "fmx.run", *RECIPE, *length, *part, f"hydra.run.dir={folder}"]
        began = time.perf_counter()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{augment}, seed {seed}, failed:\n{done.stdout}{done.stderr}")
        print(f"{augment}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    test = json.loads((folder / "metrics.json").read_text())["test"]
    return {"accuracy": test["accuracy"], "fit_s": json.loads(record.read_text())["timing"]["fit_s"]}


def measure(augments: list[str], seeds: list[int], images: int, epochs: int) -> dict[str, Any]:
    jobs = [(augment, seed) for augment in augments for seed in seeds]
    jobs.sort(key=lambda job: job[0] != "randaugment")  # the longest first
    home = RUNS / f"{images}_{epochs}"
    with ThreadPoolExecutor(num_cores()) as pool:
        made = pool.map(lambda job: run(home / job[0] / str(job[1]), *job, images, epochs), jobs)
        by_job = dict(zip(jobs, made, strict=True))
    rows = {augment: {str(seed): by_job[augment, seed] for seed in seeds} for augment in augments}
    return {"images": images, "epochs": epochs, "seeds": seeds, "rows": rows}


def in_words_of(spread: Spread, unit: str, sign: str = "") -> str:
    """A mean and its interval, in percent or in points."""
    ends = "" if spread.interval is None else f" ({spread.interval.low:{sign}.2f} to {spread.interval.high:{sign}.2f})"
    return f"{spread.mean:{sign}.2f}{unit}{ends}"


def write(results: dict[str, Any]) -> None:
    measured = results["measured"]
    rows, base = measured["rows"], measured["rows"][AUGMENTS[0]]
    table = []
    for augment, by_seed in rows.items():
        accuracy = [100 * each["accuracy"] for each in by_seed.values()]
        gain = [100 * (each["accuracy"] - base[seed]["accuracy"]) for seed, each in by_seed.items()]
        gained = "—" if augment == AUGMENTS[0] else in_words_of(student_t(gain), "", "+")
        table.append(
            [
                f"`augment={augment}`",
                in_words_of(student_t(accuracy), " %"),
                gained,
                str(len(accuracy)),
            ]
        )
    caption = (
        f"`{RECIPE[0]}` on {measured['images']:,} images for {measured['epochs']} epochs; accuracy on the 10,000 test "
        "images with the last weights. In brackets 95 % intervals of the mean over seeds (Student's t; of the gain, "
        f"paired by seed). One thread a run. On {in_words(results['machine'])}."
    )
    header = ["augmentation", "test accuracy", "gain in points", "seeds"]
    write_table("augmentations", header, table, caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", default=",".join(AUGMENTS))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = json.loads(RESULTS.read_text())
    else:
        augments, seeds = arguments.only.split(","), [int(seed) for seed in arguments.seeds.split(",")]
        if AUGMENTS[0] not in augments:
            parser.error(f"--only needs {AUGMENTS[0]}, which the others are compared with")
        measured = measure(augments, seeds, arguments.images, arguments.epochs)
        results = {"date": time.strftime("%Y-%m-%d"), "machine": describe(), "measured": measured}
        RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write(results)


if __name__ == "__main__":
    main()
