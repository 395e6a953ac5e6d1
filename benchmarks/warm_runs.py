"""Runs of several seeds one after the other in one process, after a first one that warms it up and is thrown away.

    python benchmarks/warm_runs.py FOLDER SEEDS OVERRIDE...

The runs of the seeds 1 to SEEDS are in FOLDER/1, FOLDER/2, …
"""

import sys
from pathlib import Path

from fmx.run import main as fmx_run


def main() -> None:
    folder, seeds, overrides = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    for name, seed in [("warm-up", 1), *((str(seed), seed) for seed in range(1, seeds + 1))]:
        sys.argv[1:] = [*overrides, f"seed={seed}", f"hydra.run.dir={folder / name}"]
        fmx_run()


if __name__ == "__main__":
    main()
