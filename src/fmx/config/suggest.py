"""Suggest the nearest valid name."""

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, choices: Iterable[str], *, cutoff: float = 0.5) -> str:
    """`; did you mean 'dilated'?` where one of the choices is close to the name, else a full stop."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else "."
