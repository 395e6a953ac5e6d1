"""One job of a sweep on a SLURM node: starts or resumes the run, and requeues itself at its time limit."""

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
SIGNAL = "SUBMITIT_PREEMPT_SIGNAL"  # submitit's variable for another signal before the time limit


@dataclass
class ArrayTask:
    """What submitit calls in each process of a job; holds plain values, since it is pickled.

    arguments: of `python -m fmx.run`. log: the file for its output. resumes: whether an earlier job left an interrupted
    run. max_requeues: how often a job is requeued at its time limit.
    """

    arguments: list[str]
    run_dir: str
    log: str
    resumes: bool
    max_requeues: int
    _out_of_time: bool = field(default=False, init=False)

    def __call__(self) -> None:
        """Run the job and exit with its code, before submitit writes a result that nobody reads."""
        self._install_signal_handlers()
        if self._status() == "completed":
            return  # requeued after its end, by a node failure or by hand
        self._redirect_output()
        threads = os.environ.get("SLURM_CPUS_PER_TASK")
        if threads:
            os.environ.setdefault("OMP_NUM_THREADS", threads)
        from fmx.process.start import exit_now
        from fmx.training.hardware import keep_freed_memory

        keep_freed_memory()  # this process ends with its job
        sys.argv = ["fmx.run", *self.arguments, *self._extra_arguments()]
        try:
            import_module("fmx.run").main()  # fmx.run is on a higher layer than fmx.sweeps
        except SystemExit as ended:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM may send it again; the state is saved
            if ended.code == TERMINATED and self._out_of_time:
                self._requeue()
            if isinstance(ended.code, str):
                raise
            exit_now(ended.code or 0)
        except Exception:  # noqa: BLE001 - exits as Python would, but without a teardown, in which libraries complain
            traceback.print_exc()
            exit_now(1)
        exit_now()

    @property
    def _rank(self) -> int:
        return int(os.environ.get("SLURM_PROCID") or 0)

    @property
    def _restarts(self) -> int:
        return int(os.environ.get("SLURM_RESTART_COUNT") or 0)

    def _install_signal_handlers(self) -> None:
        """Handle SIGTERM (preempted, requeued or cancelled) and submitit's signal before the time limit."""
        signal.signal(signal.SIGTERM, _exit_on_signal)  # until fmx.run installs its own handlers
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        before_the_limit = getattr(signal, f"SIG{os.environ.get(SIGNAL, 'USR2')}")
        signal.signal(before_the_limit, self._on_time_limit)

    def _on_time_limit(self, *_: object) -> None:
        self._out_of_time = True
        signal.raise_signal(signal.SIGTERM)

    def _status(self) -> object:
        try:
            return json.loads((Path(self.run_dir) / "run.json").read_text(encoding="utf-8"))["status"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _extra_arguments(self) -> list[str]:
        """The arguments for this rank; only rank 0 looks at the run directory, since it may write there first."""
        from fmx.config.quoting import quoted
        from fmx.runs.run_dir import has_run_to_resume

        extra = [] if self._rank == 0 else ["hydra.output_subdir=null"]
        is_restart = self.resumes or self._restarts > 0
        if is_restart and (self._rank > 0 or has_run_to_resume(Path(self.run_dir))):
            extra.append(f"resume={quoted(self.run_dir)}")
        return extra

    def _redirect_output(self) -> None:
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


def _exit_on_signal(signum: int, _: FrameType | None) -> None:
    sys.exit(128 + signum)
