"""Start and end a command's own process fast.

Nearly all objects from imports and building live until the end, so garbage collection is rare until training starts.
In a notebook, a script, a debugger or a profiler, none of this happens.
"""

import atexit
import gc
import inspect
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from fmx.compat import ends_at_once, join_threads, run_exit_functions
from fmx.process.cores import limit_threads
from fmx.process.distributed import drop_invalid_ranks
from fmx.process.lean_imports import defer_imports

__all__ = ["as_command", "exit_now", "is_own_process", "resume_garbage_collection", "start_lean"]

DEFAULT_THRESHOLDS = gc.get_threshold()
RARE_THRESHOLDS = (100_000, 10, 10)  # of gc.set_threshold
# Spins of an idle OpenMP thread before it sleeps, read when torch is imported. GNU's default of 300,000 blocks a core
# that other processes need, which slows the training step itself.
SPINS = "60000"
CONSOLE_SCRIPT = "fmx"
INTERRUPTED = 130

_own = False  # whether this process was started for a command


def as_command(main: Callable[[], None]) -> None:
    """Call `main`, and end the process afterwards if it was started only for this command.

    Any other process lives on, or gets the SystemExit that `main` raises.
    """
    if not is_own_process():
        if _started_for_this(inspect.currentframe()):  # only the callers tell
            _restart_in_utf_8()
            start_lean()
        else:
            main()
            return
    try:
        main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            raise
        exit_now(stop.code or 0)
    exit_now()


def is_own_process() -> bool:
    """Whether this process ends with the command, so that its state need not be restored."""
    return _own


def _started_for_this(frame: FrameType | None) -> bool:
    """Whether only `python -m fmx…` or the console script is on the stack, without debugger, profiler or -i."""
    if sys.flags.inspect or os.environ.get("PYTHONINSPECT") or sys.gettrace() or sys.getprofile():
        return False
    frame = frame.f_back if frame else None
    while frame is not None:
        name, spec = frame.f_globals.get("__name__", ""), frame.f_globals.get("__spec__")
        if name == "__main__":
            name = spec.name if spec else Path(frame.f_code.co_filename).stem
        if name not in {"runpy", CONSOLE_SCRIPT} and not name.startswith("fmx."):
            return False
        frame = frame.f_back
    return True


def _restart_in_utf_8() -> None:
    """In an ASCII locale, restart Python in UTF-8 mode, so that file names and arguments decode as UTF-8.

    Otherwise they decode to lone surrogates, which UTF-8 files cannot store. Output stays ASCII.
    """
    if sys.getfilesystemencoding().lower() != "ascii" or sys.flags.ignore_environment:
        return
    os.environ.setdefault("PYTHONIOENCODING", "ascii")
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})  # noqa: S606


def start_lean() -> None:
    """First call in a command's own process: limit threads, defer imports, collect garbage rarely."""
    global _own  # noqa: PLW0603 - a property of the process
    _own = True
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    limit_threads()
    drop_invalid_ranks()
    defer_imports()
    gc.set_threshold(*RARE_THRESHOLDS)


def resume_garbage_collection() -> None:
    """Restore the usual thresholds, exempting all present objects; no effect outside a command's own process."""
    if _own:
        gc.freeze()
        gc.set_threshold(*DEFAULT_THRESHOLDS)
        # For a normal interpreter exit, where extension modules would report leaked objects.
        atexit.register(gc.unfreeze)


def exit_now(code: int = 0) -> None:
    """End the process without freeing its modules, which would take seconds.

    Threads and executors are joined and atexit functions run, as at a normal exit.
    """
    if not ends_at_once():
        raise SystemExit(code)
    try:
        join_threads()
    except KeyboardInterrupt:  # stop waiting; a second one skips atexit functions too
        code = INTERRUPTED
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    run_exit_functions()
    with suppress(BrokenPipeError):  # the reader, such as head, has closed the pipe
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
