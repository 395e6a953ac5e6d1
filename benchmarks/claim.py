"""A target, and what was measured of it."""

from typing import NamedTuple

__all__ = ["Claim", "at_least", "at_most"]


class Claim(NamedTuple):
    """One row of the table of targets, in words, whether it holds, and its day where its file is of a later one."""

    what: str
    target: str
    measured: str
    holds: bool
    date: str | None = None


def at_least(what: str, value: float, bound: float, form: str = "{:.1f} ×", *, date: str | None = None) -> Claim:
    return Claim(what, f"≥ {form.format(bound)}", form.format(value), value >= bound, date)


def at_most(what: str, value: float, bound: float, form: str = "{:.2f} ×", *, date: str | None = None) -> Claim:
    return Claim(what, f"≤ {form.format(bound)}", form.format(value), value <= bound, date)
