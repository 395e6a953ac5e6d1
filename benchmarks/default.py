"""Run the default recipe on the real data and write what it reaches, and in how many seconds, into docs/recipes.md.

    python benchmarks/default.py [--seeds 1] [--table]

Runs go to outputs/default/SEED, one after the other with all cores; those that are complete are not run again.
--table only writes the table from what is there.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from page_table import write_table

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "outputs" / "default"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    seeds = arguments.seeds.split(",")
    for seed in seeds:
        record = RUNS / seed / "run.json"
        if not arguments.table and not (record.is_file() and json.loads(record.read_text())["status"] == "completed"):
            command = [sys.executable, "-m", "fmx.run", f"seed={seed}", f"hydra.run.dir={RUNS / seed}"]
            subprocess.run(command, cwd=ROOT, check=True)
    records = [json.loads((RUNS / seed / "run.json").read_text()) for seed in seeds]
    figures = [json.loads((RUNS / seed / "metrics.json").read_text()) for seed in seeds]
    device = records[0]["device"]
    write_table(
        "default",
        ["command", "validation accuracy", "test accuracy", "test loss", "seeds", "training, median"],
        [
            [
                "`python -m fmx.run`",
                f"{100 * statistics.mean(f['val']['accuracy'] for f in figures):.2f} %",
                f"{100 * statistics.mean(f['test']['accuracy'] for f in figures):.2f} %",
                f"{statistics.mean(f['test']['loss'] for f in figures):.4f}",
                str(len(seeds)),
                f"{statistics.median(r['timing']['fit_s'] for r in records):.0f} s",
            ]
        ],
        f"The default run; the checkpoint is chosen on 5,000 held-out training images. On {device['name']}, "
        f"{device['threads']} thread(s), {device['precision']}. Printed by `python benchmarks/default.py`.",
    )


if __name__ == "__main__":
    main()
