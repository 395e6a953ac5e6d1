"""Composing and checking the jobs of a sweep, which happens before the first one starts.

    python benchmarks/compose.py [CHECKOUT] [--jobs 2000] [--repeats 3] [--few 40]

Times `--dry-run` of two sweeps: of as many seeds, and of two networks, two optimizers, rates and five seeds. Prints the
seconds of the whole command, the CPU time of its own process for each job beyond the first ten, and the most memory
that this process held. With CHECKOUT, another commit (of `git worktree add`) composes `--few` jobs in turn with it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from alternate import alternate, median

HERE = Path(__file__).resolve().parents[1]
FIRST = 10
SEEDS = 5


class Taken(NamedTuple):
    """What one command took."""

    seconds: float
    cpu_s: float
    memory_mb: float


def seeds(jobs: int) -> list[str]:
    return ["model=lenet", f"seed=range({jobs})"]


def grid(jobs: int) -> list[str]:
    rates = ",".join(f"{0.001 + 0.0001 * number:.4f}" for number in range(max(1, jobs // (4 * SEEDS))))
    return ["model=mlp,lenet", "optim=sgd,adam", f"optim.lr={rates}", f"seed=range({SEEDS})"]


def dry_run(tree: Path, sweep: list[str]) -> Taken:
    with tempfile.TemporaryDirectory(prefix="fmx-bench-") as folder:
        command = [sys.executable, "-m", "fmx.run", "-m", "--dry-run", "data=digits", *sweep]
        env = os.environ | {"PYTHONPATH": os.fspath(tree / "src")}
        began = time.perf_counter()
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        return Taken(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def report(name: str, many: int, long: list[Taken], short: list[Taken]) -> None:
    each = 1000 * (median([one.cpu_s for one in long]) - median([one.cpu_s for one in short])) / (many - FIRST)
    whole, memory = median([one.seconds for one in long]), median([one.memory_mb for one in long])
    print(f"{name}: {many:,} jobs in {whole:.1f} s, {each:.1f} ms of CPU time each, {memory:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--few", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    for name, sweep in (("seeds", seeds), ("grid", grid)):
        counts = {"now": (HERE, arguments.jobs)} | (
            {"before": (arguments.checkout.resolve(), arguments.few)} if arguments.checkout else {}
        )
        sides = {}
        for side, (tree, jobs) in counts.items():
            sides[side] = partial(lambda _, tree, sweep: dry_run(tree, sweep), tree=tree, sweep=sweep(jobs))
            sides[f"{side}, few"] = partial(lambda _, tree, sweep: dry_run(tree, sweep), tree=tree, sweep=seeds(FIRST))
        taken = alternate(sides, arguments.repeats)
        for side, (_, jobs) in counts.items():
            report(f"{name}, {side}", jobs, taken[side], taken[f"{side}, few"])


if __name__ == "__main__":
    main()
