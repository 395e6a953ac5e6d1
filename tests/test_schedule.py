"""The learning rate, step by step, against its formula."""

import math
import os
from functools import partial

import pandas as pd
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from fmx.errors import ConfigError
from fmx.training.schedule import Schedule
from same_runs import points

pytestmark = pytest.mark.usefixtures("no_figures")

STEPS, EPOCHS = 40, 4


def rates(schedule: Schedule) -> list[float]:
    """The rate that each of the training's steps uses."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    entries = schedule(optimizer, steps_per_epoch=STEPS // EPOCHS, epochs=EPOCHS, total_steps=STEPS)
    used = []
    for step in range(1, STEPS + 1):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for entry in entries:
            if entry["interval"] == "step" or step % (STEPS // EPOCHS) == 0:
                entry["scheduler"].step(*([1.0] if "monitor" in entry else []))
    return used


def schedule(scheduler=None, interval="step", warmup_epochs=0.0, warmup_steps=0) -> Schedule:
    return Schedule(scheduler=scheduler, interval=interval, warmup_epochs=warmup_epochs, warmup_steps=warmup_steps)


def test_constant_stays():
    assert rates(schedule()) == pytest.approx([0.1] * STEPS)


def test_cosine_ends_at_zero_with_its_length_filled_in():
    expected = [0.05 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)]
    assert rates(schedule(partial(CosineAnnealingLR, T_max=None))) == pytest.approx(expected)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_warm_up_multiplies_a_cosine_that_does_not_end_at_zero(interval):
    cosine = partial(CosineAnnealingLR, T_max=None, eta_min=0.02)
    without = rates(schedule(cosine, interval))
    assert without[-1] > 0.02
    rise = [min(1, (1 + 15 * step / 15) / 16) for step in range(STEPS)]
    expected = [rate * factor for rate, factor in zip(without, rise, strict=True)]
    assert rates(schedule(cosine, interval, warmup_steps=15)) == pytest.approx(expected)


def test_step_falls_by_epochs():
    expected = [0.1 * 0.5 ** (step // 20) for step in range(STEPS)]
    assert rates(schedule(partial(StepLR, step_size=2, gamma=0.5), "epoch")) == pytest.approx(expected)


def test_onecycle_computes_its_own_total():
    used = rates(schedule(partial(OneCycleLR, max_lr=0.1, total_steps=None, pct_start=0.25)))
    assert max(used) == pytest.approx(0.1)
    assert used.index(max(used)) == 9
    assert used[-1] < 1e-4


def test_plateau_falls_when_nothing_gets_better():
    used = rates(schedule(partial(ReduceLROnPlateau, mode="min", factor=0.1, patience=1), "epoch"))
    assert used[0] == pytest.approx(0.1)
    assert used[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("warmup", [{"warmup_epochs": 0.5}, {"warmup_steps": 5}])
def test_warm_up_multiplies_the_schedule(warmup):
    expected = [0.05 * (1 + math.cos(math.pi * step / STEPS)) * min(1, (step + 1) / 6) for step in range(STEPS)]
    assert rates(schedule(partial(CosineAnnealingLR, T_max=None), **warmup)) == pytest.approx(expected)


def test_onecycle_refuses_a_second_warm_up():
    with pytest.raises(ConfigError, match="pct_start"):
        schedule(partial(OneCycleLR, max_lr=0.1, total_steps=None), warmup_epochs=1)


def test_an_epoch_is_an_epoch_where_a_count_of_steps_ends_the_training(command, tmp_path):
    """20 steps an epoch: half of the second epoch is left for the fall after one epoch of warm-up."""
    length = [
        "trainer.max_epochs=100",
        "+trainer.max_steps=30",
        "trainer.log_every_n_steps=1",
        "optim=sgd",
        "optim.lr=0.1",
    ]
    values = ["schedule=step", "schedule.scheduler.step_size=1", "schedule.warmup_epochs=1"]
    done = command("data=digits", "model=mlp", *length, *values, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rates = dict(points(tmp_path / "run")["lr"])
    rising = [0.1 * (step + 1) / 21 for step in range(20)]
    assert [rates[step] for step in range(30)] == pytest.approx(rising + [0.03] * 10)


@pytest.mark.parametrize("kind", [CosineAnnealingWarmRestarts, LambdaLR])
def test_a_warm_up_that_a_schedule_would_undo_is_refused(kind):
    with pytest.raises(ConfigError, match=f"{kind.__name__} computes the rate anew"):
        schedule(partial(kind), warmup_steps=5)


def test_momentum_stays_what_it_was_set_to(command, tmp_path):
    done = command(
        "data=digits", "model=mlp", "optim=rmsprop", "trainer.max_epochs=1", "hydra.run.dir=run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (group,) = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0][
        "param_groups"
    ]
    assert group["momentum"] == 0


@pytest.mark.parametrize("every", [1, 2])
def test_plateau_looks_at_the_epochs_that_end_with_a_validation(command, tmp_path, every):
    values = ["schedule=plateau", "schedule.scheduler.patience=0", "+schedule.scheduler.threshold=1e9", "optim.lr=0.1"]
    values += [f"trainer.check_val_every_n_epoch={every}", "trainer.max_epochs=6", "optim=sgd"]
    done = command("data=digits", "model=mlp", *values, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pd.read_csv(tmp_path / "run/history.csv")
    assert rows["epoch"].tolist() == list(range(every, 7, every))
    assert rows["lr"].tolist() == pytest.approx([0.1 * 0.3**n for n in range(6 // every)])


GROUPED = """
from torch.optim import SGD


def grouped(params, lr):
    first, *others = params
    return SGD([{"params": [first], "lr": lr / 10, "name": "first"}, {"params": others}], lr=lr)
"""


def test_history_and_tensorboard_have_the_rate_that_was_used(command, tmp_path):
    """Whatever the schedule: history.csv that of a row's last step, TensorBoard one curve called lr."""
    peak, warm = 0.01, "schedule.warmup_steps=30"

    def rise(step):
        return min(1, step / 31)

    def fall(step, total=60):
        return (1 + math.cos(math.pi * (step - 1) / total)) / 2

    each_seventh = ["schedule=cosine", "trainer.val_check_interval=7"]
    cases = {
        "constant": (["schedule=constant"], lambda step: step**0),
        "warm": (["schedule=constant", warm], rise),
        "step": (["schedule=step", "schedule.scheduler.step_size=1"], lambda step: 0.3 ** ((step - 1) // 20)),
        "cosine": (["schedule=cosine"], fall),
        "warm_cosine": (["schedule=cosine", warm], lambda step: rise(step) * fall(step)),
        "often": (each_seventh, fall),
        "summed": ([*each_seventh, "trainer.accumulate_grad_batches=3"], lambda step: fall(step, total=21)),
    }
    for name, (parts, share) in cases.items():
        done = command(
            "data=digits", "model=mlp", "data.batch_size=64", "trainer.max_epochs=3", f"optim.lr={peak}", *parts,
            "trainer.log_every_n_steps=5", f"hydra.run.dir={name}", cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        rows, curves = pd.read_csv(tmp_path / name / "history.csv"), points(tmp_path / name)
        assert len(rows) == (6 if "often" in name or name == "summed" else 3)
        assert [tag for tag in curves if "/" not in tag and tag != "epoch"] == ["lr"], name
        assert rows["lr"].tolist() == pytest.approx([peak * share(step) for step in rows["step"]], rel=1e-4), name
        for step, value in curves["lr"]:
            assert value == pytest.approx(peak * share(step + 1), rel=1e-4), name


def test_several_parameter_groups_have_a_curve_each(command, tmp_path):
    (tmp_path / "grouping.py").write_text(GROUPED)
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    optim = "optim={_target_: grouping.grouped, _partial_: true, lr: 0.1}"
    done = command(
        "data=digits", "model=mlp", "trainer.max_epochs=2", "schedule=step", "schedule.scheduler.step_size=1",
        "~optim", f"+{optim}", "hydra.run.dir=run", cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    curves = points(tmp_path / "run")
    assert [value for _, value in curves["lr/first"]] == pytest.approx([0.01, 0.003])
    assert [value for _, value in curves["lr/2"]] == pytest.approx([0.1, 0.03])
    rows = pd.read_csv(tmp_path / "run/history.csv")
    assert rows["lr"].tolist() == pytest.approx([0.01, 0.003])
    assert not [name for name in rows if name.startswith("lr/")]
