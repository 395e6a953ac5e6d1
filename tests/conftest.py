"""What the tests share: real commands in real processes, and who needs which machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests run side by side, one a core: a second thread each would only make them wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"

Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why."""
    import torch

    reasons = {
        "data": None if os.environ.get("FMX_DATA_ROOT") else "FMX_DATA_ROOT names no folder with the real data",
        "gpu": None if torch.cuda.is_available() else "torch sees no GPU",
        "slurm": None if shutil.which("sinfo") else "SLURM is not installed",
        "browser": None if shutil.which("chromium") else "chromium is not installed",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def command() -> Command:
    """Run `python -m fmx.MODULE ARGUMENTS` as a person would, in a folder of its own; the result has all its output."""

    def run(
        *arguments: str,
        cwd: Path,
        module: str = "run",
        env: dict[str, str] | None = None,
        timeout_s: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"fmx.{module}", *arguments],
            cwd=cwd,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def digits_run(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a short, complete run on the digits."""
    folder = tmp_path_factory.mktemp("digits")
    finished = command(
        "data=digits", "model=lenet", "augment=none", "trainer.max_epochs=3", "hydra.run.dir=run", cwd=folder
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "run"
