"""Another checkout of fmx against this one: epochs of whole runs, the data path alone, and the first step.

    python benchmarks/before_after.py CHECKOUT [--repeats 2] [--epochs 8] [--share 0.3] [--only mlp,flip,start]

CHECKOUT is a folder with another commit, for example of `git worktree add CHECKOUT COMMIT`. Both sides have the same
libraries, are alive at the same time, and one sleeps while the other works: what else the machine does falls on both
alike. Prints the ratios of medians, this checkout ÷ the other one, of the time that passed and of the CPU time; above
1, this one is slower. On a machine that others use, the CPU time with OMP_NUM_THREADS=1 is the steadier figure.
"""

import argparse
import itertools
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from unittest import mock

from alternate import alternate, median, ratio
from chosen import chosen
from extracted_data import extracted
from overhead import CASES, Side
from startup import first_step

HERE = Path(__file__).resolve().parents[1]
AUGMENT = ["none", "flip", "crop_flip", "erasing"]


def repeat_path(augment: str) -> None:
    """Send all images through the data path again and again, and print a line after five times."""
    from loader import fmx_paths

    paths = fmx_paths(augment, data=str(extracted()), batch_size=256, device="cpu")
    for _ in itertools.count():
        for _ in range(5):
            paths[f"{augment}: whole path"](0)
        print("epoch ", flush=True)


def compare(name: str, command: list[str], checkout: Path, repeats: int, epochs: int) -> None:
    passed: dict[str, list[float]] = {"before": [], "after": []}
    computed: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="fmx-bench-") as folder:
            sides = {}
            for side, tree in (("before", checkout), ("after", HERE)):
                with mock.patch.dict(os.environ, PYTHONPATH=os.fspath(tree / "src")):
                    sides[side] = Side([part.replace("RUN", f"{folder}/{side}") for part in command])
            with sides["before"] as before, sides["after"] as after:
                taken = alternate({"before": partial(epoch, before), "after": partial(epoch, after)}, epochs)
                for side, figures in taken.items():
                    passed[side] += [each[0] for each in figures]
                    computed[side] += [each[1] for each in figures]
    report(f"{name}, time passed", passed)
    report(f"{name}, CPU time", computed)


def epoch(side: Side, _: int) -> tuple[float, float]:
    """The seconds that passed during a side's next epoch, and the CPU time of its process, all threads together."""
    began = cpu_time(side.process.pid)
    passed = side.epoch()
    return passed, cpu_time(side.process.pid) - began


def cpu_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(name: str, seconds: dict[str, list[float]]) -> None:
    before, after = median(seconds["before"]), median(seconds["after"])
    number = len(seconds["after"])
    ratio_ = ratio(seconds["after"], seconds["before"])
    print(f"{name}: {before:.3f} s before, {after:.3f} s after, ratio {ratio_:.3f} (medians of {number})", flush=True)


def start(checkout: Path, repeats: int) -> None:
    def side(tree: Path) -> float:
        with mock.patch.dict(os.environ, PYTHONPATH=os.fspath(tree / "src")):
            return first_step(extracted(), "cpu")

    sides = {"before": lambda _: side(checkout), "after": lambda _: side(HERE)}
    for each in sides.values():  # bytecode and page cache
        each(0)
    report("first step", alternate(sides, repeats))


def main() -> None:
    if sys.argv[1:2] == ["--path"]:
        repeat_path(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.3, help="of an epoch's training batches")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    checkout, repeats, epochs = arguments.checkout.resolve(), arguments.repeats, arguments.epochs
    runs = {name.partition(",")[0]: (name, overrides) for name, (overrides, _) in CASES.items()}
    names = chosen(arguments.only, [*runs, *AUGMENT, "start"])
    for short, (name, overrides) in runs.items():
        if short in names:
            more = [f"data.root={extracted()}", f"trainer.max_epochs={epochs + 2}", "trainer.checkpoint_every_s=3600"]
            more += [f"trainer.limit_train_batches={arguments.share}"]
            command = [sys.executable, "-m", "fmx.run", "hydra.run.dir=RUN", "trainer.accelerator=cpu"]
            compare(name, [*command, *overrides, *more], checkout, repeats, epochs)
    for augment in AUGMENT:
        if augment in names:
            command = [sys.executable, __file__, "--path", augment]
            compare(f"5 × 60,000 images, augment={augment}", command, checkout, repeats, epochs)
    if "start" in names:
        start(checkout, 2 * epochs)


if __name__ == "__main__":
    main()
