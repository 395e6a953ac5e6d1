"""Log lines on standard output, until its reader has gone."""

import logging
import os
import sys
from pathlib import Path
from typing import TextIO

__all__ = ["ConsoleHandler"]


class ConsoleHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """logging's own handler, but a closed pipe, as of `fmx … | head`, is said once instead of at each line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Go on without an output that nobody reads; any other error is logging's to print."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
            return
        _discard(self.stream)  # what print writes as well
        try:
            print("nobody reads the output any longer; this command goes on", file=sys.stderr, flush=True)
        except BrokenPipeError:
            _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
