"""Several runs of fmx at once on one GPU: how many images they train in a second together.

    python benchmarks/packing.py [--jobs 1 2 4 8] [--networks three_conv mlp] [--seconds 60]
    python benchmarks/packing.py --accelerator cpu --data digits --seconds 2 --jobs 1 2   # without a GPU, in miniature

Each line is a sweep of so many seeds with hydra.launcher.jobs_per_gpu, all at once, each of which trains for the given
seconds. Start NVIDIA's MPS before (nvidia-cuda-mps-control -d) to measure with it; the caption says whether it ran.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe, in_words


def sweep(network: str, jobs: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the jobs; what they trained in a second, together and the slowest one, and how long all took."""
    command = [sys.executable, "-m", "fmx.run", "-m", f"data={arguments.data}", f"model={network}", "logger=none"]
    command += [f"trainer.accelerator={arguments.accelerator}", "trainer.max_epochs=100000", "schedule=constant"]
    command += ["+trainer.max_time.seconds=" + str(arguments.seconds), f"seed=range({jobs})"]
    command += [f"hydra.launcher.workers={jobs}", f"hydra.sweep.dir={folder}"]
    if arguments.accelerator == "gpu":
        command.append(f"hydra.launcher.jobs_per_gpu={jobs}")
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{network}, {jobs} jobs:\n{done.stdout}{done.stderr}")
    speeds = [
        json.loads(path.read_text(encoding="utf-8"))["timing"]["images_per_s"] for path in folder.glob("*/run.json")
    ]
    return {
        "network": network,
        "jobs": jobs,
        "images_per_s": sum(speeds),
        "slowest_images_per_s": min(speeds),
        "seconds": time.perf_counter() - began,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| network | at once | images/s together | × one | images/s of the slowest | whole sweep |",
        "|" + "---|" * 6,
    ]
    for row in rows:
        one = next(each for each in rows if each["network"] == row["network"])
        lines.append(
            f"| {row['network']} | {row['jobs']} | {row['images_per_s']:,.0f} | "
            f"{row['images_per_s'] / one['images_per_s']:.2f} | {row['slowest_images_per_s']:,.0f} | "
            f"{row['seconds']:.0f} s |"
        )
    return lines


def mps_runs() -> bool:
    """Whether NVIDIA's MPS control daemon runs."""
    names = (path.read_text(encoding="utf-8", errors="replace").strip() for path in Path("/proc").glob("[0-9]*/comm"))
    return any(name.startswith("nvidia-cuda-mps") for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--networks", nargs="+", default=["three_conv", "mlp"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--accelerator", default="gpu", choices=["gpu", "cpu"])
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    arguments = parser.parse_args()
    machine = describe("cuda" if arguments.accelerator == "gpu" else "cpu")
    rows = []
    with tempfile.TemporaryDirectory(prefix="fmx-bench-") as name:
        for network in arguments.networks:
            for jobs in arguments.jobs:
                rows.append(sweep(network, jobs, arguments, Path(name) / f"{network}{jobs}"))
                print(table([rows[-1]])[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "measured": rows}, indent=2) + "\n", encoding="utf-8")
    print("\n".join(table(rows)))
    mps = "with MPS" if mps_runs() else "without MPS"
    print(f"{arguments.seconds:g} s each, {mps}. On {in_words(machine)}. Printed by `python benchmarks/packing.py`.")


if __name__ == "__main__":
    main()
