"""Several jobs of a sweep on one GPU: which GPU and how much of its memory each gets, and who says there is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fmx.sweeps import machine
from fmx.sweeps.continuation import check_earlier_settings
from fmx.sweeps.job import Job
from fmx.sweeps.ledger import Ledger
from fmx.sweeps.local import Sweep
from fmx.training import hardware

ROOT = Path(__file__).resolve().parents[1]
ONE_EACH = {"num_jobs": 8, "processes": 1, "uses_gpu": True, "threads": 1}


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(machine, "_gpus", lambda: ["0", "GPU-5f"])


@pytest.mark.usefixtures("two_gpus")
def test_jobs_divide_each_gpu_and_its_memory():
    four = machine.shares(None, jobs_per_gpu=2, **ONE_EACH)
    assert [each.env for each in four] == [
        {"CUDA_VISIBLE_DEVICES": gpu, "FMX_GPU_SHARE": "0.4500"} for gpu in ("0", "GPU-5f", "0", "GPU-5f")
    ]
    assert [each.of_gpu for each in machine.shares(3, jobs_per_gpu=3, **ONE_EACH)] == [0.9 / 3] * 3
    assert [each.env for each in machine.shares(None, **ONE_EACH)] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "GPU-5f"},
    ]
    distributed = machine.shares(None, jobs_per_gpu=4, **(ONE_EACH | {"processes": 2}))
    assert [each.env for each in distributed] == [{"FMX_GPU_SHARE": "0.2250"}] * 4  # each over both


@pytest.mark.usefixtures("two_gpus")
def test_a_sweep_that_goes_on_divides_them_again(tmp_path):
    settings = {"workers": None, "threads": 1, "job_timeout_s": None, "fail_fast": False, "jobs_per_gpu": 2}
    jobs = [Job(number, [], tmp_path, f"3-{number:032x}", accelerator="gpu") for number in range(8)]
    ledger = Ledger(tmp_path, settings)
    ledger.add(jobs)
    ledger.write()  # and the command is killed
    resumed = Ledger.read(tmp_path)
    check_earlier_settings(resumed, allow=())
    shares = Sweep(resumed).shares([resumed.job(entry) for entry in resumed.entries.values()])
    assert [each.env for each in shares] == [
        {"CUDA_VISIBLE_DEVICES": gpu, "FMX_GPU_SHARE": "0.4500"} for gpu in ("0", "GPU-5f", "0", "GPU-5f")
    ]


@pytest.mark.parametrize(("rank", "device"), [(None, 0), ("3", 1)])
def test_a_job_limits_the_memory_of_its_own_gpu(monkeypatch, rank, device):
    limited = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: limited.append(given))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    hardware.limit_gpu_memory()
    assert limited == []
    monkeypatch.setenv("FMX_GPU_SHARE", "0.2250")
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    hardware.limit_gpu_memory()
    assert limited == [(0.225, device)]


@pytest.mark.gpu
def test_two_jobs_on_one_gpu(command, tmp_path):
    sweep = ["-m", "data=digits", "model=mlp", "trainer=gpu", "trainer.max_epochs=2", "seed=1,2"]
    done = command(*sweep, "hydra.launcher.jobs_per_gpu=2", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 at a time" in done.stdout


def test_the_benchmark_runs_in_miniature_and_the_setting_says_that_there_is_no_gpu(command, tmp_path):
    small = ["--accelerator", "cpu", "--seconds", "0.5", "--jobs", "1", "2", "--networks", "mlp", "--data", "digits"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/packing.py", *small, "--json", "packing.json"],
        cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "packing.json").read_text())["measured"]
    assert [(row["network"], row["jobs"]) for row in rows] == [("mlp", 1), ("mlp", 2)]
    assert all(row["images_per_s"] > 0 for row in rows)
    assert "| mlp | 2 |" in done.stdout
    assert done.stderr.count("is without effect: the jobs use no GPU") == 0
    dry = ["-m", "data=digits", "model=mlp", "trainer=smoke", "trainer.accelerator=cpu", "seed=1,2"]
    said = command(*dry, "hydra.launcher.jobs_per_gpu=2", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr
    assert (said.stdout + said.stderr).count("hydra.launcher.jobs_per_gpu=2 is without effect") == 1
