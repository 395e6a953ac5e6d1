"""Temporary: a plan and a pool until the local launcher is there."""
# ruff: noqa
# mypy: ignore-errors

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

from omegaconf import OmegaConf

from fmx.check import check
from fmx.frozen import freeze
from fmx.record import config_fingerprint
from fmx.run_dir import open_run


@dataclass(frozen=True)
class Job:
    number: int
    overrides: list[str]
    run_dir: Path
    fingerprint: str
    arguments: list[str]


@dataclass(frozen=True)
class Ended:
    job: Job
    status: str
    error: str | None
    seconds: float


class Plan:
    def __init__(self, context, config):
        self.context, self.config, self.sweep_dir = context, config, Path(config.hydra.sweep.dir).absolute()

    def job(self, overrides, number):
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        check(config)
        folder = self.sweep_dir / "jobs" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        arguments = freeze(ours, folder)
        run_dir = self.sweep_dir / str(number)
        fingerprint = config_fingerprint(OmegaConf.to_container(ours, resolve=True))
        return Job(number, list(overrides), run_dir, fingerprint, [*arguments, f"hydra.run.dir={run_dir}"])


def _work(arguments, log):
    import ctypes

    ctypes.CDLL("libc.so.6").prctl(1, 9)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["fmx.run", *arguments]
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    runpy.run_module("fmx.run", run_name="__main__", alter_sys=True)


class Pool:
    def __init__(self):
        self.workers = int(os.environ.get("FMX_WORKERS", "1"))

    def run(self, jobs):
        waiting = iter(jobs)
        context = multiprocessing.get_context("fork")
        running = []
        while True:
            while len(running) < self.workers and (following := next(waiting, None)) is not None:
                job, arguments = following
                shutil.rmtree(job.run_dir, ignore_errors=True)
                process = context.Process(
                    target=_work, args=([*job.arguments, *arguments], job.run_dir.parent / "jobs" / f"{job.number}.log")
                )
                process.start()
                running.append((job, process, time.time()))
            if not running:
                return
            connection.wait([p.sentinel for _, p, _ in running], timeout=0.5)
            for each in [each for each in running if each[1].exitcode is not None]:
                running.remove(each)
                job, process, began = each
                status, error = "failed", "died"
                if (job.run_dir / "run.json").exists():
                    run = open_run(job.run_dir, finished=False)
                    status, error = run.status, run.record.get("error")
                yield Ended(job, status, error, time.time() - began)
            yield None
