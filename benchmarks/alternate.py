"""Both sides of a claim, measured in turn in one go, so that what else the machine does falls on both alike."""

import statistics
from collections.abc import Callable, Mapping
from typing import TypeVar

__all__ = ["alternate", "median", "ratio"]

Result = TypeVar("Result")


def alternate(sides: Mapping[str, Callable[[int], Result]], repeats: int) -> dict[str, list[Result]]:
    """Call each side with the number of the round (from 1), one after the other, `repeats` rounds."""
    results: dict[str, list[Result]] = {name: [] for name in sides}
    for number in range(1, repeats + 1):
        # Every second round runs backwards: a machine that slows down then favours no side.
        for name in list(sides)[:: 1 if number % 2 else -1]:
            results[name].append(sides[name](number))
    return results


def median(values: list[float]) -> float:
    return statistics.median(values)


def ratio(above: list[float], below: list[float]) -> float:
    """The ratio of two medians."""
    return statistics.median(above) / statistics.median(below)
