"""A multirun through the local launcher against the same runs typed one after the other.

    python benchmarks/sweep.py [--jobs 16] [--repeats 3] [--many 100] [--table]

Both sides run `data=digits`, two epochs, and take turns. Then: how long each job's process takes from its first
instruction to its first training step, and how much memory the sweep's own process holds while `--many` jobs pass.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from alternate import alternate
from machine import describe, in_words
from page_table import write_table
from result_file import load, save

HERE = Path(__file__).parent
RUN = [sys.executable, "-m", "fmx.run"]
JOB = ["data=digits", "model=mlp", "augment=none", "trainer.max_epochs=2"]
FIRST_STEP = ["+callbacks.age._target_=process_age.AgeAtFirstStep", "+callbacks.age.path=${run_dir}/age"]
ENV = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}


def typed(jobs: int, folder: Path) -> float:
    began = time.perf_counter()
    for seed in range(jobs):
        command = [*RUN, *JOB, *FIRST_STEP, f"seed={seed}", f"hydra.run.dir={folder}/{seed}"]
        subprocess.run(command, env=ENV, check=True, capture_output=True)
    return time.perf_counter() - began


def sweep(jobs: int, folder: Path) -> float:
    began = time.perf_counter()
    command = [*RUN, "-m", *JOB, *FIRST_STEP, f"seed=range({jobs})", f"hydra.sweep.dir={folder}"]
    subprocess.run(command, env=ENV, check=True, capture_output=True)
    return time.perf_counter() - began


def ages(folder: Path) -> list[float]:
    return [float(path.read_text()) for path in folder.glob("*/age")]


def memory_mb(jobs: int, folder: Path) -> list[tuple[int, float]]:
    """Resident MiB of the sweep's process at each finished job."""
    command = [*RUN, "-m", *JOB, "trainer=smoke", f"seed=range({jobs})", f"hydra.sweep.dir={folder}"]
    process = subprocess.Popen(command, env=ENV, stdout=subprocess.DEVNULL)
    seen: dict[int, float] = {}
    while process.poll() is None:
        done = len(list(folder.glob("*/metrics.json")))
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
        resident = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")]
        if done and resident:
            seen[done] = round(resident[0], 1)
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"the sweep of {jobs} jobs ended with {process.returncode}")
    return sorted(seen.items())


def measure(jobs: int, repeats: int, many: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fmx-bench-") as name:
        folder = Path(name)
        sides = {
            "typed": lambda number: typed(jobs, folder / f"typed{number}"),
            "sweep": lambda number: sweep(jobs, folder / f"sweep{number}"),
        }
        seconds = alternate(sides, repeats)
        first = {side: [age for n in range(1, repeats + 1) for age in ages(folder / f"{side}{n}")] for side in sides}
        memory = memory_mb(many, folder / "many")
    tenth = max(1, len(memory) // 10)
    return {
        "jobs": jobs,
        "seconds": seconds,
        "ratio": median(seconds["typed"]) / median(seconds["sweep"]),
        "first_step_s": {side: median(values) for side, values in first.items()},
        "many": many,
        "memory_mb": {"first tenth": memory[tenth - 1][1], "end": memory[-1][1], "samples": memory},
    }


def write(results: dict[str, Any]) -> None:
    m = results["measured"]
    write_table(
        "sweep",
        [f"{m['jobs']} runs on the digits, two epochs", "typed one after the other", "`-m`, local launcher", "ratio"],
        [
            ["whole, median", f"{median(m['seconds']['typed']):.1f} s", f"{median(m['seconds']['sweep']):.1f} s",
             f"{m['ratio']:.1f}"],
            ["process to first step, median", f"{m['first_step_s']['typed']:.2f} s",
             f"{m['first_step_s']['sweep']:.2f} s", f"{m['first_step_s']['typed'] / m['first_step_s']['sweep']:.1f}"],
        ],
        f"On {in_words(results['machine'])}. Memory of the sweep's own process over {m['many']} jobs: "
        f"{m['memory_mb']['first tenth']:.0f} MiB after the first tenth, {m['memory_mb']['end']:.0f} MiB at the end. "
        f"Printed by `{results['command']}`.",
        machine=results["machine"],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("sweep")
    else:
        machine = describe()
        results = save("sweep", machine, measure(arguments.jobs, arguments.repeats, arguments.many))
    write(results)


if __name__ == "__main__":
    main()
