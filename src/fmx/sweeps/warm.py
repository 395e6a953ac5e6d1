"""The fork server: a process that has imported torch and Lightning, from which jobs and checks are forked.

The sweep's own process does without these imports: it starts fast and stays small.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fmx.errors import ConfigError

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

__all__ = ["context", "in_subprocess", "subprocess", "unblock_signals", "warm_up", "without_main"]

# Imports of every run, also those that libraries make at first use; a job imports further modules itself.
PRELOADED = [
    "fmx.sweeps.quick_start",
    "fmx.commands.command_line",
    "fmx.commands.completion",
    "fmx.commands.hydra_callback",
    "fmx.commands.verbs",
    "fmx.config.typed_values",
    "fmx.data.digits",
    "fmx.process.console_handler",
    "fmx.training.callbacks.lean_steps",
    "fmx.training.callbacks.learning_rate",
    "fmx.training.callbacks.progress",
    "fmx.training.callbacks.save_on_signal",
    "fmx.training.step_graph",
    "filelock",
    "fsspec.implementations.chained",
    "tensorboard.plugins.hparams.api_pb2",
    "tensorboard.plugins.hparams.metadata",
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
    "fmx.runs.composition",
    "fmx.runs.extension",
    "pyarrow.pandas_compat",
    "torch.utils.serialization.config",
    "fmx.sweeps.quick_look_up",
    "fmx.sweeps.quick_end",
]
Given = ParamSpec("Given")
Result = TypeVar("Result")


def context() -> "ForkServerContext":
    """The multiprocessing context of the fork server, which is started if necessary; ConfigError on Windows."""
    if not hasattr(os, "fork"):
        raise ConfigError(
            "sweeps and searches fork their jobs, which this system cannot do; hydra/launcher=basic runs the jobs of a "
            "sweep one after the other"
        )
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    # A SIGTERM to the process group, or the SIGHUP of a closed terminal, must not end the fork server, which collects
    # the jobs' exit codes. It inherits the blocked signals from here. Ignoring them here would lose one that comes now.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()  # it unblocks SIGTERM when it starts the tracker
        # SIGINT too: Python would end the starting server with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        with without_main():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return made


def unblock_signals() -> None:
    """Let SIGTERM and SIGHUP end this process, which was forked from the fork server."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGINT})


def warm_up() -> None:
    """Start the fork server, which then imports in the background."""
    context()


def in_subprocess(function: Callable[Given, Result], *arguments: Given.args, **named: Given.kwargs) -> Result:
    """Call a module-level function in a forked process, which ends with this one; its exceptions are raised here."""
    with subprocess() as submit:
        result: Result = submit(function, *arguments, **named).result()
        return result


@contextmanager
def subprocess() -> Iterator[Callable[..., Future[Any]]]:
    """Yield a function that calls module-level functions in one forked process, which ends with the block."""
    warm = context()
    theirs, ours = warm.Pipe(duplex=False)
    with ours, theirs, ProcessPoolExecutor(1, mp_context=warm, initializer=_bind_to, initargs=(theirs,)) as process:

        def submit(function: Callable[..., Result], *arguments: Any, **named: Any) -> Future[Result]:
            with without_main():
                return process.submit(function, *arguments, **named)

        try:
            yield submit
        finally:
            process.shutdown(cancel_futures=True)


@contextmanager
def without_main() -> Iterator[None]:
    """Keep processes that start meanwhile from importing the main script, which would start the sweep again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _bind_to(lifeline: Connection) -> None:
    """Ignore Ctrl-C, and exit when the parent process, which holds the other end of the lifeline, has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    unblock_signals()
    threading.Thread(target=_exit_when_closed, args=(lifeline,), daemon=True).start()


def _exit_when_closed(lifeline: Connection) -> None:
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
