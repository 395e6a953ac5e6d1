"""A command as a process of its own: soon at work, and ended at once.

While it imports and builds, nearly all that it makes is there to stay, and Python would look through all of that again
and again for garbage. In a notebook, a script, a debugger or a profiler none of this happens: the process is theirs.
"""

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from fmx.process.cores import limit_threads
from fmx.process.distributed import drop_invalid_ranks
from fmx.process.lean_imports import defer_imports

__all__ = ["as_command", "exit_now", "is_own_process", "resume_garbage_collection", "start_lean"]

DEFAULT_THRESHOLDS = gc.get_threshold()
RARE_THRESHOLDS = (100_000, 10, 10)
# How often an OpenMP thread that has nothing to do looks for work before it sleeps; read when torch is imported. GNU's
# own 300,000 keep a core from other processes that share it, for which the step itself has to wait then.
SPINS = "60000"
CONSOLE_SCRIPT = "fmx"
INTERRUPTED = 130

_own = False  # whether this process is a command's own


def as_command(main: Callable[[], None]) -> None:
    """Do what `main` does; a process that was started for nothing else ends with it.

    Any other process goes on, or sees the SystemExit that `main` raises.
    """
    if not is_own_process():
        if _started_for_this(sys._getframe(1)):  # noqa: SLF001 - who called is all that tells
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
    """Whether this process ends with the command, so that nobody sees what the command does to it."""
    return _own


def _started_for_this(frame: FrameType | None) -> bool:
    """Whether nothing called this but `python -m fmx…` or the console script, and nobody watches or stays on."""
    if sys.flags.inspect or os.environ.get("PYTHONINSPECT") or sys.gettrace() or sys.getprofile():
        return False
    while frame is not None:
        name, spec = frame.f_globals.get("__name__", ""), frame.f_globals.get("__spec__")
        if name == "__main__":
            name = spec.name if spec else Path(frame.f_code.co_filename).stem
        if name not in {"runpy", CONSOLE_SCRIPT} and not name.startswith("fmx."):
            return False
        frame = frame.f_back
    return True


def _restart_in_utf_8() -> None:
    """In an ASCII locale, let Python take names of files and arguments as UTF-8, as it does by itself unless forbidden.

    It would decode them to halves of characters, which no file in UTF-8 can hold. What is printed stays ASCII.
    """
    if sys.getfilesystemencoding().lower() != "ascii" or sys.flags.ignore_environment:
        return
    os.environ.setdefault("PYTHONIOENCODING", "ascii")
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})  # noqa: S606


def start_lean() -> None:
    """Before all else in a process that ends with the command: bound threads, put off imports, seldom seek garbage."""
    global _own  # noqa: PLW0603 - it is said of the process
    _own = True
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    limit_threads()
    drop_invalid_ranks()
    defer_imports()
    gc.set_threshold(*RARE_THRESHOLDS)


def resume_garbage_collection() -> None:
    """As usual from here on, but never again among what there is by now; nothing in a process that goes on."""
    if _own:
        gc.freeze()
        gc.set_threshold(*DEFAULT_THRESHOLDS)
        # Where the process ends as Python does after all: extension modules would complain of what is left over.
        atexit.register(gc.unfreeze)


def exit_now(code: int = 0) -> None:
    """End the process that has done its work, at once: to free the modules one by one would take it seconds.

    What Python does before that is done here as well: other threads, such as those of a logger, and executors come to
    their end, and what is registered to run at the end runs.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - waits for threads and executors, as always
    except KeyboardInterrupt:  # no waiting then; at another one, not even for what is registered
        code = INTERRUPTED
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    atexit._run_exitfuncs()  # noqa: SLF001 - what is registered still runs, as always
    with suppress(BrokenPipeError):  # the reader has seen enough
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
