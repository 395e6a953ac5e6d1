"""Run every published recipe with three seeds on the real data and write their table in docs/.

    python benchmarks/recipes.py [--seeds 1,2,3] [--only three_conv_adam,lenet_mnist] [--table]

Runs go to outputs/recipes/RECIPE/SEED; those that are complete are not run again. One run a core, one thread a run:
small models do not repay a second thread. --table only writes the table from what is there.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from page_table import write_table

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "outputs" / "recipes"
PUBLISHED = {
    "three_conv_adam": "loss 0.2453, 92.04 %",
    "dilated_adam": "none printed",
    "avgpool_adam": "none printed",
    "lenet_mnist": "about 99 % after 4 epochs",
    "dropout_cnn_adam": "loss 0.1975, 92.83 %",
    "mlp_sgd": "none printed",
}


def run_dir(recipe: str, seed: int) -> Path:
    return RUNS / recipe / str(seed)


def is_complete(recipe: str, seed: int) -> bool:
    record = run_dir(recipe, seed) / "run.json"
    return record.is_file() and json.loads(record.read_text())["status"] == "completed"


def run(job: tuple[str, int]) -> None:
    recipe, seed = job
    if is_complete(recipe, seed):
        return
    began = time.perf_counter()
    command = [sys.executable, "-m", "fmx.run", f"experiment={recipe}", f"seed={seed}"]
    finished = subprocess.run(
        [*command, f"hydra.run.dir={run_dir(recipe, seed)}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        print(finished.stdout + finished.stderr, file=sys.stderr)
        raise SystemExit(f"{recipe} seed {seed} failed with exit code {finished.returncode}")
    print(f"{recipe} seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)


def row(recipe: str, seeds: list[int]) -> list[str]:
    metrics = [json.loads((run_dir(recipe, seed) / "metrics.json").read_text())["test"] for seed in seeds]
    records = [json.loads((run_dir(recipe, seed) / "run.json").read_text()) for seed in seeds]
    accuracy, loss = [100 * m["accuracy"] for m in metrics], [m["loss"] for m in metrics]
    seconds = statistics.median(r["timing"]["fit_s"] for r in records)
    spread = f"{statistics.mean(accuracy):.2f} ± {statistics.stdev(accuracy):.2f} %"
    loss_spread = f"{statistics.mean(loss):.4f} ± {statistics.stdev(loss):.4f}"
    precision = records[0]["device"]["precision"]
    return [f"`{recipe}`", PUBLISHED[recipe], spread, loss_spread, str(len(seeds)), precision, f"{seconds:.0f} s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--only", default=",".join(PUBLISHED))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    seeds, recipes = [int(seed) for seed in arguments.seeds.split(",")], arguments.only.split(",")
    if not arguments.table:
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(run, [(recipe, seed) for recipe in recipes for seed in seeds]))
    device = json.loads((run_dir(recipes[0], seeds[0]) / "run.json").read_text())["device"]
    write_table(
        "recipes",
        ["recipe", "published", "test accuracy here", "test loss here", "seeds", "precision", "training, median"],
        [row(recipe, seeds) for recipe in recipes if all(is_complete(recipe, seed) for seed in seeds)],
        f"Mean ± standard deviation over the seeds; one run a core, one thread a run, on {device['name']}. "
        "The seconds include waiting where the machine was shared. Printed by `make recipes`.",
    )


if __name__ == "__main__":
    main()
