"""What each of the deferred imports is worth: seconds to the first training step with its stand-in left out.

    python benchmarks/lean_imports.py [--repeats 7]

Needs a quiet machine. The commands take turns in processes of their own, each with its bytecode compiled and its files
in the page cache. One more runs without any stand-in, as FMX_COMPAT=off does.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from alternate import alternate, median
from machine import describe, in_words
from process import timed

HERE = Path(__file__).parent
# The first module of each group that fmx.process.lean_imports defers together.
GROUPS = [
    "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
    "sympy",
    "scipy.signal",
    "scipy.stats",
    "matplotlib",
]
COMMAND = """
import sys
from fmx.process import lean_imports, start

left_out, deferring = sys.argv.pop(1).split(","), lean_imports._defer
lean_imports._defer = lambda *modules: None if modules[0].__name__ in left_out else deferring(*modules)
start.start_lean()
from fmx.run import command

command()
"""


def first_step(left_out: list[str]) -> float:
    """Seconds from the command to the start of the first training step of a small run."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "began"
        began = time.time()
        timed(
            [sys.executable, "-c", COMMAND, ",".join(left_out), "data=digits", "model=resnet20", "trainer=smoke",
             f"hydra.run.dir={folder}/run", "+callbacks.first_step._target_=first_step.FirstStep",
             f"+callbacks.first_step.path={note}"],
            env={"PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"},
        )  # fmt: skip
        return float(note.read_text()) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    sides = {"all deferred": lambda _: first_step([])}
    sides |= {f"without {name}": lambda _, name=name: first_step([name]) for name in GROUPS}
    sides |= {"none deferred": lambda _: first_step(GROUPS)}
    for side in sides.values():  # bytecode and page cache
        side(0)
    seconds = {name: median(values) for name, values in alternate(sides, arguments.repeats).items()}
    for name, value in seconds.items():
        print(f"{name:<34} {value:6.2f} s  {value - seconds['all deferred']:+6.2f} s")
    print(f"Medians of {arguments.repeats}. On {in_words(describe('cpu'))}.")


if __name__ == "__main__":
    main()
