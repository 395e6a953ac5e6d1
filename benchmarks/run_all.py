"""Run the benchmarks of the table of targets in docs/ with few rounds: less than 30 minutes on two cores with AMX.

    python benchmarks/run_all.py [--device cuda]

Each one writes its JSON file for this kind of machine, and its table in docs/, which show CPUs with AMX. For more
rounds run a benchmark by itself; --help lists its options.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SHORT = {
    "startup": ["--repeats", "3"],
    "loader": [],
    "memory": ["--repeats", "1"],
    "scoring": ["--repeats", "1"],
    "inference": [],
    "overhead": ["--repeats", "1", "--epochs", "4"],
    "steps": ["--rounds", "4"],
    "plain_lightning": ["--rounds", "1"],
    "time_to_accuracy": ["--only", "92.04", "--turns", "4"],
}
ON_CPU_ALONE = {"steps"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    failed = []
    for name, options in SHORT.items():
        if arguments.device == "cuda" and name in ON_CPU_ALONE:
            continue
        print(f"== {name}", flush=True)
        began = time.perf_counter()
        device = [] if name in ON_CPU_ALONE else ["--device", arguments.device]
        command = [sys.executable, str(HERE / f"{name}.py"), *options, *device]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
        print(f"== {name}: {time.perf_counter() - began:.0f} s\n", flush=True)
    subprocess.run([sys.executable, str(HERE / "targets.py")], check=True)
    if failed:
        raise SystemExit(f"these did not finish: {', '.join(failed)}")


if __name__ == "__main__":
    main()
