"""Exact and near-duplicates of Fashion-MNIST and MNIST, and what they do to a test accuracy.

    python benchmarks/duplicates.py [--table] [--runs outputs/calibration/8/[1-5]]

`fmx data NAME --duplicates` lists the pairs of each set, in outputs/duplicates; a list that is there is used again. Of
them those of a higher correlation are counted too. `fmx report --without` gives the accuracies of finished runs on
Fashion-MNIST; those of the default are trained by `python benchmarks/calibration.py`.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fmx.reporting.intervals import Interval
from machine import describe
from page_table import write_table

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "outputs" / "duplicates"
RESULTS = ROOT / "benchmarks" / "results" / "duplicates.json"
SETS = {"fashion_mnist": "Fashion-MNIST", "mnist": "MNIST"}
THRESHOLDS = (0.98, 0.985, 0.99, 0.995)
PARTS = (("training", "training"), ("test", "test"), ("training", "test"))


def fmx(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fmx", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"fmx {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def find(name: str) -> dict[str, Any]:
    """The numbers of pairs of a set at each threshold, and the processor's seconds of the search if it is done here."""
    path = LISTS / f"{name}.csv"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not path.is_file():
        LISTS.mkdir(parents=True, exist_ok=True)
        fmx("data", name, "--duplicates", "--threshold", str(min(THRESHOLDS)), "--csv", str(path),
            "--grid", str(path.with_suffix(".png")), "--force")  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rows = rows_of(path)
    counts = {}
    for threshold in THRESHOLDS:
        near = [row for row in rows if row["kind"] == "exact" or float(row["correlation"]) >= threshold]
        of_parts = {parts: [row for row in near if (row["first_part"], row["second_part"]) == parts] for parts in PARTS}
        between = of_parts["training", "test"]
        counts[str(threshold)] = {
            **{f"{one} {other}": len(each) for (one, other), each in of_parts.items()},
            "test images": len({row["second_index"] for row in between}),
            "two labels": sum(row["first_label"] != row["second_label"] for row in between),
        }
    exact = sum(row["kind"] == "exact" for row in rows)
    return {"exact": exact, "counts": counts, "cpu_s": seconds if seconds > 1 else None}


def accuracies(runs: list[str]) -> dict[str, Any]:
    """The accuracy of runs of one configuration on all test images, and without those of each threshold."""
    found: dict[str, Any] = {}
    rows, table = rows_of(LISTS / "fashion_mnist.csv"), LISTS / "table.csv"
    for threshold in THRESHOLDS:
        path = LISTS / f"fashion_mnist_{threshold}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row for row in rows if float(row["correlation"]) >= threshold)
        fmx("report", *runs, "--without", str(path), "--csv", str(table), "--force")
        (row,) = [each for each in rows_of(table) if each["status"] == "completed"]
        for name, key in (("all", "test_accuracy"), (str(threshold), "test_accuracy_without_duplicates")):
            found[name] = {part: float(row[f"{key}_{part}"]) for part in ("mean", "std", "low", "high")}
        found["n"] = int(row["n"])
    return found


def write(results: dict[str, Any]) -> None:
    sets, runs = results["sets"], results["accuracies"]
    rows = []
    for name, title in SETS.items():
        for threshold, counts in sets[name]["counts"].items():
            numbers = [counts[f"{one} {other}"] for one, other in PARTS]
            numbers += [counts["two labels"], counts["test images"]]
            rows.append([title, threshold, *(f"{number:,}" for number in (sets[name]["exact"], *numbers))])
    header = ["", "threshold", "exact pairs", "pairs within training", "within test", "training and test",
              "of those with two labels", "test images in them"]  # fmt: skip
    seconds = [f"{each['cpu_s']:.0f} s for {SETS[name]}" for name, each in sets.items() if each["cpu_s"]]
    took = f" The search took {' and '.join(seconds)} of processor time." if seconds else ""
    write_table("duplicates", header, rows, f"Of 60,000 training and 10,000 test images.{took} Printed by "
                                            "`python benchmarks/duplicates.py`.")  # fmt: skip
    rows = [["all 10,000", *_accuracy(runs["all"])]]
    for threshold in map(str, THRESHOLDS):
        num = sets["fashion_mnist"]["counts"][threshold]["test images"]
        rows.append([f"the {10_000 - num:,} without a duplicate at {threshold}", *_accuracy(runs[threshold])])
    recipe = "data=fashion_mnist model=three_conv trainer.max_epochs=8"
    write_table("without_duplicates", ["test images", "accuracy %", "95 % interval"], rows,
                f"`{recipe}`, {runs['n']} seeds: mean ± standard deviation, and the interval of `fmx report`. "
                "Printed by `python benchmarks/duplicates.py`.")  # fmt: skip


def _accuracy(of: dict[str, float]) -> list[str]:
    ends = Interval(of["low"], of["high"])
    return [f"{100 * of['mean']:.2f} ± {100 * of['std']:.2f}", " – ".join(f"{100 * end:.2f}" for end in ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="outputs/calibration/8/[1-5]", metavar="GLOB")
    parser.add_argument("--table", action="store_true", help="write the tables from the results that are stored")
    arguments = parser.parse_args()
    if arguments.table:
        write(json.loads(RESULTS.read_text(encoding="utf-8")))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results = {
        "date": time.strftime("%Y-%m-%d"), "machine": describe(),
        "sets": {name: find(name) for name in SETS}, "accuracies": accuracies([arguments.runs]),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write(results)


if __name__ == "__main__":
    main()
