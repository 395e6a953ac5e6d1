"""One job of a sweep on a SLURM node: begun or gone on with, and queued again when its time is up."""

import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import FrameType

__all__ = ["TERMINATED", "ArrayTask"]

TERMINATED = 143


@dataclass
class ArrayTask:
    """What submitit calls in each process of a job; plain values, since it is pickled.

    arguments: of `python -m fmx.run`. log: takes what it prints. goes_on: whether an earlier job left an interrupted
    run. max_requeues: when its time is up.
    """

    arguments: list[str]
    run_dir: str
    log: str
    goes_on: bool
    max_requeues: int
    _out_of_time: bool = field(default=False, init=False)

    def __call__(self) -> None:
        """Run the job, and end the process with its exit code; nobody reads what submitit would write after it."""
        self._listen()
        if self._status() == "completed":
            return  # queued again after its end, by a node that failed or by hand
        self._redirect()
        threads = os.environ.get("SLURM_CPUS_PER_TASK")
        if threads:
            os.environ.setdefault("OMP_NUM_THREADS", threads)
        from fmx.process.start import exit_now

        sys.argv = ["fmx.run", *self.arguments, *self._more_arguments()]
        try:
            import_module("fmx.run").main()  # what runs a single run stands above what runs many
        except SystemExit as ended:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM may repeat it, and all is saved
            if ended.code == TERMINATED and self._out_of_time:
                self._requeue()
            if isinstance(ended.code, str):
                raise
            exit_now(ended.code or 0)
        except Exception:  # noqa: BLE001 - as Python ends, but at once: nothing is freed, so no library complains
            traceback.print_exc()
            exit_now(1)
        exit_now()

    @property
    def _rank(self) -> int:
        return int(os.environ.get("SLURM_PROCID") or 0)

    @property
    def _restarts(self) -> int:
        return int(os.environ.get("SLURM_RESTART_COUNT") or 0)

    def _listen(self) -> None:
        """SLURM sends SIGTERM to what it preempts, requeues or cancels, and submitit's signal before the time limit."""
        from submitit import JobEnvironment

        signal.signal(signal.SIGTERM, _end)  # fmx.run has handlers of its own as soon as it is imported
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        signal.signal(JobEnvironment._usr_sig(), self._time_is_up)  # noqa: SLF001 - a cluster may have set another one

    def _time_is_up(self, *_: object) -> None:
        self._out_of_time = True
        signal.raise_signal(signal.SIGTERM)

    def _status(self) -> object:
        try:
            return json.loads((Path(self.run_dir) / "run.json").read_text(encoding="utf-8"))["status"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _more_arguments(self) -> list[str]:
        """The other processes of a distributed run begin when the first may have written already, or not yet."""
        from fmx.config.quoting import quoted
        from fmx.runs.run_dir import is_under_way

        more = [] if self._rank == 0 else ["hydra.output_subdir=null"]
        again = self.goes_on or self._restarts > 0
        if again and (self._rank > 0 or is_under_way(Path(self.run_dir))):
            more.append(f"resume={quoted(self.run_dir)}")
        return more

    def _redirect(self) -> None:
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)

    def _requeue(self) -> None:
        if self._rank > 0 or self._restarts >= self.max_requeues:
            return
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        name = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
        print(f"the time limit is near: queueing job {name} again", flush=True)
        subprocess.run(["scontrol", "requeue", name], check=True, timeout=60)


def _end(signum: int, _: FrameType | None) -> None:
    sys.exit(128 + signum)
