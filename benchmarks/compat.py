"""Seconds that fmx gains from the private parts of each library: whole commands with and without them.

    python benchmarks/compat.py [--repeats 5] [--table]

Needs a quiet machine. For each library of src/fmx/compat.py, the commands run as if its version had never been tested,
and with all parts on, in turn. `off` is FMX_COMPAT=off. The run is of three epochs of the digits.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alternate import alternate, median
from fmx.compat import SWITCH, TESTED
from machine import describe, in_words
from page_table import write_table
from result_file import KINDS, of_kind, save

COMMANDS = {
    "fmx --help": ["--help"],
    "a run of the digits": ["data=digits", "model=mlp", "trainer.max_epochs=3", "hydra.run.dir=run"],
}
# Named as the console script, or the process would not be the command's own.
SCRIPT = """
import os
import fmx.compat
for library in filter(None, os.environ["UNTESTED"].split(",")):
    fmx.compat.TESTED = {**fmx.compat.TESTED, library: ()}
from fmx.__main__ import main
main()
"""


def seconds(script: Path, words: list[str], untested: str, switch: str) -> float:
    """How long a command takes, from its start to its end."""
    environment = os.environ | {"UNTESTED": untested, SWITCH: switch}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run([sys.executable, script, *words], cwd=folder, env=environment, check=True, capture_output=True)
        return time.perf_counter() - began


def measure(repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "fmx")
        script.write_text(SCRIPT, encoding="utf-8")
        forms = {"on": ("", "on"), **{library: (library, "on") for library in TESTED}, "off": ("", "off")}
        return {
            name: alternate(
                {form: lambda _, words=words, how=how: seconds(script, words, *how) for form, how in forms.items()},
                repeats,
            )
            for name, words in COMMANDS.items()
        }


def load(name: str = "compat") -> dict[str, Any]:
    """What was measured last, on whichever kind of machine: the table names it."""
    return max(filter(None, (of_kind(name, kind) for kind in KINDS)), key=lambda result: str(result["date"]))


def write(results: dict[str, Any]) -> None:
    measured = results["measured"]
    usual = {name: median(forms["on"]) for name, forms in measured.items()}
    rows = [["all on", *(f"{usual[name]:.2f} s" for name in COMMANDS)]]
    for form in (*TESTED, "off"):
        label = "FMX_COMPAT=off" if form == "off" else f"without those of {form}"
        rows.append([label, *(f"{median(measured[name][form]) - usual[name]:+.2f} s" for name in COMMANDS)])
    repeats = len(measured["fmx --help"]["on"])
    caption = f"Medians of {repeats} runs in turn, whole processes. On {in_words(results['machine'])}."
    write_table("compat", ["private parts", *COMMANDS], rows, f"{caption} Printed by `python benchmarks/compat.py`.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    write(load() if arguments.table else save("compat", describe("cpu"), measure(arguments.repeats)))


if __name__ == "__main__":
    main()
