"""How a command ends: plain error lines and an exit code instead of a traceback."""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from fmx.errors import FmxError, Refusal, chain
from fmx.process.narrow_output import ascii_fallback
from fmx.process.start import is_own_process

__all__ = [
    "BEFORE_ANY_JOB",
    "STOPPING",
    "Interrupted",
    "Pruned",
    "advice",
    "expected_error",
    "interruption",
    "last_signal",
    "leave_closed_terminal",
    "overwrite_echo",
    "plain_exits",
    "plain_message",
    "raised_errors",
]

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has no such signal
STOPPING = (signal.SIGINT, signal.SIGTERM, *filter(None, [HANGUP]))  # these ask a run to save its state and end
BEFORE_ANY_JOB = "interrupted before the first job: type the same command to start again"
_last_signal: int | None = None
FULL_ERROR = "HYDRA_FULL_ERROR"
SET_BY_FMX = "FMX_PLAIN_ERRORS"  # set together with FULL_ERROR, if fmx and not the user set it
UNWRITABLE = {errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.ENOSPC, errno.EROFS}
INACCESSIBLE = {errno.EACCES, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM, errno.ESTALE}


class Interrupted(BaseException):
    """The process was asked to stop by a signal; its exit code is 128 plus the signal's number.

    agreed: whether all processes of the run stop at the same step.
    """

    def __init__(self, signum: int, *, agreed: bool = False) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.agreed = agreed


class Pruned(BaseException):
    """A search pruned this run; not a failure, so the exit code is 0."""

    def __init__(self, *, epoch: int, metric: str, value: float) -> None:
        super().__init__(f"pruned after epoch {epoch}: {metric} {value:.4g}")
        self.facts = {"epoch": epoch, "metric": metric, "value": value}


@contextmanager
def plain_exits() -> Iterator[None]:
    """Turn expected errors into plain lines on stderr and an exit code; bugs keep their traceback.

    Hydra itself prints and exits unless HYDRA_FULL_ERROR is set, so it is set in the block. In a process that lives on,
    such as a notebook's kernel, the state that the command changed is restored.
    """
    if is_own_process():
        kept: AbstractContextManager[None] = nullcontext()
    else:
        from fmx.process.process_state import preserve_process_state

        kept = preserve_process_state()
    with kept, ascii_fallback(), _plain_errors():
        yield


@contextmanager
def raised_errors() -> Iterator[None]:
    """Raise expected errors as FmxError and interruptions as KeyboardInterrupt, and restore the process's state.

    The counterpart of `plain_exits` for callers in Python.
    """
    from fmx.process.process_state import preserve_process_state

    with preserve_process_state(), _catch_signals(), _hydra_raises() as wants_traceback:
        try:
            yield
        except (Interrupted, Pruned, Refusal, Exception) as raised:
            if interruption(raised) is not None:
                raise KeyboardInterrupt(*_notes(raised)) from None
            error = expected_error(raised)
            if error is None:
                raise
            raise type(error)(plain_message(error)) from (raised if wants_traceback else None)


@contextmanager
def _catch_signals() -> Iterator[None]:
    global _last_signal  # noqa: PLW0603 - signals are per process
    _last_signal = None
    before = _install_handlers()
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler or signal.SIG_DFL)


@contextmanager
def _plain_errors() -> Iterator[None]:
    with _catch_signals(), _hydra_raises() as wants_traceback:
        try:
            _check_working_folder()
            with _flush_stdout():
                yield
        except (Interrupted, KeyboardInterrupt) as interrupted:
            _print_advice(interrupted)
            sys.exit(interruption(interrupted))
        except Pruned:
            sys.exit(0)
        except BrokenPipeError:  # `fmx report … | head` closes the pipe early
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except (Refusal, Exception) as raised:
            if (code := interruption(raised)) is not None:
                _print_advice(raised)
                sys.exit(code)
            error = expected_error(raised)
            if error is None:
                raise
            if wants_traceback:
                traceback.print_exception(raised)
            sys.stderr.write(f"{_stdout_error(raised) or plain_message(error)}\n")
            sys.exit(error.exit_code)


@contextmanager
def _flush_stdout() -> Iterator[None]:
    """Flush standard output at the end of the block, where a failure can still be reported."""
    try:
        yield
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _check_working_folder() -> None:
    """FmxError where the working directory was removed: some library would need it later."""
    try:
        Path.cwd()
    except OSError as error:
        where = os.environ.get("PWD", "the current folder")
        raise FmxError(f"{where} was removed, and a command needs a folder to work in: cd to another one") from error


def _stdout_error(raised: BaseException) -> str | None:
    """The message where writing to standard output failed, as on a full disk; redirects it to /dev/null then.

    None for other errors; an OSError with a file name is about that file.
    """
    if not isinstance(raised, OSError) or raised.filename is not None or raised.errno not in UNWRITABLE:
        return None
    try:
        os.write(sys.stdout.fileno(), b"")  # fails for /dev/full, but not for a full disk
    except OSError:
        printed = True
    else:
        last = traceback.extract_tb(raised.__traceback__)[-1].line or ""
        printed = "print(" in last or "stdout" in last
    if not printed:
        return None
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return f"cannot write to standard output: {raised.strerror}"


@contextmanager
def _hydra_raises() -> Iterator[bool]:
    """Set HYDRA_FULL_ERROR in the block, so that Hydra raises its errors; yields whether the user had set it.

    Child processes inherit it, so FMX_PLAIN_ERRORS tells them that the user did not.
    """
    names = (FULL_ERROR, SET_BY_FMX)
    inherited = {name: os.environ.get(name) for name in names}
    wants_traceback = inherited[FULL_ERROR] not in {None, "", "0"} and inherited[SET_BY_FMX] is None
    os.environ[FULL_ERROR] = "1"
    if not wants_traceback:
        os.environ[SET_BY_FMX] = "1"
    try:
        yield wants_traceback
    finally:
        for name, value in inherited.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _install_handlers() -> dict[signal.Signals, Any]:
    """Let SIGTERM, SIGHUP and SIGINT raise Interrupted; returns the previous handlers. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before: dict[signal.Signals, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, _interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in background jobs
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupt)
    if HANGUP and signal.getsignal(HANGUP) is signal.SIG_DFL:  # ignored under nohup
        before[HANGUP] = signal.signal(HANGUP, _interrupt)
    return before


def leave_closed_terminal(signum: int) -> None:
    """After the SIGHUP of a closed terminal, redirect its descriptors to /dev/null.

    Otherwise the progress bar would fail before the state is saved.
    """
    if signum != HANGUP:
        return
    import termios

    try:
        descriptors = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]  # LiveArea duplicates them
    except OSError:
        descriptors = [1, 2]
    for descriptor in descriptors:
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:  # other errors: a file or a pipe
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


@contextmanager
def advice(how: Callable[[], str]) -> Iterator[None]:
    """End a command that is interrupted in the block with a line on how to resume it; the innermost block's counts."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as interrupted:
        if not _notes(interrupted):
            interrupted.add_note(how())
        raise


def _print_advice(raised: BaseException) -> None:
    lines = next(filter(None, map(_notes, chain(raised))), [])
    with suppress(OSError):  # the terminal may be gone
        sys.stdout.flush()
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()


def _notes(raised: BaseException) -> list[str]:
    return list(getattr(raised, "__notes__", []))


def _interrupt(signum: int, _: FrameType | None) -> None:
    global _last_signal  # noqa: PLW0603
    _last_signal = signum
    overwrite_echo(signum)
    leave_closed_terminal(signum)
    raise Interrupted(signum)  # for SIGINT too: on KeyboardInterrupt, Lightning exits with 1


def overwrite_echo(signum: int) -> None:
    """Move the cursor back, so that the next output overwrites the terminal's `^C`."""
    if signum == signal.SIGINT and os.isatty(2):
        with suppress(OSError):
            os.write(2, b"\r")


def last_signal() -> int | None:
    """The last signal received; the exception is lost if it was raised while Python freed an object."""
    return _last_signal


def interruption(raised: BaseException) -> int | None:
    """The exit code where a signal caused an exception, directly or not; None otherwise."""
    for cause in [raised] if isinstance(raised, Refusal | FmxError) else chain(raised):
        if isinstance(cause, Interrupted | KeyboardInterrupt):
            return 128 + (cause.signum if isinstance(cause, Interrupted) else signal.SIGINT)
    return None


def plain_message(error: FmxError) -> str:
    """The error's own message, without the traceback that a DataLoader worker wraps it in.

    Control characters are escaped, since a message may quote an untrusted file.
    """
    words = str(error).rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")[2].strip()
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in words)


def expected_error(raised: BaseException) -> FmxError | None:
    """The plain error for an expected exception; None for a bug."""
    if isinstance(raised, Refusal):
        return raised.error
    if isinstance(raised, FmxError):
        return raised
    if isinstance(raised, RuntimeError) and str(raised).startswith("Symlink loop"):  # raised by Path.resolve
        loop = raised.__context__
        return expected_error(loop) if isinstance(loop, OSError) else FmxError(f"cannot access a folder: {raised}")
    if isinstance(raised, OSError) and raised.errno in UNWRITABLE | INACCESSIBLE:
        return FmxError(f"cannot {_what_failed(raised)} {raised.filename or 'the run directory'}: {raised.strerror}")
    from fmx.config.hydra_errors import translate

    return translate(raised)


def _what_failed(error: OSError) -> str:
    """`read`, `write` or, where neither can be inferred, `access`."""
    if error.errno in UNWRITABLE:
        return "write"
    name = error.filename
    if error.errno not in {errno.EACCES, errno.EPERM} or not isinstance(name, str | bytes):
        return "access"
    if os.path.lexists(name):
        readable, writable = os.access(name, os.R_OK), os.access(name, os.W_OK)
        return "access" if readable == writable else "write" if readable else "read"
    folder = os.path.dirname(name) or os.fsencode(".")  # noqa: PTH120 - text or bytes
    return "write" if os.access(folder, os.X_OK) else "access"
