"""A target, and what was measured of it."""

from typing import NamedTuple

__all__ = ["AssignedTrial", "at_least", "at_most"]


class AssignedTrial(NamedTuple):
    """One row of the table of targets, in words, and whether it holds."""

    what: str
    target: str
    measured: str
    holds: bool


def at_least(what: str, value: float, bound: float, form: str = "{:.1f} ×") -> AssignedTrial:
    return AssignedTrial(what, f"≥ {form.format(bound)}", form.format(value), value >= bound)


def at_most(what: str, value: float, bound: float, form: str = "{:.2f} ×") -> AssignedTrial:
    return AssignedTrial(what, f"≤ {form.format(bound)}", form.format(value), value <= bound)
