"""Detect arguments without a value, as an unset shell variable leaves them."""

import re
from collections.abc import Sequence

__all__ = ["empty_argument"]

EMPTY = re.compile(r"-{0,2}\+{0,2}[\w./@-]+=\s*|\s*")


def empty_argument(arguments: Sequence[str]) -> str | None:
    """The message for the first argument that is empty or a `KEY=` without a value; None if there is none."""
    for word in arguments:
        if EMPTY.fullmatch(word):
            what = f"{word.strip()} has no value" if word.strip() else "an argument is empty"
            return f"{what}, as where a shell variable is not set: give one, or leave it out"
    return None
