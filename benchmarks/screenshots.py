"""Take the two screenshots in docs/: TensorBoard and the HTML report on a small sweep of the digits.

    python benchmarks/screenshots.py

Needs Debian's chromium. Writes docs/screenshots/tensorboard.png and report.png.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "docs/screenshots"
sys.path.insert(0, str(ROOT / "tests"))

from chromium import chromium_page  # noqa: E402

SWEEP = ["-m", "data=digits", "model=lenet,mlp,two_conv", "augment=none", "seed=1,2,3", "trainer.max_epochs=6"]


def main() -> None:
    SHOTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        sweep = [sys.executable, "-m", "fmx.run", *SWEEP, "hydra.sweep.dir=sweeps/demo"]
        subprocess.run(sweep, cwd=folder, check=True)
        subprocess.run(
            [sys.executable, "-m", "fmx.commands.report", "sweeps", "--html", "report.html"], cwd=folder, check=True
        )
        server = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", "sweeps", "--host", "127.0.0.1", "--port", "0"],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.stderr is not None
        address = next(m[0] for line in server.stderr if (m := re.search(r"http://127\.0\.0\.1:\d+", line)))
        with chromium_page() as page:
            page.open(f"file://{folder}/report.html", width=1100, height=1000)
            time.sleep(3)
            page.screenshot(SHOTS / "report.png")
            page.open(f"{address}/#timeseries", width=1300, height=800)
            time.sleep(15)
            page.screenshot(SHOTS / "tensorboard.png")
        server.kill()


if __name__ == "__main__":
    main()
