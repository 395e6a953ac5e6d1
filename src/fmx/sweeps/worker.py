"""The process of one job: forked from the fork server, and ended with its sweep."""

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
from fmx.sweeps.warm import unblock_signals

__all__ = ["work"]

GRACE_S = 20  # to save the state after the sweep has died


def work(arguments: Sequence[str], log: Path, threads: int, env: Mapping[str, str], lifeline: Connection) -> None:
    """Run `python -m fmx.run ARGUMENTS` in this process, which becomes the leader of a process group.

    log: the file for the job's output. threads: of torch. lifeline: a pipe from the sweep's process; the job saves its
    state and ends when it closes.
    """
    unblock_signals()
    os.setsid()
    gc.freeze()  # collecting garbage among the imports would copy their memory
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    for stream in (sys.stdout, sys.stderr):  # they were for a terminal; the log is UTF-8
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    # The sweep may be a rank of a distributed job; this process is not.
    for name in os.environ.keys() - environment_without_ranks().keys():
        del os.environ[name]
    os.environ.update({**env, "OMP_NUM_THREADS": str(threads), "PYTHONIOENCODING": "utf-8"})
    import torch

    torch.set_num_threads(threads)  # OMP_NUM_THREADS comes too late for this process, but not for its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_when_closed, args=(lifeline,), daemon=True).start()
    sys.argv = ["fmx.run", *arguments]
    runpy.run_module("fmx.run", run_name="__main__", alter_sys=True)


def _stop_when_closed(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os.killpg(os.getpgid(0), signal.SIGKILL)
