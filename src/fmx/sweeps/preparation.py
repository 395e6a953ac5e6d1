"""Progress of the work before the first job of a sweep."""

import sys
import time
from collections.abc import Callable
from typing import Self

from rich.text import Text

from fmx.process.live_area import LiveArea

__all__ = ["Preparation"]

LOG_EVERY_S = 10.0  # between two log lines


class Preparation:
    """Shows progress: a log line every ten seconds, and a live line on a terminal."""

    def __init__(self, doing: str, total: int, log: Callable[[str], None]) -> None:
        self._doing, self._total, self._log = doing, total, log
        self._done = 0
        self._began = self._logged_at = time.monotonic()
        self._area = LiveArea(self._lines, sys.stdout)

    def __enter__(self) -> Self:
        self._log(f"{self._doing} …")
        self._area.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._area.__exit__(*raised)

    def advance(self) -> None:
        """Count one more item as done."""
        self._done += 1
        if time.monotonic() - self._logged_at > LOG_EVERY_S:
            self._logged_at = time.monotonic()
            self._log(self._state)

    @property
    def _state(self) -> str:
        seconds = f"{time.monotonic() - self._began:.0f} s"
        return (
            f"{self._doing}: {self._done} of {self._total} ({seconds})" if self._done else f"{self._doing} ({seconds})"
        )

    def _lines(self) -> list[Text]:
        return [Text(self._state, style="bold")]
