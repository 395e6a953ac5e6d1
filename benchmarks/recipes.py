"""Train every recipe with five seeds on the real data; write tables into docs/recipes.md and a figure into each header.

    python benchmarks/recipes.py [--seeds 1,2,3,4,5] [--only three_conv_adam,lenet_mnist] [--table]

One run a core, one thread a run: small models do not repay a second thread. A run that was interrupted goes on. What a
run measured goes into benchmarks/results/recipes/RECIPE.json, with the test images on which it is wrong, and is not
measured again unless the recipe changes; so the seeds may come from several days and machines. --table only writes the
tables from these files.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reporting.intervals import crossed, mcnemar, share, student_t
from page_table import write_table

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "outputs" / "recipes"
RESULTS = Path(__file__).with_name("results") / "recipes"
DEFAULT = "default"  # no experiment at all
PUBLISHED = {
    "mlp_sgd": "none printed",
    "dilated_adam": "none printed",
    "avgpool_adam": "none printed",
    "three_conv_adam": "loss 0.2453, 92.04 %",
    "dropout_cnn_adam": "loss 0.1975, 92.83 %",
    DEFAULT: "fmx's own",
    "lenet_mnist": "about 99 % after 4 epochs",
}
DATA_SETS = {"fashion_mnist": "Fashion-MNIST", "mnist": "MNIST"}
WRITING = Lock()  # two seeds of a recipe may end at once
NUM_IMAGES = 10_000  # of each of their test sets
HEADER = [
    *("recipe", "published", "n", "test accuracy %", "95 % interval", "without near-duplicates %", "test loss"),
    *("training, quickest seed", "precision"),
]
HEADER_OF_PAIRS = [
    *("A", "B", "pairs of seeds", "B - A, points", "95 % interval", "p"),
    *("first seed: images only A : only B is right on", "McNemar's p"),
]


def typed(recipe: str) -> str:
    """What a person types for a recipe."""
    return "python -m fmx.run" if recipe == DEFAULT else f"python -m fmx.run experiment={recipe}"


def fmx(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@cache
def fingerprint(recipe: str) -> str:
    """A hash of the configuration that the recipe composes."""
    return hashlib.sha256(fmx(*typed(recipe).split()[2:], "run_dir=null", "--cfg", "job").encode()).hexdigest()[:16]


def stored(recipe: str) -> dict[str, Any]:
    """What the file of a recipe holds: its configuration's fingerprint and a dictionary of seeds."""
    path = RESULTS / f"{recipe}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"seeds": {}}
    return found


def keep(recipe: str, seeds: dict[str, Any]) -> None:
    """Write the file of a recipe: a line a seed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"configuration": fingerprint(recipe), "seeds": seeds}, ensure_ascii=False)
    (RESULTS / f"{recipe}.json").write_text(text.replace('}, "', '},\n"') + "\n", encoding="utf-8")


def run_or_go_on(recipe: str, seed: int) -> Path:
    """Train one seed, or go on where its run was interrupted, and return its run directory."""
    path = RUNS / recipe / str(seed)
    record = path / "run.json"
    if record.is_file():
        if json.loads(record.read_text(encoding="utf-8"))["status"] != "completed":
            fmx("fmx.run", f"resume={path}")
    else:
        fmx(*typed(recipe).split()[2:], f"seed={seed}", f"hydra.run.dir={path}")
    return path


def figures(path: Path) -> dict[str, Any]:
    """What the tables need of a completed run."""
    record = json.loads((path / "run.json").read_text(encoding="utf-8"))
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    with np.load(path / "predictions.npz") as stored_predictions:
        wrong = np.flatnonzero(stored_predictions["logits"].argmax(1) != stored_predictions["labels"])
    return {
        "data": record["data"]["name"],
        "validation_accuracy": metrics["val"]["accuracy"] if metrics.get("val") else None,
        "loss": metrics["test"]["loss"],
        "wrong": wrong.tolist(),
        "fit_s": record["timing"]["fit_s"],
        **{name: record["device"][name] for name in ("name", "threads", "precision")},
        "torch": record["versions"]["torch"],
        "date": time.strftime("%Y-%m-%d"),
    }


def measure(job: tuple[str, int]) -> None:
    recipe, seed = job
    began = time.perf_counter()
    found = figures(run_or_go_on(recipe, seed))
    with WRITING:
        seeds = stored(recipe)["seeds"] | {str(seed): found}
        keep(recipe, dict(sorted(seeds.items(), key=lambda item: int(item[0]))))
    accuracy = 100 - 100 * len(found["wrong"]) / NUM_IMAGES
    print(f"{recipe} seed {seed}: {accuracy:.2f} % after {time.perf_counter() - began:.0f} s", flush=True)


def drop_what_is_outdated(recipe: str) -> None:
    """Begin the file of a recipe anew where its seeds are of another configuration than today's."""
    if stored(recipe).get("configuration") != fingerprint(recipe):
        if stored(recipe)["seeds"]:
            print(f"{recipe} has changed: its stored seeds go", flush=True)
        keep(recipe, {})


def duplicated(data: str) -> list[int]:
    """The test images that a training image almost equals, by `fmx data NAME --duplicates` at its own threshold."""
    path = RESULTS / f"duplicates_{data}.json"
    if not path.exists():
        table = ROOT / "outputs" / "duplicates" / f"{data}_at_its_threshold.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        fmx("fmx", "data", data, "--duplicates", "--csv", str(table), "--force")
        with table.open(encoding="utf-8", newline="") as file:
            rows = [
                row for row in csv.DictReader(file) if (row["first_part"], row["second_part"]) == ("training", "test")
            ]
        path.write_text(json.dumps(sorted({int(row["second_index"]) for row in rows})) + "\n", encoding="utf-8")
    found: list[int] = json.loads(path.read_text(encoding="utf-8"))
    return found


def right(of_seeds: Iterable[dict[str, Any]]) -> NDArray[np.bool_]:
    """Whether each seed is right on each test image, (seeds, images)."""
    seeds = list(of_seeds)
    found = np.ones((len(seeds), NUM_IMAGES), bool)
    for row, seed in zip(found, seeds, strict=True):
        row[seed["wrong"]] = False
    return found


def shown(recipe: str) -> str:
    """The name of a recipe in a table."""
    return "no recipe" if recipe == DEFAULT else f"`{recipe}`"


def accuracy_and_interval(verdicts: NDArray[np.bool_]) -> tuple[str, str]:
    """Mean ± standard deviation of a (seeds, images) array, and the 95 % interval for other seeds and images."""
    spread = share([float(each) for each in verdicts.mean(axis=1)], verdicts.shape[1])
    assert spread.interval is not None
    deviation = "" if spread.std is None else f" ± {100 * spread.std:.2f}"
    return f"{100 * spread.mean:.2f}{deviation}", " – ".join(f"{100 * end:.2f}" for end in spread.interval)


def row(recipe: str, seeds: list[dict[str, Any]]) -> list[str]:
    verdicts = right(seeds)
    keep = np.ones(NUM_IMAGES, bool)
    keep[duplicated(seeds[0]["data"])] = False
    loss = student_t([each["loss"] for each in seeds])
    deviation = "" if loss.std is None else f" ± {loss.std:.4f}"
    return [
        shown(recipe),
        PUBLISHED[recipe],
        str(len(seeds)),
        *accuracy_and_interval(verdicts),
        accuracy_and_interval(verdicts[:, keep])[0],
        f"{loss.mean:.4f}{deviation}",
        f"{min(each['fit_s'] for each in seeds):.0f} s",
        ", ".join(sorted({each["precision"] for each in seeds})),
    ]


def against_neighbour(worse: str, better: str) -> list[str]:
    of_both = [stored(recipe)["seeds"] for recipe in (worse, better)]
    common = [seed for seed in of_both[0] if seed in of_both[1]]
    a, b = (right(seeds[seed] for seed in common) for seeds in of_both)
    only_a, only_b = int((a[0] & ~b[0]).sum()), int((b[0] & ~a[0]).sum())
    found = [shown(worse), shown(better), str(len(common))]
    if len(common) > 1:
        over = crossed(a, b, paired=True)
        ends = " – ".join(f"{100 * end:+.2f}" for end in over.interval)
        found += [f"{100 * over.difference:+.2f}", ends, f"{over.p_value:.2g}"]
    else:
        found += ["", "", ""]
    return [*found, f"{only_a} : {only_b}", f"{mcnemar(only_a, only_b):.2g}"]


def write_tables(recipes: Sequence[str]) -> None:
    seeds = {recipe: list(stored(recipe)["seeds"].values()) for recipe in recipes}
    for data, title in DATA_SETS.items():
        of_data = {recipe: found for recipe, found in seeds.items() if found and found[0]["data"] == data}
        ranked = sorted(of_data, key=lambda recipe: float(right(of_data[recipe]).mean()))
        every = [each for found in of_data.values() for each in found]
        machines = "; ".join(sorted({f"{each['name']}, torch {each['torch']}" for each in every}))
        days = " to ".join(sorted({min(each["date"] for each in every), max(each["date"] for each in every)}))
        write_table(
            f"recipes_{data}",
            HEADER,
            [row(recipe, of_data[recipe]) for recipe in ranked],
            f"{title}: n seeds, mean ± standard deviation, and the interval for other seeds and test images. Without "
            f"near-duplicates: on the {NUM_IMAGES - len(duplicated(data)):,} test images that no training image almost "
            f"equals. One run a core, one thread a run, on {machines}; {days}. The machine was shared: the quickest "
            "seed waited least. "
            "Printed by `make recipes`.",
        )
        if len(ranked) > 1:
            write_table(
                f"neighbours_{data}",
                HEADER_OF_PAIRS,
                [against_neighbour(*pair) for pair in pairwise(ranked)],
                "Each recipe against the next better one, by the methods of `fmx compare`. Printed by `make recipes`.",
            )


def write_header(recipe: str, seeds: list[dict[str, Any]]) -> None:
    """Replace the end of a recipe's header, from `Measured here:` on."""
    path = ROOT / "conf" / "experiment" / f"{recipe}.yaml"
    accuracy, ends = accuracy_and_interval(right(seeds))
    figure = f"test accuracy {accuracy} % ({len(seeds)} seeds; 95 % interval {ends})"
    seconds = min(each["fit_s"] for each in seeds)
    names, precisions = (", ".join(sorted({each[key] for each in seeds})) for key in ("name", "precision"))
    lines = [
        f"# Measured here: {figure}, {seconds:.0f} s of training",
        f"# on one core of {names} in {precisions}. Tables: docs/recipes.md (`make recipes`).",
    ]
    text, times = re.subn(r"# Measured here:.*(?:\n#.*)*", "\n".join(lines), path.read_text(encoding="utf-8"), count=1)
    if not times:
        raise SystemExit(f"{path} has no line that begins with '# Measured here:'")
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--only", default=",".join(PUBLISHED))
    parser.add_argument("--table", action="store_true", help="write the tables from the results that are stored")
    arguments = parser.parse_args()
    seeds, recipes = [int(seed) for seed in arguments.seeds.split(",")], arguments.only.split(",")
    if unknown := set(recipes) - set(PUBLISHED):
        parser.error(f"unknown recipes: {', '.join(sorted(unknown))}; there are {', '.join(PUBLISHED)}")
    if not arguments.table:
        for recipe in recipes:
            drop_what_is_outdated(recipe)
        jobs = [(recipe, seed) for seed in seeds for recipe in recipes if str(seed) not in stored(recipe)["seeds"]]
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            list(pool.map(measure, jobs))
    write_tables(list(PUBLISHED))
    for recipe in PUBLISHED:
        if recipe != DEFAULT and (found := list(stored(recipe)["seeds"].values())):
            write_header(recipe, found)
    subprocess.run([sys.executable, "docs/generate.py"], cwd=ROOT, check=True)  # docs/parts_list.md has the headers


if __name__ == "__main__":
    main()
