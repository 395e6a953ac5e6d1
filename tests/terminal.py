"""A command on a pseudo-terminal: what a person sees of it, scroll-back included."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyte


class Terminal:
    """A process whose stdin, stdout and stderr are one emulated terminal."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        columns: int = 80,
        lines: int = 24,
        env: dict[str, str] | None = None,
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._master, slave = pty.openpty()
        self._set_size(columns, lines)
        unset = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
        usual = {key: value for key, value in os.environ.items() if key not in unset}
        self.process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=usual | {"TERM": "xterm-256color"} | (env or {}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=_lead,  # noqa: PLW1509 - there are no threads
        )
        os.close(slave)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        """Type something; b"\\x03" is Ctrl-C."""
        os.write(self._master, keys)

    def read(self, until: Callable[[], bool] = lambda: False, timeout_s: float = 200) -> int | None:
        """Show what the process writes until a condition holds, or it ends; returns its exit code then."""
        end = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < end, self.text
            has_ended = self.process.poll() is not None  # asked first: what it wrote before that is there to be read
            ready, _, _ = select.select([self._master], [], [], 0.1)
            try:
                chunk = os.read(self._master, 1 << 16) if ready else None
            except OSError:  # nobody has the terminal any more
                chunk = b""
            if chunk:
                self.raw += chunk
                self._stream.feed(chunk)
            elif chunk == b"" or (chunk is None and has_ended):
                os.close(self._master)
                return self.process.wait(30)
        return None

    @property
    def rows(self) -> list[str]:
        """All rows, what has scrolled off the screen first."""

        def shown(row) -> str:
            return "".join(row[column].data for column in range(self.screen.columns)).rstrip()

        history = [shown(row) for row in self.screen.history.top]
        return [*history, *(row.rstrip() for row in self.screen.display)]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.rows)

    @property
    def unfolded(self) -> str:
        """The rows one behind the other, so that what the terminal has folded is whole."""
        return "".join(row.ljust(self.screen.columns) for row in self.rows)

    def shows(self, line: str) -> bool:
        """Whether a line stands there whole, folded by the terminal or not, and alone."""
        width = self.screen.columns
        parts = [line[start : start + width].rstrip() for start in range(0, len(line), width)]
        rows = self.rows
        return any(rows[first : first + len(parts)] == parts for first in range(len(rows)))


def _lead() -> None:
    """Be the process to which the terminal's Ctrl-C goes."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def plain(text: str) -> str:
    """Text without what steers a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
