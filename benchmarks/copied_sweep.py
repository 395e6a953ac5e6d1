"""A sweep of many runs, made by copying one run's files with other seeds and learning rates; the large ones are linked.

python benchmarks/copied_sweep.py RUN FOLDER [--runs 2000] [--seeds 5]
"""

import argparse
import json
import os
import random
import shutil
from pathlib import Path

import yaml

LINKED = ["predictions.npz", "report.txt", "figures", "checkpoints", "tensorboard"]


def copied_sweep(run: Path, folder: Path, *, runs: int, seeds: int) -> None:
    """Write `runs` run directories into a folder, `seeds` of each configuration, with random accuracies."""
    record, metrics = (json.loads((run / name).read_text()) for name in ("run.json", "metrics.json"))
    resolved = yaml.safe_load((run / ".hydra" / "resolved.yaml").read_text())
    draw = random.Random(0)
    for number in range(runs):
        configuration, seed = divmod(number, seeds)
        rate = round(0.01 * (configuration + 1) / runs, 9)
        target = folder / str(number)
        target.mkdir(parents=True)
        shutil.copytree(run / ".hydra", target / ".hydra")
        for name in LINKED:
            if (run / name).is_dir():
                shutil.copytree(run / name, target / name, copy_function=os.link)
            else:
                os.link(run / name, target / name)
        shutil.copyfile(run / "history.csv", target / "history.csv")
        for part in ("val", "test"):
            metrics[part]["accuracy"] = draw.randint(0, 360) / 360
        config = resolved | {"seed": seed, "run_dir": str(target), "optim": resolved["optim"] | {"lr": rate}}
        (target / ".hydra" / "resolved.yaml").write_text(yaml.safe_dump(config))
        (target / "metrics.json").write_text(json.dumps(metrics))
        (target / "run.json").write_text(json.dumps(record | {"seed": seed}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    copied_sweep(arguments.run, arguments.folder, runs=arguments.runs, seeds=arguments.seeds)


if __name__ == "__main__":
    main()
