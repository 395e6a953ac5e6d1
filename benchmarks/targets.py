"""the table of targets in docs/benchmarks.md: every target, and what each kind of machine measured of it.

    python benchmarks/targets.py

Measures nothing: it reads the results of the other benchmarks, of every kind of machine that has some.
"""

from typing import Any

import loader
import memory
import overhead
import precision
import startup
import time_to_accuracy
import vs_tutorial
from claim import Claim
from machine import in_words
from page_table import write_table
from result_file import KINDS, of_kind

SOURCES: list[Any] = [vs_tutorial, overhead, startup, time_to_accuracy, precision, memory, loader]


def cell(claim: Claim, target: str) -> str:
    """What was measured, with the target where another machine's is another, and a cross where it is missed."""
    text = claim.measured if claim.target == target else f"{claim.measured} ({claim.target})"
    return text if claim.holds else f"{text} ✗"


def where_and_when(results: list[dict[str, Any]]) -> str:
    """The machine, and the days of its results: what was measured long ago was measured of an older fmx."""
    days = sorted({result["date"] for result in results})
    return f"{in_words(results[0]['machine'])}, {' to '.join(dict.fromkeys([days[0], days[-1]]))}"


def main() -> None:
    names = [source.__name__ for source in SOURCES]
    results = {kind: {name: of_kind(name, kind) for name in names} for kind in KINDS}
    kinds = [kind for kind in KINDS if any(results[kind].values())]
    targets: dict[str, str] = {}
    cells: dict[tuple[str, str], str] = {}
    for source in SOURCES:
        for kind in kinds:
            result = results[kind][source.__name__]
            claims = source.claims(result["measured"]) if result else []
            if kind == "gpu" and not result and source in (overhead, precision):
                claims = source.unmeasured()
            for claim in claims:
                target = targets.setdefault(claim.what, claim.target)
                cells[claim.what, kind] = cell(claim, target)
    rows = [[what, target, *(cells.get((what, kind), "—") for kind in kinds)] for what, target in targets.items()]
    machines = [f"{KINDS[kind]}: {where_and_when(list(filter(None, results[kind].values())))}" for kind in kinds]
    caption = f"✗: missed, or not measured. {'; '.join(machines)}."
    write_table("targets", ["what", "target", *(KINDS[kind] for kind in kinds)], rows, caption)


if __name__ == "__main__":
    main()
