"""What is wrong is said in words that name the place: with folders, streams and values of unusual kinds."""

import os
import subprocess
import sys

import pytest

from conftest import module_of

SMALL = ["data=digits", "model=mlp", "trainer=smoke", "logger=none"]


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory):
    """Two runs, of which the worse one has no checkpoints left; both were told a very long text."""
    folder = tmp_path_factory.mktemp("plain")
    long = f"+vars.text={'word ' * 3000}end"
    jobs = ["-m", *SMALL, "optim.lr=0.01,1e-9", "sweep.keep_checkpoints=1", long, "hydra.sweep.dir=sweep"]
    done = command(*jobs, "+vars.told='${oc.env:LONG}'", cwd=folder, env={"LONG": "x" * 20_000})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_run_that_was_told_a_long_text_stays_readable(command, sweep):
    for module, *arguments in (["evaluate", "sweep/0"], ["compare", "sweep/0", "sweep/1"], ["report", "sweep"]):
        done = command(*arguments, module=module, cwd=sweep)
        assert done.returncode == 0, (module, done.stdout + done.stderr)
        assert "configuration" not in done.stderr


def test_why_a_run_has_no_checkpoints_is_said(command, sweep):
    for module in ("reproduce", "evaluate", "export"):
        done = command("sweep/1", module=module, cwd=sweep, env={"LONG": "x" * 20_000})
        assert done.returncode == 1
        assert "has none: its sweep kept those of the 1 best runs" in done.stderr
        assert "(sweep.keep_checkpoints=1)" in done.stderr


def test_an_interpolation_in_the_folder_that_leads_nowhere(command, tmp_path):
    for typed in ("hydra.run.dir='${x}'", "hydra.run.dir=${x}/y"):
        done = command(*SMALL, typed, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == "hydra.run.dir refers to x, which does not exist\n"


def test_names_that_are_too_long_and_links_in_a_circle(command, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for folder, said in (("n" * 300, "File name too long"), ("a/run", "Too many levels of symbolic links")):
        done = command(*SMALL, f"hydra.run.dir={folder}", cwd=tmp_path)
        assert done.returncode in {1, 2}
        assert said in done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        for arguments in (["--resume-sweep", folder], ["-m", "seed=1,2", *SMALL, f"hydra.sweep.dir={folder}"]):
            done = command(*arguments, cwd=tmp_path)
            assert done.returncode in {1, 2}, done.stdout + done.stderr
            assert "Traceback" not in done.stderr + done.stdout
            assert len(done.stderr.splitlines()) == 1
        for verb in ("evaluate", "report", "compare", "export", "reproduce"):
            done = command(folder, *([folder] if verb == "compare" else []), module=verb, cwd=tmp_path)
            assert done.returncode in {1, 2}
            assert "Traceback" not in done.stderr + done.stdout, verb


@pytest.mark.parametrize("words", [["run", *SMALL], ["report", "."], ["data", "digits"], ["run", "-m", "seed=1,2"]])
def test_a_working_folder_that_was_removed(tmp_path, words):
    gone = tmp_path / "gone"
    gone.mkdir()
    typed = f'rmdir "$PWD"; exec {sys.executable} -m {module_of(words[0])} {" ".join(words[1:])}'
    done = subprocess.run(["sh", "-c", typed], cwd=gone, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"{gone} was removed, and a command needs a folder to work in: cd to another one\n"


def test_standard_output_that_takes_no_more(sweep):
    for words in (["report", "sweep"], ["data", "digits"], ["run", "--cfg", "job"], ["evaluate", "sweep/0"]):
        with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
            done = subprocess.run(
                [sys.executable, "-m", module_of(words[0]), *words[1:]],
                cwd=sweep, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120, env=os.environ,
            )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == "cannot write to standard output: No space left on device\n", words
