"""A run from outside: the files it leaves, and that they agree with each other and with scikit-learn."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics

from test_extension import OVERRIDES, write_parts
from warm_process import NO_FIGURES

CONTRACT = """
.hydra/config.yaml .hydra/overrides.yaml run.json metrics.json history.csv predictions.npz checkpoints/best.ckpt
checkpoints/last.ckpt figures/samples.png figures/learning_curves.png figures/confusion_matrix.png
figures/predictions.png figures/mistakes.png report.txt run.log
"""
SHORT = ["data=digits", "model=lenet", "augment=crop_flip", "trainer.max_epochs=2"]


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open() as file:
        return list(csv.DictReader(file))


def assert_agrees_with_scikit_learn(run: Path) -> None:
    test = json.loads((run / "metrics.json").read_text())["test"]
    with np.load(run / "predictions.npz") as arrays:
        labels, logits, indices = arrays["labels"], arrays["logits"], arrays["indices"]
    assert logits.dtype == np.float32
    assert logits.shape == (len(labels), len(test["per_class"]))
    assert sorted(indices) == list(range(len(labels)))
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    predicted = logits.argmax(1)
    assert test["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-6)
    assert test["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"), abs=1e-6)
    assert test["loss"] == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-5)
    recall = metrics.recall_score(labels, predicted, average=None)
    assert list(test["per_class"].values()) == pytest.approx(recall.tolist(), abs=1e-6)
    report = (run / "report.txt").read_text()
    assert f"{metrics.accuracy_score(labels, predicted):.4f}" in report


def test_run_leaves_every_file_of_the_contract(digits_run):
    for name in CONTRACT.split():
        assert (digits_run / name).stat().st_size > 0, name
    assert list((digits_run / "tensorboard").glob("events.out.tfevents.*"))
    assert not list(digits_run.rglob("*.tmp"))
    for name in ("best", "last"):
        state = torch.load(digits_run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())


def test_metrics_agree_with_a_recomputation_from_the_predictions(digits_run):
    assert_agrees_with_scikit_learn(digits_run)


def test_record_tells_the_whole_story(digits_run):
    record = json.loads((digits_run / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["error"] is None
    assert record["command"].endswith("trainer.max_epochs=3 hydra.run.dir=run")
    assert record["overrides"] == ["data=digits", "model=lenet", "augment=none", "trainer.max_epochs=3"]
    assert set(record["device"]) >= {"accelerator", "name", "precision", "threads"}
    assert record["data"]["sizes"] == {"train": 1221, "val": 216, "test": 360}
    assert re.fullmatch("[0-9a-f]{32}", record["data"]["fingerprint"])
    assert record["params"] == 61_610
    assert {"startup_s", "data_s", "fit_s", "test_s", "seconds_per_epoch", "images_per_s"} <= record["timing"].keys()
    assert record["peak_memory_mb"] > 100
    assert {"python", "torch", "pytorch-lightning", "hydra-core"} <= record["versions"].keys()
    rows = history(digits_run)
    best = max(rows, key=lambda row: float(row["val/accuracy"]))
    assert record["best"]["epoch"] == int(best["epoch"])
    assert record["best"]["value"] == pytest.approx(float(best["val/accuracy"]))
    assert record["best"]["metric"] == "val/accuracy"


def test_history_has_a_row_an_epoch(digits_run):
    rows = history(digits_run)
    assert list(rows[0]) == [
        "epoch",
        "step",
        "lr",
        "train/loss",
        "train/accuracy",
        "val/loss",
        "val/accuracy",
        "seconds",
    ]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])
    val = json.loads((digits_run / "metrics.json").read_text())["val"]
    assert max(float(row["val/accuracy"]) for row in rows) == pytest.approx(val["accuracy"], abs=1e-6)


def test_same_seed_gives_the_same_run_and_another_seed_differs(command, tmp_path):
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        done = command(*SHORT, f"seed={seed}", f"hydra.run.dir={name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    def without_seconds(name: str) -> list[dict[str, str]]:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in history(tmp_path / name)]

    def weights(name: str) -> dict[str, torch.Tensor]:
        return torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    assert without_seconds("a") == without_seconds("b") != without_seconds("c")
    assert all(torch.equal(weights("a")[key], weights("b")[key]) for key in weights("a"))
    assert not all(torch.equal(weights("a")[key], weights("c")[key]) for key in weights("a"))
    splits = {json.loads((tmp_path / name / "run.json").read_text())["data"]["split_fingerprint"] for name in "abc"}
    assert len(splits) == 1, "the split must not depend on the run's seed"


def test_runs_go_to_outputs_and_latest_links_to_the_newest(command, tmp_path):
    done = command("data=digits", "model=mlp", "trainer=smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}_mlp_digits", run.name)
    assert (tmp_path / "outputs" / "latest").resolve() == run
    assert str(run) in done.stdout.splitlines()[-1]
    assert done.stderr == ""


def test_latest_appears_in_outputs_alone_and_replaces_nothing_of_somebody_elses(command, tmp_path):
    def train(run_dir: str, cwd: Path = tmp_path) -> None:
        done = command("data=digits", "model=mlp", "trainer=smoke", f"hydra.run.dir={run_dir}", cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr

    train("runs/one")
    train(str(tmp_path / "data" / "sweeps" / "one"))
    assert not list(tmp_path.glob("**/latest")), "beside a folder of the user's own choice"
    train("outputs/runs/group/one")
    link = tmp_path / "outputs" / "latest"
    assert link.readlink() == Path("runs/group/one")
    (tmp_path / "elsewhere").mkdir()
    train(str(tmp_path / "outputs" / "runs" / "two"), cwd=tmp_path / "elsewhere")
    assert link.readlink() == Path("runs/two"), "fmx's own link follows, wherever the command is started"
    for somebody in (lambda: link.symlink_to("mine"), link.mkdir, link.touch):
        link.unlink() if link.is_symlink() else link.rmdir()
        somebody()
        before = link.lstat()
        train(f"outputs/runs/{before.st_ino}_{before.st_mode}")
        assert (link.lstat().st_ino, link.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_what_it_says_of_a_folder_with_a_strange_name_can_be_typed(command, tmp_path):
    arguments = ["data=digits", "model=mlp", "trainer=smoke", 'hydra.run.dir="jürgen (2), a"']
    assert command(*arguments, cwd=tmp_path).returncode == 0
    refused = command(*arguments, cwd=tmp_path)
    (word,) = re.findall("continue it with '(.*)', or name", refused.stderr)
    again = command(word, cwd=tmp_path)
    assert "is complete; there is nothing to continue" in again.stderr


CHOSEN = {
    "val": "checkpoint chosen on validation",
    "test": "checkpoint chosen ON THE TEST SET",
    "last": "the last checkpoint, no choice",
}


@pytest.mark.parametrize(
    ("overrides", "selected_on"),
    [
        (["data.validation=none"], "last"),
        (["data.validation=test"], "test"),
        (["data.validation=test", "select=last"], "last"),
        (["data.validation=0.1", "data.split=tail", "data.drop_last=true", "schedule=plateau"], "val"),
    ],
    ids=" ".join,
)
def test_metrics_say_what_the_checkpoint_was_chosen_on(command, tmp_path, overrides, selected_on):
    done = command("data=digits", "model=mlp", "trainer.max_epochs=2", "hydra.run.dir=run", *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert figures["selected_on"] == selected_on
    assert f"({CHOSEN[selected_on]})" in done.stdout
    assert (figures["val"] is None) == ("data.validation=none" in overrides)
    assert len(history(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    if "data.validation=test" not in overrides:
        return
    exported = command("run", "--format", "torchscript", module="export", cwd=tmp_path)
    assert exported.returncode == 0, exported.stdout + exported.stderr
    (card,) = tmp_path.glob("*.md")
    assert "| accuracy on validation, which was the test set |" in card.read_text()


def test_onecycle_by_epochs(command, tmp_path):
    by_epoch = ["schedule.interval=epoch", "schedule.scheduler.pct_start=0.5", "trainer.max_epochs=4"]
    done = command("data=digits", "model=mlp", *by_epoch, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rates = [float(row["lr"]) for row in history(tmp_path / "run")]
    assert max(rates) == rates[1] == 0.002
    assert min(rates) == rates[3] < 1e-7


def test_the_checkpoint_may_be_chosen_by_any_figure_of_the_validation(command, tmp_path):
    values = ["callbacks.best.monitor=val/macro_f1", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2"]
    done = command("data=digits", "model=mlp", *values, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    best = json.loads((tmp_path / "run/run.json").read_text())["best"]
    (row,) = history(tmp_path / "run")
    assert best["metric"] == "val/macro_f1"
    assert best["value"] == float(row["val/macro_f1"]) > 0.1


def test_validation_by_steps_writes_a_row_each_time_and_keeps_every_step(command, tmp_path):
    done = command(
        "data=digits", "model=mlp", "data.batch_size=32", "trainer.max_epochs=2", "hydra.run.dir=run",
        "trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=25", "callbacks.history.every_step=true",
        "callbacks=[default,ema,early_stopping]", "schedule=cosine", "schedule.warmup_epochs=0.5",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [int(row["step"]) for row in history(tmp_path / "run")] == [25, 50, 75]
    with (tmp_path / "run" / "steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert [int(row["step"]) for row in steps] == list(range(1, len(steps) + 1))
    assert len(steps) >= 75
    assert all(0 <= float(row["accuracy"]) <= 1 for row in steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sweep",
    [
        ["model=glob(*)", "optim=glob(*)"],
        ["optim=glob(*)", "schedule=glob(*)"],
        ["augment=glob(*,exclude=color)", "loss=glob(*,exclude=distill)"],
        pytest.param(
            ["schedule=glob(*)", "augment=glob(*,exclude=color)", "loss=glob(*,exclude=distill)"],
            marks=pytest.mark.long,
        ),
    ],
    ids=" ".join,
)
def test_all_parts_run_with_each_other(command, tmp_path, sweep):
    from fmx.config.conf_dir import CONF_DIR

    expected = 1
    for part in sweep:
        members = list((CONF_DIR / part.partition("=")[0]).glob("[!_]*.yaml"))
        assert len(members) >= 2
        expected *= len(members) - part.count("exclude")  # colours, and a teacher, which are not there
    done = command(
        "-m",
        *sweep,
        "data=digits",
        "trainer=smoke",
        "logger=none",
        "hydra.sweep.dir=sweep",
        cwd=tmp_path,
        env={NO_FIGURES: "1"},
        timeout_s=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    records = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/run.json")]
    assert len(records) == expected
    assert {record["status"] for record in records} == {"completed"}


@pytest.mark.data
def test_dilated_with_adam_on_the_real_data_agrees_with_scikit_learn(command, tmp_path):
    done = command(
        "model=dilated", "optim=adam", "trainer.max_epochs=1", "trainer.limit_train_batches=150", "hydra.run.dir=run",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["sizes"] == {"train": 55_000, "val": 5_000, "test": 10_000}
    assert_agrees_with_scikit_learn(tmp_path / "run")
    accuracy = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["accuracy"]
    assert 0.6 < accuracy < 0.95


def test_interrupt_saves_the_state_and_says_so(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "fmx.run", "data=digits", "model=lenet", "trainer.max_epochs=9999", "hydra.run.dir=run"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 500
    while not (tmp_path / "run" / "history.csv").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] > 0
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("interrupted; resume="), "nothing is said after that"


def test_a_run_in_the_background_leaves_ctrl_c_to_others(tmp_path):
    """A shell script has it ignored by what it starts with `&`."""
    run = ["-m", "fmx.run", "data=digits", "model=mlp", "trainer.max_epochs=60", "hydra.run.dir=run", "logger=none"]
    ignored = ["bash", "-c", 'trap "" INT; exec "$@"', "-", sys.executable, *run]
    process = subprocess.Popen(ignored, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / "run/history.csv").exists():
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def test_parts_from_outside_run_from_the_wheel_with_its_own_configuration(tmp_path):
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, root],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    shutil.unpack_archive(wheel, site, "zip")
    assert (site / "fmx" / "conf" / "config.yaml").is_file()
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"fmx"}, (
        "hydra_plugins would change other applications"
    )
    write_parts(tmp_path)
    path = f"{site}:{tmp_path / 'code'}"
    for arguments in (
        OVERRIDES,
        ["-m", "data=digits", "model=mlp", "trainer=smoke", "seed=1,2", "hydra.sweep.dir=sweep"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fmx.run", *arguments],
            cwd=tmp_path, env={"PATH": "", "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "sweep" / "leaderboard.md").is_file()
    config = (tmp_path / "run" / ".hydra" / "hydra.yaml").read_text()
    assert str(site / "fmx" / "conf") in config, "the wheel's own configuration must be the one that is used"
