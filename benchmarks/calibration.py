"""What a temperature and an ensemble gain for the default network: calibration error, likelihood and test accuracy.

    python benchmarks/calibration.py [--seeds 1,2,3,4,5] [--epochs 8] [--table]

The seeds of `model=three_conv` are trained on Fashion-MNIST as by default, one run a core, one thread a run; runs in
outputs/calibration/EPOCHS that are complete are not trained again. The temperature of each is fitted on its 5,000
validation images by `fmx evaluate --calibration`. All seeds are members of the ensemble. Spreads are over the seeds.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fmx.process.cores import num_cores
from fmx.reporting.intervals import Spread, student_t
from machine import describe
from page_table import write_table

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "outputs" / "calibration"
RESULTS = ROOT / "benchmarks" / "results" / "calibration.json"  # they depend on no machine
STATES = ("trained", "calibrated")
RECIPE = ["data=fashion_mnist", "model=three_conv", "logger=none"]


def command(verb: str, *arguments: str) -> None:
    module = "fmx.run" if verb == "run" else f"fmx.commands.{verb}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{verb} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def read(path: Path) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return contents


def seed_row(folder: Path, seed: int, epochs: int) -> dict[str, Any]:
    """A seed's accuracy, temperature and calibration; it is trained unless it is complete."""
    began = time.perf_counter()
    if not (folder / "run.json").is_file() or read(folder / "run.json")["status"] != "completed":
        command("run", *RECIPE, f"trainer.max_epochs={epochs}", f"seed={seed}", f"hydra.run.dir={folder}")
    row = calibrated(folder)
    ece = [f"{100 * row[state]['ece']:.2f} %" for state in STATES]
    print(f"seed {seed}: accuracy {100 * row['accuracy']:.2f} %, ECE {ece[0]} as trained, {ece[1]} with temperature "
          f"{row['temperature']:.3f}; {time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip
    return row


def calibrated(folder: Path) -> dict[str, Any]:
    """The figures of a run or ensemble on the test set, as trained and with the temperature that is fitted here."""
    command("evaluate", str(folder), "--calibration")
    kept, metrics = read(folder / "calibration.json"), read(folder / "metrics.json")
    states = {state: {name: kept["parts"]["test"][state][name] for name in ("ece", "nll")} for state in STATES}
    return {"accuracy": metrics["test"]["accuracy"], "temperature": kept["temperature"], **states}


def measure(seeds: list[int], epochs: int) -> dict[str, Any]:
    home = RUNS / str(epochs)
    with ThreadPoolExecutor(num_cores()) as pool:
        rows = [*pool.map(lambda seed: seed_row(home / str(seed), seed, epochs), seeds)]
    together = home / "ensemble"
    shutil.rmtree(together, ignore_errors=True)
    command("ensemble", *(str(home / str(seed)) for seed in seeds), "--out", str(together))
    gains = [
        each | {"over": each["over"].replace(f"{home}/", "seed ")} for each in read(together / "ensemble.json")["gains"]
    ]
    ensemble = calibrated(together) | {"gains": gains}
    return {"epochs": epochs, "seeds": dict(zip(map(str, seeds), rows, strict=True)), "ensemble": ensemble}


def in_words(spread: Spread, digits: int = 2) -> str:
    """A mean and its standard deviation."""
    return f"{spread.mean:.{digits}f}" + ("" if spread.std is None else f" ± {spread.std:.{digits}f}")


def write(results: dict[str, Any]) -> None:
    measured = results["measured"]
    seeds, ensemble = [*measured["seeds"].values()], measured["ensemble"]
    table = []
    for state, name in (("trained", "as trained"), ("calibrated", "with its temperature")):
        of_seeds = [
            student_t([100 * each["accuracy"] for each in seeds]),
            student_t([100 * each[state]["ece"] for each in seeds]),
        ]
        nll = student_t([each[state]["nll"] for each in seeds])
        temperature = student_t([each["temperature"] for each in seeds])
        shown = "1" if state == "trained" else in_words(temperature)
        table.append([f"one network, {name}", str(len(seeds)), *map(in_words, of_seeds), in_words(nll, 4), shown])
    for state, name in (("trained", "as it is"), ("calibrated", "with its temperature")):
        table.append([
            f"all {len(seeds)} as an ensemble, {name}", "1", f"{100 * ensemble['accuracy']:.2f}",
            f"{100 * ensemble[state]['ece']:.2f}", f"{ensemble[state]['nll']:.4f}",
            "1" if state == "trained" else f"{ensemble['temperature']:.2f}",
        ])  # fmt: skip
    lowered = student_t([100 * (each["calibrated"]["ece"] - each["trained"]["ece"]) for each in seeds])
    gain = ensemble["gains"][0]
    caption = (
        f"`{' '.join(RECIPE[:2])} trainer.max_epochs={measured['epochs']}`, seeds {', '.join(measured['seeds'])}; mean "
        "± standard deviation over the seeds, of the 10,000 test images. The temperature changes the ECE by "
        f"{_ends(lowered.mean, lowered.interval)} points (Student's t, paired by seed). The ensemble gains "
        f"{_ends(100 * gain['difference'], [100 * end for end in gain['interval']])} points of accuracy over the mean "
        "of its members (Student's t for pairs, over the test images)."
    )
    header = ["", "n", "test accuracy %", "ECE %", "NLL", "temperature"]
    write_table("calibration", header, table, caption)


def _ends(mean: float, interval: Any) -> str:
    return f"{mean:+.2f}" + ("" if interval is None else f" ({interval[0]:+.2f} to {interval[1]:+.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = read(RESULTS)
    else:
        measured = measure([int(seed) for seed in arguments.seeds.split(",")], arguments.epochs)
        results = {"date": time.strftime("%Y-%m-%d"), "machine": describe(), "measured": measured}
        RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write(results)


if __name__ == "__main__":
    main()
