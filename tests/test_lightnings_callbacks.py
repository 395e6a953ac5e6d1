"""Each callback of Lightning works in a run, or is refused before training with what to use instead."""

import json
import os

import pytest

pytestmark = pytest.mark.usefixtures("no_figures")

RUN = ["data=digits", "model=mlp", "augment=none", "trainer.max_epochs=3", "trainer.limit_train_batches=4"]
OF_LIGHTNING = "pytorch_lightning.callbacks"
REFUSED = {
    "StochasticWeightAveraging,swa_lrs: 0.1": "'callbacks=[default,swa]'",
    "LearningRateFinder": "fmx lr-find",
    "BatchSizeFinder": "-m data.batch_size=64,128,256",
    "GradientAccumulationScheduler,scheduling: {1: 2}": "trainer.accumulate_grad_batches=N",
    "ModelPruning,pruning_fn: l1_unstructured": "torch.nn.utils.prune",
    "RichProgressBar": "~callbacks.progress trainer.enable_progress_bar=true",
    "TQDMProgressBar": "~callbacks.progress trainer.enable_progress_bar=true",
    "ThroughputMonitor,batch_size_fn: len": "timing.images_per_s",
    "EMAWeightAveraging,update_starting_at_epoch: 1": "update_starting_at_step",
}
OWN = """
from pytorch_lightning import Callback

class Stop(Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step == 6

def size(batch):
    return len(batch[0])
"""


@pytest.mark.parametrize("node", REFUSED)
def test_a_callback_that_would_mislead_is_refused(command, tmp_path, node):
    done = command(*RUN, f"+callbacks.mine={{_target_: {OF_LIGHTNING}.{node}}}", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "callbacks.mine" in done.stderr
    assert REFUSED[node] in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_averages_are_refused(command, tmp_path):
    done = command(*RUN, "callbacks=[default,ema,swa]", cwd=tmp_path)
    assert done.returncode == 2
    assert "callbacks.ema and callbacks.swa both average the weights" in done.stderr


def test_the_others_do_what_they_say(command, tmp_path):
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    nodes = [
        "ModelSummary,max_depth: 2", "DeviceStatsMonitor", "LearningRateMonitor", "Timer,duration: '00:01:00:00'",
        "ModelCheckpoint,monitor: val/loss,dirpath: ${run_dir}/more,filename: least",
        "OnExceptionCheckpoint,dirpath: ${run_dir}/more", "LambdaCallback",
        "ThroughputMonitor,batch_size_fn: {_target_: hydra.utils.get_method, path: own.size}",
    ]  # fmt: skip
    own = [f"+callbacks.mine{number}={{_target_: {OF_LIGHTNING}.{node}}}" for number, node in enumerate(nodes)]
    profiler = (
        "+trainer.profiler={_target_: pytorch_lightning.profilers.SimpleProfiler, dirpath: '${run_dir}', "
        "filename: profile}"
    )
    csv = "+logger.csv={_target_: pytorch_lightning.loggers.CSVLogger, save_dir: '${run_dir}', name: csv, version: v}"
    arguments = [*RUN, *own, profiler, csv, "trainer.log_every_n_steps=1", "hydra.run.dir=run"]
    done = command(*arguments, cwd=tmp_path, env={"PYTHONPATH": os.fspath(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "run"
    assert "Total params" in done.stdout
    assert "Total params" in (run / "run.log").read_text()
    assert "| net." in done.stdout
    assert (run / "more/least.ckpt").is_file()
    assert not (run / "more/on_exception.ckpt").exists()
    assert "run_training_batch" in (run / "fit-profile.txt").read_text()
    logged = (run / "csv/v/metrics.csv").read_text().splitlines()[0]
    assert "DeviceStatsMonitor.on_train_batch_start/cpu_percent" in logged
    assert "train/samples" in logged
    assert "lr" in logged.split(",")
    assert "history.csv is not written" not in done.stdout


EARLY = {
    "early_stopping": [
        ["callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=0",
         "callbacks.early_stopping.min_delta=9.0"],
        "callbacks.early_stopping (EarlyStopping): Monitored metric val/loss did not improve", 8,
    ],
    "a Timer": [
        [f"+callbacks.mine={{_target_: {OF_LIGHTNING}.Timer, duration: {{milliseconds: 1}}}}"],
        "callbacks.mine: 0.001 s have passed", 1,
    ],
    "max_time": [["+trainer.max_time={milliseconds: 1}"], "trainer.max_time: 0.001 s have passed", 1],
    "max_steps": [["+trainer.max_steps=5"], "trainer.max_steps=5", 5],
    "should_stop": [
        ["+callbacks.mine={_target_: own.Stop}"], "trainer.should_stop was set by callbacks.mine (own.Stop)", 6,
    ],
    "its length": [[], "trainer.max_epochs=3", 12],
}  # fmt: skip


@pytest.mark.parametrize("name", EARLY)
def test_what_ended_a_training_is_said_and_recorded(command, tmp_path, name):
    words, reason, step = EARLY[name]
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    env = {"PYTHONPATH": os.fspath(tmp_path)}
    done = command(*RUN, *words, "logger=none", "hydra.run.dir=run", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["ended_by"].startswith(reason)
    lines = [line for line in done.stdout.splitlines() if line.startswith("training ended in epoch")]
    assert len(lines) == (name != "its length")
    assert all(f"after step {step}: {reason}" in line for line in lines), lines


def test_a_training_that_ends_before_its_first_validation_says_why(command, tmp_path):
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    own = ["+callbacks.mine={_target_: own.Stop}", "trainer.check_val_every_n_epoch=3"]
    done = command(*RUN, *own, cwd=tmp_path, env={"PYTHONPATH": os.fspath(tmp_path)})
    assert done.returncode == 1
    assert "training ended before its first validation (trainer.should_stop was set by callbacks.mine" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("own", [[], [f"+callbacks.mine={{_target_: {OF_LIGHTNING}.TQDMProgressBar}}"]], ids=len)
def test_a_bar_of_lightning_takes_the_place_of_fmxs(command, tmp_path, own):
    done = command(*RUN, *own, "~callbacks.progress", "trainer.enable_progress_bar=true", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test accuracy" in done.stdout
