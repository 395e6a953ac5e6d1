"""An argument without a value, as a shell leaves it where a variable is not set."""

import re
from collections.abc import Sequence

__all__ = ["empty_argument"]

EMPTY = re.compile(r"-{0,2}\+{0,2}[\w./@-]+=\s*|\s*")


def empty_argument(arguments: Sequence[str]) -> str | None:
    """What is wrong where an argument is empty, or a `KEY=` has no value; None where all is well."""
    for word in arguments:
        if EMPTY.fullmatch(word):
            what = f"{word.strip()} has no value" if word.strip() else "an argument is empty"
            return f"{what}, as where a shell variable is not set: give one, or leave it out"
    return None
