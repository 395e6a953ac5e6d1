"""Temporary: a plan and a pool until the local launcher is there."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from fmx.check import check
from fmx.frozen import freeze
from fmx.record import config_fingerprint
from fmx.run_dir import open_run
from omegaconf import OmegaConf


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
    def __init__(self, context, config, sweep_dir):
        self.context, self.config, self.sweep_dir = context, config, sweep_dir

    def job(self, overrides, number):
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        check(config)
        folder = self.sweep_dir / "jobs" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        arguments = freeze(ours, folder)
        run_dir = self.sweep_dir / str(number)
        return Job(
            number,
            list(overrides),
            run_dir,
            config_fingerprint(OmegaConf.to_container(ours, resolve=True)),
            [*arguments, f"hydra.run.dir={run_dir}"],
        )


class Pool:
    def __init__(self, sweep_dir, settings):
        self.workers = int(os.environ.get("FMX_WORKERS", "1"))

    def run(self, jobs: Iterable[Job]) -> Iterator[Ended]:
        jobs = iter(jobs)
        done = False
        with ThreadPoolExecutor(self.workers) as pool:
            running: set[Future[Ended]] = set()
            while True:
                while not done and len(running) < self.workers:
                    job = next(jobs, None)
                    if job is None:
                        done = True
                    else:
                        running.add(pool.submit(self._one, job))
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for each in ended:
                    yield each.result()

    def _one(self, job: Job) -> Ended:
        shutil.rmtree(job.run_dir, ignore_errors=True)
        began = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "fmx.run", *job.arguments],
            capture_output=True,
            text=True,
            preexec_fn=_die_with_parent,
        )
        status = "failed"
        error = done.stderr[-300:]
        if (job.run_dir / "run.json").exists():
            run = open_run(job.run_dir, finished=False)
            status, error = run.status, run.record.get("error")
        return Ended(job, status, error, time.time() - began)


def _die_with_parent():
    import ctypes

    ctypes.CDLL("libc.so.6").prctl(1, 9)
