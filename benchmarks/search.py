"""Does model-based search with early stopping beat random search? Both seek the same in the same space of real data.

    python benchmarks/search.py [--repeats 3] [--trials 24] [--workers 1] [--only REPEAT]

TPE with ASHA is to find at least the validation accuracy of random search with as many trials, in at most half its
training steps. Searches go to outputs/benchmarks/search/; what is complete there is not run again.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

from page_table import write_table

ROOT = Path(__file__).resolve().parents[1]
SEARCHES = ROOT / "outputs" / "benchmarks" / "search"
RESULTS = ROOT / "benchmarks" / "results" / "search.json"
METHODS = {"random": ["sampler=random"], "tpe + asha": ["sampler=tpe", "startup=8", "pruning=asha", "reduction=3"]}
STEPS_PER_EPOCH = 20
# 2,560 images an epoch of Fashion-MNIST's training set, 2,000 of the validation set.
RUN = [
    "data=fashion_mnist",
    "model=mlp",
    "augment=none",
    "schedule=constant",
    "logger=none",
    "trainer=cpu",
    "hydra.launcher.threads=1",  # so that as many workers as there are cores do not wait for one another
    "trainer.max_epochs=9",
    f"trainer.limit_train_batches={STEPS_PER_EPOCH}",
    "trainer.limit_val_batches=8",
    "trainer.limit_test_batches=4",
]
SPACE = [
    "optim=adamw,rmsprop,sgd",
    "optim.lr=tag(log,interval(1e-5,1e-1))",
    "optim.weight_decay=tag(log,interval(1e-6,1e-1))",
    "model.net.hidden_sizes=[32],[128],[300,100]",
    "loss.label_smoothing=interval(0.0,0.3)",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", type=int, help="run this repeat alone and print nothing yet")
    arguments = parser.parse_args()
    repeats = [arguments.only] if arguments.only else range(1, arguments.repeats + 1)
    for repeat in repeats:
        for method in METHODS:
            search(method, repeat, trials=arguments.trials, workers=arguments.workers)
    if not arguments.only:
        report(arguments.repeats, arguments.trials)


def folder(method: str, repeat: int) -> Path:
    return SEARCHES / f"{method.replace(' + ', '_')}-{repeat}"


def search(method: str, repeat: int, *, trials: int, workers: int) -> None:
    settings = [f"hydra.sweeper.{setting}" for setting in METHODS[method]]
    settings += [
        f"hydra.sweeper.seed={repeat}",
        f"hydra.sweeper.n_trials={trials}",
        f"hydra.launcher.workers={workers}",
    ]
    command = [sys.executable, "-m", "fmx.run", "-m", "hydra/sweeper=search", *RUN, f"seed={repeat}", *SPACE, *settings]
    subprocess.run([*command, f"hydra.sweep.dir={folder(method, repeat)}"], cwd=ROOT, check=True)


def measured(method: str, repeat: int) -> dict:
    found = json.loads((folder(method, repeat) / "search.json").read_text())
    return {
        "best": found["best"][0]["values"]["val/accuracy"],
        "steps": sum(steps(folder(method, repeat) / str(trial["trial"]), trial) for trial in found["history"]),
        "trials": found["trials"],
        "command": found["best"][0]["command"],
    }


def steps(run_dir: Path, trial: dict) -> int:
    """The training steps of a trial; one that was pruned ended with the last validation that it reported."""
    if trial["state"] == "pruned":
        return STEPS_PER_EPOCH * max(map(int, trial["reports"]))
    with (run_dir / "history.csv").open(newline="") as file:
        return max(int(row["step"]) for row in csv.DictReader(file))


def report(repeats: int, trials: int) -> None:
    results = {method: [measured(method, repeat) for repeat in range(1, repeats + 1)] for method in METHODS}
    print(f"\n{trials} trials each; best validation accuracy and training steps")
    print(f"{'repeat':8}" + "".join(f"{method:>26}" for method in METHODS) + f"{'steps':>10}")
    shares = []
    for repeat in range(repeats):
        random, guided = (results[method][repeat] for method in METHODS)
        shares.append(guided["steps"] / random["steps"])
        cells = "".join(f"{100 * each['best']:14.2f} % {each['steps']:9,}" for each in (random, guided))
        print(f"{repeat + 1:<8}{cells}{shares[-1]:10.0%}")
    means = {method: statistics.mean(each["best"] for each in results[method]) for method in METHODS}
    cells = "".join(f"{100 * mean:14.2f} %{'':10}" for mean in means.values())
    print(f"{'mean':8}{cells}{statistics.mean(shares):10.0%}")
    holds = means["tpe + asha"] >= means["random"] and max(shares) <= 0.5
    print("holds" if holds else "DOES NOT HOLD", ": at least as good on average, in at most half the steps each time")
    write_table(
        "search",
        ["search", "best validation accuracy", "training steps", "of random's"],
        [row(method, results) for method in METHODS],
        f"{trials} trials each, {repeats} repeats; mean (least to most). Fashion-MNIST, 2,560 images an epoch, up to "
        "nine epochs; optimizer, learning rate, weight decay, layers and label smoothing are sought. In each repeat "
        "both draw the same first eight trials. Printed by "
        "`python benchmarks/search.py`.",
    )
    RESULTS.parent.mkdir(exist_ok=True)
    plain = {"trials": trials, "run": RUN, "space": SPACE, "methods": METHODS, "results": results, "holds": holds}
    RESULTS.write_text(json.dumps(plain, indent=2) + "\n")


def row(method: str, results: dict) -> list[str]:
    bests = [100 * each["best"] for each in results[method]]
    counts = [each["steps"] for each in results[method]]
    share = statistics.mean(counts) / statistics.mean(each["steps"] for each in results["random"])
    return [
        method,
        f"{statistics.mean(bests):.2f} % ({min(bests):.2f} to {max(bests):.2f})",
        f"{statistics.mean(counts):,.0f} ({min(counts):,} to {max(counts):,})",
        f"{share:.0%}",
    ]


if __name__ == "__main__":
    main()
