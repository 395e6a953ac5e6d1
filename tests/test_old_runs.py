"""Run and sweep directories of fmx 0.1.0, as it wrote them: every verb still takes them."""

import json
import shutil
from pathlib import Path

import pytest

FIXTURES = Path(__file__).with_name("fixtures")


@pytest.fixture
def old(tmp_path):
    """A copy of a complete run, an interrupted run, and a sweep of which the second job was interrupted."""
    for name in ("run", "interrupted", "sweep"):
        shutil.copytree(FIXTURES / f"{name}_0_1", tmp_path / name)
    return tmp_path


def test_verbs_read_a_run(command, old):
    def said(module: str, *arguments: str) -> str:
        done = command(*arguments, module=module, cwd=old)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "identical to metrics.json" in said("evaluate", "run")
    accuracy = json.loads((old / "run" / "metrics.json").read_text())["test"]["accuracy"]
    assert f"{100 * accuracy:.2f}" in said("report", "run", "sweep")
    assert "McNemar" in said("compare", "run", "sweep/0")
    assert "all 360 test images get the same class" in said("export", "run", "--format", "torchscript")
    shutil.copyfile(FIXTURES / "digit.png", old / "digit.png")
    assert "digit.png" in said("predict", "run", "digit.png")


def test_a_run_is_reproduced(command, old):
    done = command("run", module="reproduce", cwd=old)
    assert done.returncode in {0, 1}, done.stdout + done.stderr  # other processors compute other last digits
    assert "identical: " in done.stdout or "differ" in done.stdout
    (again,) = old.glob("*_again")
    assert json.loads((again / "run.json").read_text())["status"] == "completed"


def test_an_interrupted_run_and_sweep_go_on(command, old):
    done = command("resume=interrupted", cwd=old)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step" in done.stdout
    assert len((old / "interrupted" / "history.csv").read_text().splitlines()) == 1 + 12
    done = command("--resume-sweep", "sweep", cwd=old)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of them done already" in done.stdout
    assert json.loads((old / "sweep" / "1" / "run.json").read_text())["status"] == "completed"
    assert (old / "sweep" / "leaderboard.md").is_file()
