"""A process that has imported what runs need: jobs are forked from it, and so is what would need such imports here.

The sweep's own process then starts at once and stays small.
"""

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import ParamSpec, TypeVar

__all__ = ["apart", "context", "warm_up"]

# What every run imports sooner or later; a job that needs more imports it itself.
PRELOADED = [
    "torch",
    "torch.utils.tensorboard",
    "pytorch_lightning",
    "torchmetrics.classification",
    "pandas",
    "sklearn.datasets",
    "sklearn.metrics",
    "matplotlib.pyplot",
    "fmx.check",
    "fmx.rehearsal",
    "fmx.fit",
    "fmx.results",
    "fmx.sweep.quick_end",
]
Given = ParamSpec("Given")
Result = TypeVar("Result")


def context() -> ForkServerContext:
    """What makes processes that are forked from the warm one."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    # A SIGTERM to the whole process group must not end the one that knows how the jobs end.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    return made


def warm_up() -> None:
    """Let the imports begin while something else is done."""
    context()


def apart(function: Callable[Given, Result], *arguments: Given.args, **named: Given.kwargs) -> Result:
    """Call a function of a module in a process of its own; what it raises is raised here."""
    quiet = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is this process's to answer
    with ProcessPoolExecutor(1, mp_context=context(), initializer=signal.signal, initargs=quiet) as process:
        return process.submit(function, *arguments, **named).result()
