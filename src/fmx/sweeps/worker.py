"""The process of one job: forked from the fork server, and ended with its sweep."""

import gc
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from io import TextIOWrapper
from multiprocessing.connection import Connection

from fmx.process.distributed import environment_without_ranks
from fmx.sweeps.job import Job
from fmx.sweeps.machine import Share
from fmx.sweeps.warm import unblock_signals
from fmx.training.check import pass_checked

__all__ = ["work"]

GRACE_S = 20  # to save the state after the sweep has died


def work(job: Job, resume: Sequence[str], share: Share, lifeline: Connection) -> None:
    """Run a job in this process, which becomes the leader of a process group.

    resume: further arguments. lifeline: a pipe from the sweep's process; the job saves its state and ends when it
    closes. The sweep has checked the job's configuration, which this process does not check again.
    """
    unblock_signals()
    os.setsid()
    gc.freeze()  # collecting garbage among the imports would copy their memory
    output = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    for stream in (sys.stdout, sys.stderr):  # they were for a terminal; the log is UTF-8
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    # The sweep may be a rank of a distributed job; this process is not.
    for name in os.environ.keys() - environment_without_ranks().keys():
        del os.environ[name]
    os.environ.update({**share.env, "OMP_NUM_THREADS": str(share.threads), "PYTHONIOENCODING": "utf-8"})
    import torch

    torch.set_num_threads(share.threads)  # OMP_NUM_THREADS comes too late for this process, but not for its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_when_closed, args=(lifeline,), daemon=True).start()
    pass_checked(job.fingerprint)
    sys.argv = ["fmx.run", *job.arguments, *resume]
    runpy.run_module("fmx.run", run_name="__main__", alter_sys=True)


def _stop_when_closed(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os.killpg(os.getpgid(0), signal.SIGKILL)
