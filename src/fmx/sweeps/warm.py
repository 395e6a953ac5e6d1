"""A process that has imported what runs need: jobs are forked from it, and so is what would need such imports here.

The sweep's own process then starts at once and stays small.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from types import ModuleType
from typing import ParamSpec, TypeVar

__all__ = ["context", "in_subprocess", "let_sigterm_through", "warm_up", "without_main"]

# What every run imports sooner or later; a job that needs more imports it itself.
PRELOADED = [
    "fmx.sweeps.quick_start",
    "torch",
    "torch.utils.tensorboard",
    "pytorch_lightning",
    "torchmetrics.classification",
    "pandas",
    "sklearn.datasets",
    "sklearn.metrics",
    "fmx.config.check",
    "fmx.training.dry_run",
    "fmx.training.fit",
    "fmx.reporting.results",
    "fmx.sweeps.quick_end",
]
Given = ParamSpec("Given")
Result = TypeVar("Result")


def context() -> ForkServerContext:
    """What makes processes that are forked from the warm one."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    # A SIGTERM to the whole process group, or the SIGHUP of a terminal that is closed, must not end the one that knows
    # how the jobs end. It is blocked there, and here for as long as it takes to inherit that: one that is ignored
    # meanwhile would be lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()  # which, where it starts, lets SIGTERM through again
        # Ctrl-C too: while it starts, Python would end it with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        with without_main():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return made


def let_sigterm_through() -> None:
    """Let SIGTERM and SIGHUP end a process that was forked from the warm one."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGINT})


def warm_up() -> None:
    """Let the imports begin while something else is done."""
    context()


def in_subprocess(function: Callable[Given, Result], *arguments: Given.args, **named: Given.kwargs) -> Result:
    """Call a function of a module in a process of its own, which ends with this one; what it raises is raised here."""
    warm = context()
    theirs, ours = warm.Pipe(duplex=False)
    with ours, theirs, ProcessPoolExecutor(1, mp_context=warm, initializer=_belong, initargs=(theirs,)) as process:
        with without_main():
            begun = process.submit(function, *arguments, **named)
        return begun.result()


@contextmanager
def without_main() -> Iterator[None]:
    """Processes that start meanwhile leave alone the script that this one runs, which would begin the sweep again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _belong(lifeline: Connection) -> None:
    """Leave Ctrl-C to the process that holds the other end of the lifeline, and end where that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    let_sigterm_through()
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
