"""Memory and seconds of scoring 10,000 test images of 10, 100 and 1,000 classes.

    python benchmarks/scoring.py [--repeats 3] [--device cuda] [--table]

Each number of classes has runs of its own, on made-up images, that validate 2,000 of them and are tested on 10,000,
with trainer.deterministic=warn, as by default. Memory is the peak of the whole process, as the kernel counts it, beside
what the test's logits take; seconds are of validation and test after training, with all figures of metrics.json. Linear
in images and classes: what 1,000 classes add is a few times their logits, and their seconds are no more than a hundred
times those of 10.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from alternate import alternate, median
from claim import Claim, at_most
from machine import describe, in_words
from page_table import write_table
from process import fmx_run
from result_file import KINDS, of_kind, save

NUM_TRAIN, NUM_VAL, NUM_TEST = 4_000, 2_000, 10_000
NUM_CLASSES = [10, 100, 1_000]
TIMES_LOGITS = 4  # float32 logits, their log-softmax, and parts of them for figures and TensorBoard
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}


def logits_mb(num_classes: int) -> float:
    """What the test's logits take in float32."""
    return NUM_TEST * num_classes * 4 / 2**20


def write_group(folder: Path, num_classes: int) -> str:
    """Write a data group of so many classes below a configuration folder; returns its name."""
    name = f"made_up_{num_classes}"
    parts = {"train": NUM_TRAIN + NUM_VAL, "test": NUM_TEST}
    group = {
        "defaults": ["/_loader@_here_", "_self_"],
        "name": name, "num_classes": num_classes, "in_channels": 1, "image_size": 8, "mean": [0.5], "std": [0.3],
        "class_names": [f"class {number}" for number in range(num_classes)], "translations": {},
        "validation": NUM_VAL, "split": "tail",
        **{part: {"_target_": "made_up.made_up", "num_images": images, "num_classes": num_classes}
           for part, images in parts.items()},
    }  # fmt: skip
    (folder / "data").mkdir(exist_ok=True)
    (folder / f"data/{name}.yaml").write_text(json.dumps(group), encoding="utf-8")  # JSON is YAML
    return name


def measure(repeats: int, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--config-dir={folder}", "model=mlp", "augment=none", "trainer.max_epochs=1"]
        names = {str(number): write_group(Path(folder), number) for number in NUM_CLASSES}
        runs = alternate(
            {
                number: lambda _, name=name: fmx_run(*options, f"data={name}", device=device, env=ENVIRONMENT)
                for number, name in names.items()
            },
            repeats,
        )
    return {
        "peak_mb": {number: [run["peak_mb"] for run in each] for number, each in runs.items()},
        "seconds": {number: [run["timing"]["test_s"] for run in each] for number, each in runs.items()},
    }


def load(name: str = "scoring") -> dict[str, Any]:
    """What was measured last, on whichever kind of machine: the table names it."""
    return max(filter(None, (of_kind(name, kind) for kind in KINDS)), key=lambda result: str(result["date"]))


def claims(measured: dict[str, Any]) -> list[Claim]:
    peaks, seconds = ([median(measured[key][str(k)]) for k in NUM_CLASSES] for key in ("peak_mb", "seconds"))
    added = TIMES_LOGITS * (logits_mb(1_000) - logits_mb(10))
    return [
        at_most("more memory for 1,000 classes than for 10", peaks[-1] - peaks[0], added, "{:.0f} MiB"),
        at_most("scoring 1,000 classes ÷ scoring 10", seconds[-1] / seconds[0], 100, "{:.1f} ×"),
    ]


def write(results: dict[str, Any]) -> None:
    measured = results["measured"]
    rows = [
        [f"{number:,}", f"{median(measured['peak_mb'][str(number)]):.0f} MiB", f"{logits_mb(number):.1f} MiB",
         f"{median(measured['seconds'][str(number)]):.2f} s"]
        for number in NUM_CLASSES
    ]  # fmt: skip
    memory, seconds = claims(measured)
    write_table(
        "scoring",
        ["classes", "peak of the whole run", "of which the test's logits", "scoring"],
        rows,
        f"{NUM_VAL:,} validation and {NUM_TEST:,} test images; medians. 1,000 classes take {memory.measured} more than "
        f"10 ({memory.target}: {TIMES_LOGITS} times their logits), and {seconds.measured} their seconds "
        f"({seconds.target}: linear). On {in_words(results['machine'])}.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load()
    else:
        machine = describe(arguments.device)
        results = save("scoring", machine, measure(arguments.repeats, arguments.device))
    write(results)


if __name__ == "__main__":
    main()
