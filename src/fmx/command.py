"""A command as a process of its own: soon at work, and ended at once.

While it imports and builds, nearly all that it makes is there to stay, and Python would look through all of that again
and again for garbage.
"""

import atexit
import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from fmx.cores import limit_threads
from fmx.lean_imports import put_off_imports
from fmx.ranks import drop_what_is_no_rank

__all__ = ["as_command", "leave", "look_for_garbage", "start_lean"]

USUAL = gc.get_threshold()
SELDOM = (100_000, 10, 10)  # new objects before Python looks through them, and how often before it looks through more


def as_command(main: Callable[[], None]) -> NoReturn:
    """Do what `main` does as a process of its own, which ends with it, or with the exit code that it raises."""
    start_lean()
    try:
        main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            raise
        leave(stop.code or 0)
    leave()


def start_lean() -> None:
    """Before all else: bound the threads, put off imports, and look seldom for garbage until `look_for_garbage`."""
    limit_threads()
    drop_what_is_no_rank()
    put_off_imports()
    gc.set_threshold(*SELDOM)


def look_for_garbage() -> None:
    """As usual from here on, but never again among what there is by now."""
    gc.freeze()
    gc.set_threshold(*USUAL)


def leave(code: int = 0) -> NoReturn:
    """End the process that has done its work, at once: to free the modules one by one would take it seconds."""
    atexit._run_exitfuncs()  # noqa: SLF001 - what is registered still runs, as always
    with suppress(BrokenPipeError):  # the reader has seen enough
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
