"""`fmx lr-find`: a range test of the learning rate that leaves a figure and nothing else."""

import shlex
from pathlib import Path

import pytest
from PIL import Image

from fmx.process.process_state import preserve_process_state
from fmx.runs.composition import compose_config
from fmx.training.lr_range_test import lr_range_test

CONF = Path(__file__).parents[1] / "conf"
DIGITS = ["data=digits", "model=mlp", "augment=none"]


def test_it_prints_an_override_that_trains_and_leaves_no_run(command, tmp_path):
    arguments = [*DIGITS, "trainer.limit_train_batches=3", "optim.lr=0.5", "callbacks=[default,ema]"]
    done = command(*arguments, module="lr-find", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    said, figure, line = done.stdout.splitlines()[-3:]
    assert said.startswith("the loss fell fastest at a rate of 0.")
    with Image.open(tmp_path / figure) as image:
        assert image.width > 500
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [Path(figure).name]
    words = shlex.split(line)
    assert words[0] == "fmx"
    assert [word for word in words if word.startswith("optim.lr=")] == words[-1:] != ["optim.lr=0.5"]
    assert 1e-4 < float(words[-1].partition("=")[2]) < 0.3
    done = command(*words[1:], "trainer=smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("optim", sorted(path.stem for path in (CONF / "optim").glob("*.yaml")))
def test_each_optimizer_has_a_rate_at_which_the_loss_falls(optim):
    cfg = compose_config([*DIGITS, f"optim={optim}", "data.batch_size=32"])
    with preserve_process_state():  # the Trainer turns deterministic algorithms on
        found = lr_range_test(cfg, lowest=1e-5, highest=1.0, num_steps=60)
    assert 1e-5 < found.steepest <= found.lowest <= 1.0
    assert found.smooth.min() < 0.97 * found.smooth[:5].mean()
    assert len(found.rates) == len(found.losses) > 20


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data=digits", "optim.l=3"], "optim.l"),
        (["data=digits", "model=mpl"], "mlp"),
        (["--min", "1", "--max", "0.1"], "--min must be above 0 and below --max"),
        (["--steps", "3"], "--steps must be at least 20"),
        (["--figure", "x.pdf"], "ends in .png"),
        (["--step", "x"], "--step"),
        (["data=digits", "optim.lr=-1"], "optim.lr must be"),
    ],
)
def test_what_is_wrong_is_said_before_any_training(command, tmp_path, words, says):
    done = command(*words, module="lr-find", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
