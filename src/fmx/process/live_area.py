"""Lines at the bottom of a terminal that are drawn anew, below all else that this process writes."""

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

__all__ = ["LiveArea"]

DRAIN_S = 5.0  # at most, before a terminal that was halted (Ctrl-S) is given up
REFRESH_S = 0.25  # after which the lines are drawn anew, and what is no whole line yet, such as a question, is shown
CHUNK = 1 << 16
ECHO = 2  # columns that the terminal itself may write ^C into


class LiveArea:
    """Draws lines at the bottom of a terminal; what else this process writes there stands above, whole.

    A context manager. While it is open, everything that would go to the terminal through the descriptors of stdout and
    stderr goes through a pipe and is printed above the lines: Rich's own redirection sees neither the streams that log
    handlers keep nor what is written from outside Python. Where `stream` is no terminal on which a cursor moves,
    `is_shown` is False and nothing changes.
    lines: what to draw; called again and again, also from another thread. stream: sys.stdout or sys.stderr.
    """

    def __init__(self, lines: Callable[[], Sequence[Text]], stream: TextIO) -> None:
        self._lines = lines
        self._stream = stream
        self.is_shown = _is_interactive(stream)
        self._redirected: dict[int, int] = {}  # descriptor: the terminal that it stood for
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
        atexit.register(self.__exit__)  # where whoever opened it is never called again

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
        """Rich asks descriptors 0 to 2 for the size, which may all be no terminal by now."""
        with suppress(OSError):
            columns, lines = os.get_terminal_size(self._file.fileno())
            self._console.size = (columns or 80, lines or 24)

    def _draw(self, pipe: int) -> None:
        """Print what comes through the pipe, line by line, and draw the lines anew; once closed, pass it on as it is.

        One thread alone draws: of two, one may erase as many lines as there were before the other drew. A process that
        this one has started meanwhile may write into the pipe after the end.
        """
        decode = codecs.getincrementaldecoder(self._stream.encoding)(errors="replace").decode
        held, chunk, ends = "", b"", False
        while not ends:
            ready, _, _ = select.select([pipe, self._ends], [], [], REFRESH_S)
            chunk = os.read(pipe, CHUNK) if pipe in ready else b""
            *lines, held = (held + decode(chunk)).split("\n")
            ends = bool(ready) and not chunk  # nothing is left to read once the other end is closed
            if held and not chunk:
                lines, held = [held], ""
            with suppress(Exception):  # the terminal may be gone, but nobody must wait for a pipe that is full
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
        # The terminal folds what is too long: a path that Rich folds could not be copied.
        self._console.print(self._decoder.decode_line(line.rstrip("\r")), soft_wrap=True)


class _FittedLines:
    """As many of the lines as fit on the terminal, the last ones first."""

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
    """Whether a cursor can be moved where a stream is shown, and the stream is that of the process."""
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
    """Let the signals that stop a process come after the block: half a change would leave the terminal no cursor."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in numbers}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler if handler is not None else signal.SIG_DFL)
        if came:
            signal.raise_signal(came[0])
