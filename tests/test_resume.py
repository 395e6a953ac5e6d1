"""Runs that are killed or asked to stop go on as if they had never stopped, and nothing else is touched."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from fmx.errors import DataError
from fmx.process.exits import plain_exits
from fmx.runs.checkpoint_files import newest_checkpoint
from same_runs import assert_same, points
from warm_process import NO_FIGURES

pytestmark = pytest.mark.usefixtures("no_figures")

DIGITS = ["data=digits", "data.batch_size=64", "trainer.checkpoint_every_s=0.2"]
ALL_AT_ONCE = ["model=dropout_cnn", "augment=erasing", "optim=adamw", "schedule=onecycle", "callbacks=[default,ema]"]


SETS = {
    "onecycle, EMA, dropout, erasing": [*ALL_AT_ONCE, "trainer.max_epochs=5"],
    "plateau by epoch": ["model=lenet", "schedule=plateau", "schedule.scheduler.patience=0", "trainer.max_epochs=6"],
    "early stopping": ["model=mlp", "callbacks=[default,early_stopping]", "optim.lr=0.03", "trainer.max_epochs=40"],
    "validation every 7 steps": [
        "model=mlp", "optim=sgd", "schedule=step", "callbacks.history.every_step=true",
        "trainer.val_check_interval=7", "trainer.max_epochs=5",
    ],
    "accumulation, last batch dropped": [
        "model=lenet", "trainer.accumulate_grad_batches=3", "data.drop_last=true", "schedule=cosine",
        "trainer.max_epochs=6",
    ],
    "nothing held out": ["model=mlp", "data.validation=none", "trainer.max_epochs=10"],
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_stopped_twice(command, tmp_path, name):
    """Once by SIGTERM, once by SIGKILL, at moments that differ from test to test."""
    run = [*DIGITS, *SETS[name]]
    began = time.monotonic()
    whole = command(*run, "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    length = time.monotonic() - began
    moments = random.Random(name)
    stops = [(moments.uniform(0.3, 0.6), signal.SIGTERM), (moments.uniform(0.3, 0.6), signal.SIGKILL)]
    codes, begun, record = [], [0], tmp_path / "cut/run.json"  # begun: how many processes are on record
    for share, signum in stops:
        before = record.read_bytes() if record.exists() else None
        done = command(*run, "resume=auto", "hydra.run.dir=cut", cwd=tmp_path, send=(share * length, signum))
        codes.append(done.returncode)
        assert done.returncode in {-9, 0, 143}, done.stdout + done.stderr
        if done.returncode == 0:
            break
        begun.append(processes_on_record(record))
        after = record.read_bytes() if record.exists() else None  # a signal may come before a process is on record
        assert begun[-1] - begun[-2] == (before != after)
    assert codes[0] in {0, 143}
    if codes[-1] != 0:
        done = command(*run, "resume=auto", "hydra.run.dir=cut", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert points(tmp_path / "cut") == points(tmp_path / "whole")
    if "every_step" in str(run):
        one, other = ((tmp_path / folder / "steps.csv").read_text() for folder in ("cut", "whole"))
        assert one == other
    assert processes_on_record(record) == begun[-1] + 1


def processes_on_record(record):
    return len(json.loads(record.read_text()).get("parts", [])) + 1 if record.exists() else 0


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_runs_on_the_real_data(command, tmp_path):
    """SIGKILL and SIGTERM at random moments from the start to the test; every fourth run is killed again.

    Eight runs, or with FMX_LONG=1 twenty.
    """
    count = 20 if os.environ.get("FMX_LONG") else 8
    run = ["data=fashion_mnist", "data.batch_size=64", *ALL_AT_ONCE, "trainer.max_epochs=3", "logger=none"]
    run += ["trainer.limit_train_batches=20", "trainer.limit_val_batches=4", "trainer.limit_test_batches=4"]
    run += ["trainer.checkpoint_every_s=0.2"]
    for name in ("first", "whole"):  # the first one reads cold files, and takes longer than those to come
        began = time.monotonic()
        whole = command(*run, f"hydra.run.dir={name}", cwd=tmp_path)
        assert whole.returncode == 0, whole.stdout + whole.stderr
        length = time.monotonic() - began
    assert_same(tmp_path / "first", tmp_path / "whole")
    moments = random.Random(20)
    for number in range(count):
        folder = tmp_path / f"cut{number}"
        arguments = [*run, "resume=auto", f"hydra.run.dir={folder}"]
        signum = signal.SIGTERM if number % 3 == 0 else signal.SIGKILL
        moment = (number + moments.random()) / count * length
        while (code := command(*arguments, cwd=tmp_path, send=(moment, signum)).returncode) == 0:
            shutil.rmtree(folder)  # it was over before the signal came: again, and sooner
            moment *= 0.9
        assert code in {-signum, 128 + signum}
        if number % 4 == 0:
            command(*arguments, cwd=tmp_path, send=(moments.random() * length, signum))
        if not (folder / "run.json").exists() or json.loads((folder / "run.json").read_text())["status"] != "completed":
            done = command(*arguments, cwd=tmp_path)
            assert done.returncode == 0, (number, done.stdout + done.stderr)
        assert_same(folder, tmp_path / "whole")
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_each_change_to_its_files(command, tmp_path, monkeypatch):
    """At every second until training begins, then at every tenth, where most are checkpoints'; every other run twice.

    FMX_LONG=1: at each one, then at every fifth.
    """
    monkeypatch.setenv(NO_FIGURES, "")  # it is killed among them too
    sparse = 1 if os.environ.get("FMX_LONG") else 2
    run = ["data=digits", "model=mlp", "trainer.max_epochs=2", "trainer.limit_train_batches=4", "logger=none"]
    whole = command(*run, "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    arguments = [*run, "resume=auto", "hydra.run.dir=outputs/runs/mine"]
    number, codes, begun = 1, [], False
    while True:
        folder = tmp_path / f"cut{number}"
        folder.mkdir()
        codes.append(command(*arguments, cwd=folder, die_at_change=number).returncode)
        if codes[-1] == 0:
            break
        mine = folder / "outputs/runs/mine"
        begun = begun or (mine / "history.csv").exists()
        alone = len(codes) % 4 > 1  # the run's name where there is a run by now, or else the whole command
        again = [f"resume={mine}"] if alone and (mine / "run.json").exists() else arguments
        if len(codes) % 2:
            codes.append(command(*again, cwd=folder, die_at_change=number).returncode)
        if codes[-1] != 0:
            done = command(*again, cwd=folder)
            assert done.returncode == 0, (number, again, done.stdout + done.stderr)
        assert_same(mine, tmp_path / "whole")
        assert not list(mine.rglob("*.tmp"))
        number += sparse * (5 if begun else 1)
    assert set(codes) == {0, -signal.SIGKILL}
    assert codes.count(-signal.SIGKILL) > 30 / sparse


@pytest.fixture
def interrupted(command, tmp_path):
    """A run on the digits that SIGTERM stopped in the middle."""
    run = [*DIGITS, "model=lenet", "trainer.max_epochs=30"]
    folder = tmp_path / "outputs/runs/cut"
    sent = (folder / "checkpoints/previous.ckpt", signal.SIGTERM)
    done = command(*run, "hydra.run.dir=outputs/runs/cut", cwd=tmp_path, send=sent)
    assert done.returncode == 143, done.stdout + done.stderr
    return run, folder


LOST = """
import os
import signal
from pathlib import Path

from pytorch_lightning import Callback


class Freed:
    def __init__(self, signum):
        self.signum = signum

    def __del__(self):
        os.kill(os.getpid(), self.signum)
        for _ in range(1000):  # Python runs the handler here, and what it raises has nowhere to go
            pass


class Lost(Callback):
    def __init__(self, *, signum):
        self.signum = signum

    def on_fit_start(self, *_):
        if not Path("sent").exists():
            Path("sent").touch()
            Freed(self.signum)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_an_object_is_freed(command, tmp_path, signum):
    (tmp_path / "lost.py").write_text(LOST)
    run = [*DIGITS, "model=mlp", f"+callbacks.lost={{_target_: lost.Lost, signum: {int(signum)}}}", "hydra.run.dir=cut"]
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = command(*run, cwd=tmp_path, env=environment)
    assert done.returncode == 128 + signum, done.stdout + done.stderr
    assert json.loads((tmp_path / "cut/run.json").read_text())["status"] == "interrupted"
    alone = command("resume=cut", cwd=tmp_path, env=environment)
    assert alone.returncode == 1
    assert "--allow" not in alone.stderr
    assert "type the whole command that began the run (run.json has it) with resume=cut" in alone.stderr
    done = command(*run, "resume=cut", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


TESTED = """
import os
from pathlib import Path

from fmx.models.mlp import MLP


class Tested(MLP):
    def __init__(self, *, signum, **options):
        super().__init__(**options)
        self.signum = signum

    def forward(self, images):
        if not self.training and Path("cut/checkpoints/last.ckpt").exists() and not Path("sent").exists():
            Path("sent").touch()
            os.kill(os.getpid(), self.signum)
        return super().forward(images)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_after_the_training(command, tmp_path, signum):
    (tmp_path / "tested.py").write_text(TESTED)
    model = ["model=mlp", "model.net._target_=tested.Tested", f"+model.net.signum={int(signum)}"]
    run = ["data=digits", "trainer.max_epochs=1", *model, "hydra.run.dir=cut"]
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = command(*run, cwd=tmp_path, env=environment)
    assert done.returncode == 128 + signum, done.stdout + done.stderr
    assert json.loads((tmp_path / "cut/run.json").read_text())["status"] == "interrupted"
    done = command(*run, "resume=cut", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_which_a_library_fails_in_another_way(signum, code):
    def composes():
        try:
            os.kill(os.getpid(), signum)
            time.sleep(1)
        finally:
            None.flags = {}  # as OmegaConf does where it is interrupted

    with pytest.raises(SystemExit) as ended:
        plain_exits()(composes)()
    assert ended.value.code == code


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_which_run_is_gone_on_with(command, tmp_path, interrupted):
    run, folder = interrupted
    before = files(folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "interrupted"

    refused = command(*run, "hydra.run.dir=outputs/runs/cut", cwd=tmp_path)
    assert refused.returncode == 2
    holds = "outputs/runs/cut holds a run already: continue it with resume=outputs/runs/cut, or name another folder"
    assert refused.stderr == f"{holds}\n"
    refused = command(*run, "optim.lr=0.5", f"resume={folder}", cwd=tmp_path)
    assert refused.returncode == 2
    assert "optim.lr was 0.002, is 0.5" in refused.stderr
    assert files(folder) == before

    finished = command(f"resume={folder}", cwd=tmp_path)  # the run's own overrides, without typing them
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "resuming after step" in finished.stdout
    whole = command(*run, "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0
    assert_same(folder, tmp_path / "whole")
    reproduced = command(str(folder), "--dir", "again", module="reproduce", cwd=tmp_path)
    assert reproduced.returncode == 0, reproduced.stdout + reproduced.stderr
    refused = command(f"resume={folder}", cwd=tmp_path)
    assert refused.returncode == 2
    assert "is complete; there is nothing to continue" in refused.stderr


def test_auto_takes_the_newest_of_the_same_configuration(command, tmp_path, interrupted):
    run, folder = interrupted
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(record | {"config_fingerprint": "0", "started": "2999"}))
    done = command(*run, "resume=auto", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "run.json").read_text())["status"] == "completed"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["cut", "other"]


def test_one_process_to_a_folder(command, tmp_path):
    run = [*DIGITS, "model=lenet", "trainer.max_epochs=60", "hydra.run.dir=run"]
    first = subprocess.Popen([sys.executable, "-m", "fmx.run", *run], cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not (tmp_path / "run/history.csv").exists():
        assert first.poll() is None
        time.sleep(0.1)
    second = command(*run, "resume=auto", cwd=tmp_path)
    assert second.returncode == 2
    assert "another process is at work in" in second.stderr
    shown = command("run", cwd=tmp_path, module="report")
    assert "running" in shown.stdout + shown.stderr
    first.kill()
    first.wait()
    shown = command("run", cwd=tmp_path, module="report")
    assert "interrupted" in shown.stdout + shown.stderr


def test_a_damaged_checkpoint(command, tmp_path, interrupted):
    """Each of 100 places of last.ckpt spoilt or cut off: never read, named, and the one before it is used."""
    run, folder = interrupted
    checkpoints = folder / "checkpoints"
    last, good = checkpoints / "last.ckpt", (checkpoints / "last.ckpt").read_bytes()
    found, step, complaints = newest_checkpoint(checkpoints)
    assert (found, complaints) == (last, [])
    assert step > 0
    places = np.linspace(0, len(good) - 1, 50, dtype=int)
    variants = [good[:place] for place in places]
    variants += [good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :] for place in places]
    assert len(variants) == 100
    for variant in variants:
        last.write_bytes(variant)
        found, _, complaints = newest_checkpoint(checkpoints)
        assert found == checkpoints / "previous.ckpt"
        assert "last.ckpt is damaged" in complaints[0]
    done = command(*run, f"resume={folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "last.ckpt is damaged" in done.stdout
    whole = command(*run, "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0
    assert_same(folder, tmp_path / "whole")


def test_all_checkpoints_damaged(command, tmp_path, interrupted):
    run, folder = interrupted
    for name in ("last", "previous"):
        path = folder / "checkpoints" / f"{name}.ckpt"
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="no other checkpoint is whole"):
        newest_checkpoint(folder / "checkpoints")
    done = command(*run, f"resume={folder}", cwd=tmp_path)
    assert done.returncode == 1
    assert "no other checkpoint is whole. Start the run anew in another folder" in done.stderr


def test_other_data_than_then(command, tmp_path, interrupted):
    run, folder = interrupted
    record = json.loads((folder / "run.json").read_text())
    record["data"] |= {"fingerprint": "other", "train_fingerprint": "other"}
    (folder / "run.json").write_text(json.dumps(record))
    done = command(*run, f"resume={folder}", cwd=tmp_path)
    assert done.returncode == 1
    assert "the data is not what" in done.stderr


def test_a_full_disk(tmp_path):
    """Files may not grow to what a checkpoint takes: a plain error before the first step, and nothing half is left."""
    run = [sys.executable, "-m", "fmx.run", *DIGITS, "model=lenet", "trainer.max_epochs=3", "logger=none"]
    limited = ["bash", "-c", 'ulimit -f 500; exec "$@"', "-", *run, "hydra.run.dir=run"]
    done = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("cannot write ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run/history.csv").exists()
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"
    assert not list((tmp_path / "run/checkpoints").glob("*.part"))
    run.append(f"resume={tmp_path / 'run'}")
    roomy = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert roomy.returncode == 0, roomy.stderr


def test_a_folder_that_is_removed(tmp_path):
    run = [sys.executable, "-m", "fmx.run", *DIGITS, "model=lenet", "trainer.max_epochs=300", "hydra.run.dir=run"]
    run.append("logger=none")  # TensorBoard's own thread would say it in its own way
    process = subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/history.csv").exists():
        assert process.poll() is None
        time.sleep(0.1)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was removed during the run" in error
    assert "Traceback" not in error


DRAWN = """
import os
import random
import signal
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers.logger import Logger
from torch.utils.data import Dataset
from torchvision.transforms import v2

from fmx.data.digits import load_digits


class Drawn(Dataset):
    def __init__(self, **options):
        arrays = load_digits(**options)
        self.images, self.labels = arrays.images, arrays.labels
        self.own = {"numpy": np.random.default_rng(7), "torch": [torch.Generator().manual_seed(7)]}
        self.python = random.Random(7)
        self.transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomErasing()])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        noise = [random.random(), np.random.rand(), float(torch.rand(())), self.python.random()]
        noise += [self.own["numpy"].random(), float(torch.rand((), generator=self.own["torch"][0]))]
        pixels = self.transform(self.images[index]).clone()
        pixels[0, 0, :6] = torch.tensor(noise) * 255
        return pixels, int(self.labels[index])


class Stop(Callback):
    def __init__(self, step, signum):
        self.step, self.signum = step, signum

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step and not Path("sent").exists() and Path("cut").exists():
            Path("sent").touch()
            os.kill(os.getpid(), self.signum)


class Lines(Logger):
    def __init__(self, folder):
        super().__init__()
        self.file = Path(folder) / "lines.txt"

    name, version = "lines", 0

    def log_metrics(self, metrics, step):
        with self.file.open("a") as file:
            print(step, *sorted(metrics), file=file)

    def log_hyperparams(self, *_, **__):
        pass


class Purged(Lines):
    def purge(self, step):
        lines = self.file.read_text().splitlines(keepends=True)
        self.file.write_text("".join(line for line in lines if int(line.split()[0]) < step))
"""


LOGGERS = {
    "rows": "{_target_: pytorch_lightning.loggers.CSVLogger, save_dir: '${run_dir}', name: rows, version: one}",
    "more": "{_target_: pytorch_lightning.loggers.CSVLogger, save_dir: '${run_dir}', flush_logs_every_n_steps: 10000}",
    "own": "{_target_: drawn.Lines, folder: '${run_dir}'}",
    "events": "{_target_: pytorch_lightning.loggers.TensorBoardLogger, save_dir: '${run_dir}', name: more}",
}


def stopped(command, tmp_path, *options, step, signum, loggers=()):
    """A whole run, and one that a signal stopped before a step and that went on."""
    (tmp_path / "drawn.py").write_text(DRAWN)
    folder = tmp_path / "conf/logger"
    folder.mkdir(parents=True)
    for name, text in dict(loggers).items():
        (folder / f"{name}.yaml").write_text(f"{name}: {text}\n")
    stop = f"+callbacks.stop={{_target_: drawn.Stop, step: {step}, signum: {int(signum)}}}"
    names = ",".join(["default", *dict(loggers)])
    run = ["--config-dir=conf", "data=digits", "model=mlp", stop, f"logger=[{names}]", *options]
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    whole = command(*run, "hydra.run.dir=whole", cwd=tmp_path, env=env)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    done = command(*run, "hydra.run.dir=cut", cwd=tmp_path, env=env)
    assert done.returncode == (-signum if signum == signal.SIGKILL else 128 + signum), done.stdout + done.stderr
    done = command(*run, "resume=cut", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert points(tmp_path / "cut") == points(tmp_path / "whole")
    return done


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_draws_random_numbers(command, tmp_path, workers):
    """Stopped in the middle of its second epoch; from Python, NumPy and torch, and from generators of its own."""
    options = ["data.train._target_=drawn.Drawn", f"data.num_workers={workers}", "augment=crop_flip"]
    options += ["trainer.max_epochs=3"]
    own = {"own": LOGGERS["own"]}
    done = stopped(command, tmp_path, *options, step=29, signum=signal.SIGTERM, loggers=own)
    assert "Lines keeps what it wrote from step 30 on, which is written again: rows may be duplicated" in done.stdout


def test_draws_do_not_depend_on_the_number_of_workers(command, tmp_path):
    (tmp_path / "drawn.py").write_text(DRAWN)
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    run = ["data=digits", "model=mlp", "augment=none", "data.train._target_=drawn.Drawn", "trainer.max_epochs=2"]
    for workers in (0, 2):
        done = command(*run, f"data.num_workers={workers}", f"hydra.run.dir=run{workers}", cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path / "run2", tmp_path / "run0")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_loggers_have_each_row_once(command, tmp_path, signum):
    """Three epochs after the last checkpoint, in the case of SIGKILL: what came after it comes again."""
    own = LOGGERS["own"].replace("Lines", "Purged")
    options = ["trainer.max_epochs=6", "trainer.log_every_n_steps=7", "callbacks.lean_steps.at_most_s=0"]
    done = stopped(command, tmp_path, *options, step=95, signum=signum, loggers=LOGGERS | {"own": own})
    assert "may be duplicated" not in done.stdout
    for file in ("rows/one/metrics.csv", "lightning_logs/version_0/metrics.csv", "lines.txt"):
        cut, whole = ((tmp_path / run / file).read_text() for run in ("cut", "whole"))
        assert len(whole.splitlines()) > 6 + 100 // 7
        if file.endswith(".csv"):
            cut, whole = (pd.read_csv(io.StringIO(text)) for text in (cut, whole))
            pd.testing.assert_frame_equal(cut, whole[cut.columns], check_exact=True)
        else:
            assert cut == whole
    assert [path.name for path in (tmp_path / "cut/lightning_logs").iterdir()] == ["version_0"]
    assert [path.name for path in (tmp_path / "cut/more").iterdir()] == ["version_0"]
    assert not list((tmp_path / "cut").rglob("*.kept"))
