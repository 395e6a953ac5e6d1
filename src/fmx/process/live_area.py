"""A live display at the bottom of a terminal, below all other output of this process."""

import atexit
import codecs
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Self, TextIO

from rich.ansi import AnsiDecoder
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from fmx.process.exits import STOPPING

__all__ = ["LiveArea"]

DRAIN_S = 5.0  # to wait at the end for a terminal that was paused (Ctrl-S)
REFRESH_S = 0.25  # between redraws; incomplete lines, such as prompts, are shown after this time
CHUNK = 1 << 16
ECHO = 2  # columns left free for the terminal's ^C


class LiveArea:
    """Context manager that keeps lines at the bottom of a terminal, with all other output printed above them.

    While it is open, the descriptors of stdout and stderr lead into a pipe whose contents are printed above the lines;
    Rich's own redirection misses streams that log handlers hold, and output from outside Python. Where `stream` is not
    an interactive terminal, `is_shown` is False and nothing changes.
    lines: returns the lines to draw; called repeatedly, also from another thread. stream: sys.stdout or sys.stderr.
    """

    def __init__(self, lines: Callable[[], Sequence[Text]], stream: TextIO) -> None:
        self._lines = lines
        self._stream = stream
        self.is_shown = _is_interactive(stream)
        self._redirected: dict[int, int] = {}  # descriptor: duplicate of its terminal
        self._decoder = AnsiDecoder()

    def __enter__(self) -> Self:
        if self.is_shown:
            with _defer_signals():
                self._open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._redirected:
            atexit.unregister(self.__exit__)
            with _defer_signals():
                self._close()

    def _open(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        terminal = os.ttyname(self._stream.fileno())
        descriptors = [number for number in (1, 2) if os.isatty(number) and os.ttyname(number) == terminal]
        pipe, self._inlet = os.pipe()
        self._redirected = {number: os.dup(number) for number in descriptors}
        self._terminal = self._redirected[self._stream.fileno()]
        self._saved = list(self._redirected.values())
        errors = "backslashreplace" if self._stream.errors == "strict" else self._stream.errors
        self._file = os.fdopen(os.dup(self._terminal), "w", encoding=self._stream.encoding, errors=errors, newline="")
        self._console = Console(file=self._file, highlight=False)
        self._live = Live(
            console=self._console,
            get_renderable=self._fitted,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)
        for number in descriptors:
            os.dup2(self._inlet, number)
        self._ends, self._end = os.pipe()
        self._drained = threading.Event()
        threading.Thread(target=self._draw, args=(pipe,), daemon=True).start()
        atexit.register(self.__exit__)  # where __exit__ is never called

    def _close(self) -> None:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        for number, terminal in self._redirected.items():
            os.dup2(terminal, number)
        os.close(self._inlet)
        os.close(self._end)
        drained = self._drained.wait(DRAIN_S)
        self._lines = list
        self._live.stop()
        if drained:
            self._file.close()
        self._redirected = {}

    def _fitted(self) -> "_FittedLines":
        self._fit()
        return _FittedLines(self._lines)

    def _fit(self) -> None:
        """Set the console's size: Rich asks descriptors 0 to 2, which may all be redirected."""
        with suppress(OSError):
            columns, lines = os.get_terminal_size(self._file.fileno())
            self._console.size = (columns or 80, lines or 24)

    def _draw(self, pipe: int) -> None:
        """Print the pipe's contents line by line and redraw the lines; after the end, copy the pipe unchanged.

        Only this thread draws: two threads would erase wrong numbers of lines. Child processes may still write into
        the pipe after the end.
        """
        decode = codecs.getincrementaldecoder(self._stream.encoding)(errors="replace").decode
        held, chunk, ends = "", b"", False
        while not ends:
            ready, _, _ = select.select([pipe, self._ends], [], [], REFRESH_S)
            chunk = os.read(pipe, CHUNK) if pipe in ready else b""
            *lines, held = (held + decode(chunk)).split("\n")
            ends = bool(ready) and not chunk  # end of file
            if held and not chunk:
                lines, held = [held], ""
            with suppress(Exception):  # the terminal may be gone, but writers must not block on a full pipe
                for line in lines:
                    self._print(line)
                if not ready:
                    self._live.refresh()
        self._drained.set()
        while chunk := os.read(pipe, CHUNK):
            with suppress(OSError):
                os.write(self._terminal, chunk)
        for descriptor in (pipe, self._ends, *self._saved):
            os.close(descriptor)

    def _print(self, line: str) -> None:
        self._fit()
        # Let the terminal wrap long lines: a path that Rich wraps could not be copied.
        self._console.print(self._decoder.decode_line(line.rstrip("\r")), soft_wrap=True)


class _FittedLines:
    """A Rich renderable of the last lines that fit on the terminal."""

    def __init__(self, lines: Callable[[], Sequence[Text]]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = max(1, console.size.width - ECHO), console.size.height
        folded = [
            part
            for line in self._lines()
            for part in line.wrap(console, width, overflow=line.overflow or "fold", no_wrap=bool(line.no_wrap))
        ]
        yield Text("\n", no_wrap=True, overflow="crop", end="").join(folded[-max(1, height - 1) :])


def _is_interactive(stream: TextIO) -> bool:
    """Whether a stream is the process's own stdout or stderr, on a terminal with a movable cursor."""
    try:
        if stream.fileno() not in {1, 2} or not os.isatty(stream.fileno()):
            return False
        os.ttyname(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    console = Console(file=stream)
    return console.is_terminal and console.is_interactive and not console.is_dumb_terminal


@contextmanager
def _defer_signals() -> Iterator[None]:
    """Defer SIGINT, SIGTERM and SIGHUP to the end of the block, so that the terminal is never half set up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {each: signal.signal(each, lambda number, _: received.append(number)) for each in STOPPING}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler if handler is not None else signal.SIG_DFL)
        if received:
            signal.raise_signal(received[0])
