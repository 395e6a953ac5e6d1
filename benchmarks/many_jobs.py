"""Another checkout of fmx against this one, where there are many jobs: CPU time of sweeps and of a report.

    python benchmarks/many_jobs.py CHECKOUT [--jobs 300] [--composed 2000] [--runs 2000] [--typed 16] [--table]

CHECKOUT is a folder with another commit, for example of `git worktree add CHECKOUT COMMIT`. Both sides take turns. A
command's CPU time is that of all its processes, also of those that outlive it for a moment, such as a fork server; on
a machine that others use, it is the steadier figure. The report is of `--runs` run directories, copies of one run.
"""

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from alternate import alternate, median
from copied_sweep import copied_sweep
from machine import describe, in_words
from page_table import write_table
from result_file import load, save

HERE = Path(__file__).resolve().parents[1]
JOB = ["data=digits", "model=lenet", "trainer=smoke"]
BECOME_SUBREAPER = 36  # of prctl: orphaned processes become children of this one, which counts their time


def cpu_s(tree: Path, *arguments: str) -> float:
    """The CPU time of a command of a checkout, with all processes that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "fmx", *arguments], env=env, check=True, stdout=subprocess.DEVNULL)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(checkout: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    cpu_s(HERE, "run", *JOB, f"hydra.run.dir={folder}/run")
    copied_sweep(folder / "run", folder / "copies", runs=arguments.runs, seeds=5)
    trees, folders = {"before": checkout, "after": HERE}, iter(range(10**6))

    def sweep(tree: Path, jobs: int, *more: str) -> float:
        named = f"hydra.sweep.dir={folder}/sweep{next(folders)}"
        return cpu_s(tree, "run", "-m", *JOB, f"seed=range({jobs})", named, *more)

    def typed(tree: Path) -> float:
        runs = [f"{folder}/typed{next(folders)}" for _ in range(arguments.typed)]
        return sum(cpu_s(tree, "run", *JOB, f"seed={at}", f"hydra.run.dir={run}") for at, run in enumerate(runs))

    def report(tree: Path) -> float:
        return cpu_s(tree, "report", f"{folder}/copies", "--html", f"{folder}/report.html", "--force")

    rows = {
        f"compose and check {arguments.composed:,} jobs": lambda tree: sweep(tree, arguments.composed, "--dry-run"),
        f"{arguments.jobs} smoke jobs, each": lambda tree: sweep(tree, arguments.jobs) / arguments.jobs,
        f"{arguments.typed} commands": typed,
        f"{arguments.typed} jobs of one command": lambda tree: sweep(tree, arguments.typed),
        f"`fmx report` of {arguments.runs:,} runs, with its page": report,
    }
    measured = {}
    for name, run in rows.items():
        sides = {side: lambda _, tree=tree, run=run: run(tree) for side, tree in trees.items()}  # type: ignore[misc]
        measured[name] = alternate(sides, arguments.repeats)
        print(name, {side: round(median(values), 2) for side, values in measured[name].items()}, flush=True)
    size = (folder / "report.html").stat().st_size
    return {"rows": measured, "page_mb": round(size / 1e6, 1), "typed": arguments.typed}


def write(results: dict[str, Any]) -> None:
    m = results["measured"]
    rows = []
    for name, sides in m["rows"].items():
        before, after = median(sides["before"]), median(sides["after"])
        rows.append([name, f"{before:.2f} s", f"{after:.2f} s", f"{before / after:.1f}"])
    write_table(
        "many_jobs",
        ["CPU time, LeNet on the digits, a few steps", "before", "after", "ratio"],
        rows,
        f"On {in_words(results['machine'])}, all processes together, one thread each. The page of the report has "
        f"{m['page_mb']} MB. Printed by `{results['command']}`.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, nargs="?")
    for name, default in {"jobs": 300, "composed": 2000, "runs": 2000, "typed": 16, "repeats": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        write(load("many_jobs"))
        return
    if arguments.checkout is None:
        parser.error("name the other checkout")
    ctypes.CDLL(None).prctl(BECOME_SUBREAPER, 1)
    with tempfile.TemporaryDirectory(prefix="fmx-bench-") as folder:
        measured = measure(arguments.checkout.resolve(), arguments, Path(folder))
    sys.argv[sys.argv.index(str(arguments.checkout))] = "CHECKOUT"  # the table's command names no folder of a machine
    write(save("many_jobs", describe(), measured))


if __name__ == "__main__":
    main()
