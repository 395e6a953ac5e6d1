"""the table of targets in docs/benchmarks.md: every target, and what each kind of machine measured of it.

    python benchmarks/targets.py

Measures nothing: it reads the results of the other benchmarks, of every kind of machine that has some. A column whose
results are all of earlier days than the newest of another column is marked as older.
"""

from collections.abc import Iterable
from typing import Any

import loader
import memory
import overhead
import plain_lightning
import precision
import startup
import steps
import time_to_accuracy
from claim import Claim
from machine import in_words
from page_table import write_table
from result_file import KINDS, of_kind

SOURCES: list[Any] = [overhead, steps, time_to_accuracy, startup, plain_lightning, precision, memory, loader]


def cell(claim: Claim, target: str, date: str, newest: str) -> str:
    """What was measured, with the target where that of other machines differs, a cross where it is missed, its day."""
    text = claim.measured if claim.target == target else f"{claim.measured} ({claim.target})"
    day = claim.date or date
    return f"{text}{'' if claim.holds else ' ✗'}{'' if day == newest else f' [{day[5:]}]'}"


def newest_day(results: Iterable[dict[str, Any]]) -> str:
    return max(str(result["date"]) for result in results)


def main() -> None:
    results = {
        kind: {source: result for source in SOURCES if (result := of_kind(source.__name__, kind))} for kind in KINDS
    }
    days = {kind: newest_day(of.values()) for kind, of in results.items() if of}
    targets: dict[str, str] = {}
    cells: dict[tuple[str, str], str] = {}
    for source in SOURCES:
        for kind, newest in days.items():
            result = results[kind].get(source)
            for claim in source.claims(result) if result else []:
                target = targets.setdefault(claim.what, claim.target)
                cells[claim.what, kind] = cell(claim, target, result["date"], newest)
    rows = [[what, target, *(cells.get((what, kind), "—") for kind in days)] for what, target in targets.items()]
    names = {kind: KINDS[kind] if day == max(days.values()) else f"{KINDS[kind]} (older)" for kind, day in days.items()}
    machines = [
        f"{names[kind]}: {in_words(next(iter(results[kind].values()))['machine'] | {'date': day})}"
        for kind, day in days.items()
    ]
    caption = (
        "✗: missed. —: no result of this kind of machine, or no target for it. [month-day]: measured on that day, not "
        f"on the one that is named here. {'; '.join(machines)}."
    )
    write_table("targets", ["what", "target", *names.values()], rows, caption)


if __name__ == "__main__":
    main()
