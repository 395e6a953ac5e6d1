"""What a person sees before the first job of a sweep starts: a line now and then, and a live one on a terminal."""

import sys
import time
from collections.abc import Callable
from typing import Self

from rich.text import Text

from fmx.process.live_area import LiveArea

__all__ = ["Preparation"]

SAY_EVERY_S = 10.0  # how often it says how far it is


class Preparation:
    """Says how far the work before the first job is: a live line on a terminal, a plain line now and then elsewhere."""

    def __init__(self, doing: str, total: int, say: Callable[[str], None]) -> None:
        self._doing, self._total, self._say = doing, total, say
        self._done = 0
        self._began = self._said = time.monotonic()
        self._area = LiveArea(self._lines, sys.stdout)

    def __enter__(self) -> Self:
        self._say(f"{self._doing} …")
        self._area.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._area.__exit__(*raised)

    def advance(self) -> None:
        """Count one more as done."""
        self._done += 1
        if time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            self._say(self._state)

    @property
    def _state(self) -> str:
        seconds = f"{time.monotonic() - self._began:.0f} s"
        return (
            f"{self._doing}: {self._done} of {self._total} ({seconds})" if self._done else f"{self._doing} ({seconds})"
        )

    def _lines(self) -> list[Text]:
        return [Text(self._state, style="bold")]
