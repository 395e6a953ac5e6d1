"""One job's process: forked from one that has the imports behind it, and never outliving its sweep."""

import gc
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from multiprocessing.connection import Connection
from pathlib import Path

from fmx.process.distributed import environment_without_ranks
from fmx.sweeps.warm import let_sigterm_through

__all__ = ["work"]

GRACE_S = 20  # to save the state after the sweep has died


def work(arguments: Sequence[str], log: Path, threads: int, env: Mapping[str, str], lifeline: Connection) -> None:
    """Run `python -m fmx.run ARGUMENTS` in this process, which becomes the head of a group of its own.

    log: takes what the job prints. threads: that this process computes with. lifeline: has its other end in the
    sweep's process; once that is gone, the job saves its state and ends.
    """
    let_sigterm_through()
    os.setsid()
    gc.freeze()  # a collection that looked through all the imports would copy them into this process
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    for stream in (sys.stdout, sys.stderr):  # which were for a terminal; the log is UTF-8 like every file
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    # The sweep's own process may be one of several; this one is not.
    for name in os.environ.keys() - environment_without_ranks().keys():
        del os.environ[name]
    os.environ.update({**env, "OMP_NUM_THREADS": str(threads), "PYTHONIOENCODING": "utf-8"})
    import torch

    torch.set_num_threads(threads)  # the variable came too late for this process, but not for those it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    sys.argv = ["fmx.run", *arguments]
    runpy.run_module("fmx.run", run_name="__main__", alter_sys=True)


def _end_with(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os.killpg(os.getpgid(0), signal.SIGKILL)
