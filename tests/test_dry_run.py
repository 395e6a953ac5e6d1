"""`--dry-run`: what would be done is said, what is wrong is refused, and nothing is left on disk."""

import re

import pytest

pytestmark = pytest.mark.usefixtures("no_figures")

SMALL = ["data=digits", "model=mlp", "trainer=smoke", "logger=none"]


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


def test_of_a_sweep(command, tmp_path):
    jobs = ["-m", "seed=1,2", "optim.lr=1e-3,0.001,2e-3", *SMALL, "hydra.sweep.dir=sweep"]
    done = command(*jobs, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
    for said in (
        "#0 seed=1 optim.lr=0.001\n", "#3 seed=2 optim.lr=0.002\n", "all jobs: data=digits model=mlp",
        "seed=2 optim.lr=0.001 data=digits model=mlp trainer=smoke logger=none is the same as job 2: it is run once",
        "4 jobs (and 2 equal to others), ", f" are free · {tmp_path / 'sweep'}\n", "nothing was started or written",
    ):  # fmt: skip
        assert said in done.stdout, done.stdout
    wrong = command("--dry-run", *jobs, "model.net.hidden_sizes=[8],[0]", cwd=tmp_path)
    real = command(*jobs, "model.net.hidden_sizes=[8],[0]", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (real.returncode, real.stderr)
    assert wrong.returncode == 2
    assert list(tmp_path.iterdir()) == []

    run = command(*jobs, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\n4 jobs, .*\nabout [\d.]+ MB of disk, of which .* are free\n", run.stdout), run.stdout
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) / 1e6
    told = float(re.search(r"about ([\d.]+) MB of disk", done.stdout)[1])
    assert 0.6 * size < told < 1.6 * size, (told, size)
    before = files(tmp_path)
    more = ["-m", "seed=1,2,3", "optim.lr=1e-3,2e-3", *SMALL, "hydra.sweep.dir=sweep", "--dry-run"]
    again = command(*more, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "#0 seed=1 optim.lr=0.001 · done already\n" in again.stdout
    assert "#4 seed=3 optim.lr=0.001\n" in again.stdout
    assert "6 jobs, 4 of them done already" in again.stdout
    kept = command(*more, "sweep.keep_checkpoints=1", cwd=tmp_path)
    whole, left = map(
        float, re.search(r"about ([\d.]+) MB of .*; about ([\d.]+) MB from its end on", kept.stdout).groups()
    )
    assert whole == pytest.approx(1.5 * told, abs=0.1)
    weights = sum(path.stat().st_size for path in tmp_path.glob("sweep/0/checkpoints/*.ckpt")) / 1e6
    assert whole - left == pytest.approx(5 * weights, rel=0.2, abs=0.1)
    resumed = command("--resume-sweep", "sweep", "--dry-run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "4 jobs, 4 of them done already" in resumed.stdout
    assert files(tmp_path) == before


def test_of_a_search_whose_draws_are_those_of_the_search(command, tmp_path):
    search = ["-m", "hydra/sweeper=search", "seed=1,2", *SMALL, "hydra.sweep.dir=found", "hydra.sweeper.n_trials=3"]
    search += ["hydra.sweeper.sampler=random"]
    done = command(*search, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
    assert "seed from choice(1,2)\n" in done.stdout
    assert re.search(r"3 trials by random, \d equal to others\nat most about [\d.]+ MB of disk", done.stdout), (
        done.stdout
    )
    drawn = re.findall(r"^trial (\d): (seed=\d)", done.stdout, re.MULTILINE)
    assert len(drawn) == 3
    real = command(*search, cwd=tmp_path)
    assert real.returncode == 0, real.stdout + real.stderr
    assert re.search(r"\nat most about [\d.]+ MB of disk, of which .* are free\n", real.stdout), real.stdout
    assert sorted(drawn) == sorted(re.findall(r"#(\d) (seed=\d): val", real.stdout))
    before = files(tmp_path)
    again = command("--dry-run", *search, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 of them begun already" in again.stdout
    other = command(*search, "optim.lr=0.5", "--dry-run", cwd=tmp_path)
    assert other.returncode == 2, other.stdout + other.stderr
    assert "is another one" in other.stderr
    assert files(tmp_path) == before


def test_of_a_single_run_and_of_another_launcher(command, tmp_path):
    done = command(*SMALL, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"1 run: mlp on digits, seed 1, 1 epochs?\nabout [\d.]+ MB of disk", done.stdout), done.stdout
    wrong = command(*SMALL, "optim.lr=-1", "--dry-run", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (2, "optim.lr must be a number greater than 0, got -1\n")
    basic = command("-m", "hydra/launcher=basic", "seed=1,2", *SMALL, "--dry-run", cwd=tmp_path)
    assert basic.returncode == 2, basic.stdout + basic.stderr
    assert "--dry-run goes with hydra/launcher=local" in basic.stderr
    assert list(tmp_path.iterdir()) == []
