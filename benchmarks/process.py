"""Commands run and timed as a person would run them: in a process of their own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ACCELERATORS", "Finished", "fmx_run", "read_run", "timed", "tutorial_run"]

ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}  # what Lightning calls a device
ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = Path(__file__).with_name("tutorials")


@dataclass(frozen=True)
class Finished:
    """How a process went: its seconds, the CPU's with its children's, its most memory in MiB, what it printed."""

    seconds: float
    cpu_s: float
    peak_mb: float
    output: str


def timed(command: list[str], *, expected: int = 0, env: dict[str, str] | None = None) -> Finished:
    """Run a command to its end; RuntimeError with its output where it does not exit as expected."""
    # Without bytecode files Python would compile each side's modules anew at every start.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | (env or {})
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode != expected:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}:\n{text}")
    return Finished(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text)


def fmx_run(*overrides: str, device: str = "cpu", env: dict[str, str] | None = None) -> dict[str, Any]:
    """One `python -m fmx.run`, everything on; returns its record, metrics, history, `process_s`, `cpu_s`, `peak_mb`."""
    accelerator = ACCELERATORS[device]
    with tempfile.TemporaryDirectory(prefix="fmx-bench-") as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "fmx.run", *overrides]
        finished = timed([*command, f"trainer.accelerator={accelerator}", f"hydra.run.dir={run}"], env=env)
        return read_run(run) | {"process_s": finished.seconds, "cpu_s": finished.cpu_s, "peak_mb": finished.peak_mb}


def tutorial_run(script: list[str], *, epochs: int, seed: int, device: str, data: Path) -> dict[str, Any]:
    """One script of benchmarks/tutorials/ with its options; returns its `history`, `process_s` and `cpu_s`."""
    with tempfile.TemporaryDirectory(prefix="fmx-bench-") as folder:
        result = Path(folder) / "result.json"
        command = [
            sys.executable,
            str(TUTORIALS / script[0]),
            *script[1:],
            "--data",
            str(data),
            "--result",
            str(result),
        ]
        finished = timed([*command, "--epochs", str(epochs), "--seed", str(seed), "--device", device])
        history = json.loads(result.read_text(encoding="utf-8"))
    return {"history": history, "process_s": finished.seconds, "cpu_s": finished.cpu_s}


def read_run(run: Path) -> dict[str, Any]:
    """A run directory's record with its metrics and history."""
    record: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    header, *lines = [line.split(",") for line in (run / "history.csv").read_text(encoding="utf-8").splitlines()]
    return record | {"metrics": metrics, "history": [dict(zip(header, line, strict=True)) for line in lines]}
