"""A target, and what was measured of it."""

from typing import NamedTuple

__all__ = ["Claim", "at_least", "at_most"]


class Claim(NamedTuple):
    """One row of the table of targets, in words, and whether it holds."""

    what: str
    target: str
    measured: str
    holds: bool


def at_least(what: str, value: float, bound: float, form: str = "{:.1f} ×") -> Claim:
    return Claim(what, f"≥ {form.format(bound)}", form.format(value), value >= bound)


def at_most(what: str, value: float, bound: float, form: str = "{:.2f} ×") -> Claim:
    return Claim(what, f"≤ {form.format(bound)}", form.format(value), value <= bound)
