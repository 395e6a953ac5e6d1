"""csv, mlflow, wandb and loggers of one's own: what each gets, after interruptions too, and what callbacks see."""

import json
import os
import re
import shutil
import signal
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

import fmx
import wandb_file
from fmx.errors import ConfigError
from fmx.training.loggers import check_loggers

RUN = ["data=digits", "model=mlp", "model.net.hidden_sizes=[16]", "augment=none"]
PARTS = """
import json
import os
import signal
from pathlib import Path

from pytorch_lightning import Callback
from pytorch_lightning.loggers.logger import Logger


class Stop(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step and not Path("sent").exists():
            Path("sent").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Seen(Callback):
    def __init__(self, folder):
        self.file = Path(folder) / "hooks.txt"

    def say(self, *words):
        with self.file.open("a") as file:
            print(*words, file=file)

    def on_test_start(self, trainer, pl_module):
        self.say("start", trainer.global_step, len(trainer.loggers))

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.say("batch", *outputs["logits"].shape)

    def on_test_epoch_end(self, trainer, pl_module):
        self.say("epoch", float(trainer.callback_metrics["test/accuracy"]))
        pl_module.log("test/mine", 7.0)

    def on_test_end(self, trainer, pl_module):
        self.say("end")


class Lines(Logger):
    name, version = "lines", 0

    def __init__(self, folder, fails=False):
        super().__init__()
        self.file, self.fails = Path(folder) / f"{type(self).__name__}.jsonl", fails

    def write(self, kind, value):
        with self.file.open("a") as file:
            file.write(json.dumps([kind, value]) + "\\n")

    def log_hyperparams(self, params):
        self.write("params", params)

    def log_metrics(self, metrics, step):
        if self.fails and "test/accuracy" in metrics:
            raise ConnectionError("the server is gone")
        self.write("metrics", [step, {key: float(value) for key, value in metrics.items()}])

    def finalize(self, status):
        self.write("end", status)


class Own(Lines):
    def log_image(self, key, images, step):
        self.write("image", [key, Path(images[0]).read_bytes()[:4].decode("latin1"), step])

    def log_artifact(self, path):
        self.write("artifact", Path(path).name)


class Comet(Lines):
    def __init__(self, folder):
        super().__init__(folder)
        self.experiment = Experiment(self.write)


class Experiment:
    def __init__(self, write):
        self.write = write

    def log_image(self, image_data, name=None, step=None):
        self.write("image", [name, Path(image_data).name, step])

    def log_model(self, name, file_or_folder):
        self.write("artifact", [name, Path(file_or_folder).name])
"""
FIGURES = {"samples", "learning_curves", "confusion_matrix", "predictions", "mistakes"}


def own_parts(tmp_path):
    (tmp_path / "parts.py").write_text(PARTS)
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "HOME": str(home)}


def left_of(home):
    """The processes of W&B that have a folder as their home, half a minute after the command ended.

    They look every few seconds whether their parent still lives.
    """
    deadline = time.monotonic() + 30
    while found := processes_of_wandb(home):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return found


def processes_of_wandb(home):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if b"wandb" in command and f"HOME={home}\0".encode() in environment:
            found.append(command)
    return found


def runs_of_mlflow(folder):
    """Each run by its name: status, tags, parameters, points of each metric, artifacts."""
    with warnings.catch_warnings(action="ignore"):  # of MLflow's own use of its database
        return read_mlflow(folder)


def read_mlflow(folder):
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    runs = {"experiment": experiment.name}
    for run in client.search_runs([experiment.experiment_id]):
        key = run.info.run_id
        points = {name: client.get_metric_history(key, name) for name in run.data.metrics}
        assert run.info.run_name not in runs
        runs[run.info.run_name] = {
            "status": run.info.status,
            "tags": run.data.tags,
            "params": run.data.params,
            "points": {name: sorted((p.step, p.value) for p in history) for name, history in points.items()},
            "artifacts": {f.path for top in client.list_artifacts(key) for f in client.list_artifacts(key, top.path)},
        }
    return runs


def run_of_wandb(run_dir):
    """The one offline run of a run directory."""
    (file,) = (run_dir / "wandb").glob("offline-run-*/*.wandb")
    found = {"points": {}, "config": {}, "pictures": set(), "artifacts": {}}
    for record in wandb_file.records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"name": record.run.display_name, "group": record.run.run_group, "id": record.run.run_id}
            found["project"] = record.run.project
        elif kind == "config":
            found["config"] |= wandb_file.values(record.config.update)
        elif kind == "history":
            row = wandb_file.values(record.history.item)
            step = row.pop("trainer/global_step")
            for key, value in row.items():
                if not key.startswith("_"):
                    found["points"].setdefault(key, []).append((step, value))
            names = [value for key, value in row.items() if key.endswith("/filenames")]
            found["pictures"] |= {name for value in names for name in value}
        elif kind == "artifact":
            entries = record.artifact.manifest.contents
            found["artifacts"] |= {entry.path: Path(entry.local_path) for entry in entries}
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    assert all((file.parent / "files" / name).read_bytes()[1:4] == b"PNG" for name in found["pictures"])
    return found


def assert_history(points, run_dir):
    """Every row of history.csv is one point of each metric, and metrics.json has the test figures."""
    history = pd.read_csv(run_dir / "history.csv")
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        assert [step for step, _ in points[name]] == history["step"].tolist(), name
        assert [value for _, value in points[name]] == pytest.approx(history[name].tolist(), rel=1e-6), name
    assert [value for _, value in points["epoch"]] == history["epoch"].tolist()
    test = json.loads((run_dir / "metrics.json").read_text())["test"]
    for name in ("loss", "accuracy", "macro_f1"):
        ((_, value),) = points[f"test/{name}"]
        assert value == test[name]
    assert len({step for step, _ in points["lr"]}) == len(points["lr"])


def test_each_has_all_of_an_interrupted_and_resumed_sweep_once(command, tmp_path):
    """By MLflow's client, W&B's protocol and pandas: one of two jobs was killed, many steps after its checkpoint."""
    env = own_parts(tmp_path)
    sweep = [*RUN, "seed=1,2", "trainer.max_epochs=3", "logger=[csv,mlflow,wandb]", "trainer.log_every_n_steps=7"]
    stop = "+callbacks.stop={_target_: parts.Stop, step: '${eval_step:${seed}}'}".replace(
        "'${eval_step:${seed}}'", "45"
    )
    done = command("-m", *sweep, stop, "hydra.sweep.dir=sweep", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout.count("FAILED"), "killed by SIGKILL" in done.stdout) == (1, 1, True), done
    assert left_of(tmp_path / "home") == []
    done = command("--resume-sweep", "sweep", "--allow", "parts", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    for spoken in (done.stdout, done.stderr, *(log.read_text() for log in tmp_path.glob("sweep/*/run.log"))):
        assert not re.search(r"wandb:|mlflow\.|alembic|warning", spoken, re.IGNORECASE), spoken
    in_mlflow = runs_of_mlflow(tmp_path)
    assert in_mlflow.pop("experiment") == "fmx"
    assert {*in_mlflow} == {"sweep/0", "sweep/1"}
    for number in (0, 1):
        run_dir = tmp_path / "sweep" / str(number)
        one, other = in_mlflow[f"sweep/{number}"], run_of_wandb(run_dir)
        assert (one["status"], one["tags"]["sweep"]) == ("FINISHED", "sweep")
        assert (other["name"], other["group"], other["exit"]) == (f"sweep/{number}", "sweep", 0)
        hparams = yaml.safe_load((run_dir / "csv/hparams.yaml").read_text())
        for params in (one["params"], other["config"], hparams):
            named = {"run": f"sweep/{number}", "seed": number + 1, "model.name": "mlp", "data.batch_size": 64}
            assert {key: str(params[key]) for key in named} == {key: str(value) for key, value in named.items()}
            assert float(params["optim.lr"]) == 0.002
        assert_history(one["points"], run_dir)
        assert_history(other["points"], run_dir)
        rows = pd.read_csv(run_dir / "csv/metrics.csv")
        assert rows["val/loss"].dropna().tolist() == pytest.approx(pd.read_csv(run_dir / "history.csv")["val/loss"])
        assert rows["test/accuracy"].dropna().tolist() == [one["points"]["test/accuracy"][0][1]]
        assert one["artifacts"] == {f"figures/{name}.png" for name in FIGURES} | {"checkpoints/best.ckpt"}
        assert {Path(name).name.rpartition("_")[0].rstrip("_0123456789") for name in other["pictures"]} == FIGURES
        assert {*other["artifacts"]} == {"best.ckpt"}
        assert other["artifacts"]["best.ckpt"].samefile(run_dir / "checkpoints/best.ckpt")
        assert (run_dir / "csv" / hparams["checkpoint"]).samefile(run_dir / "checkpoints/best.ckpt")
        assert (run_dir / "csv" / hparams["figures/mistakes"]).is_file()
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {
        *("sweep", "outputs", "parts.py", "home", "sent"),
    }
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"mlflow.db", "mlartifacts", ".mlflow.lock"}
    assert not [path for path in (tmp_path / "home").rglob("*") if re.search("wandb|mlflow", str(path.name))]
    assert left_of(tmp_path / "home") == []


def test_a_stopped_run_goes_on_by_its_folder_alone_is_reproduced_and_extended(command, tmp_path):
    env = own_parts(tmp_path)
    run = [*RUN, "trainer.max_epochs=40", "logger=[mlflow,wandb]", "hydra.run.dir=run"]
    run += ["logger.mlflow.experiment_name=mine", "logger.mlflow.tags={team: vision}", "logger.mlflow.log_model=false"]
    run += ["logger.wandb.project=mine", "logger.wandb.name=called", "logger.wandb.group=ours"]
    first_row = (tmp_path / "run/history.csv", signal.SIGTERM)
    done = command(*run, cwd=tmp_path, env=env, send=first_row)
    assert done.returncode == 128 + signal.SIGTERM, done.stdout + done.stderr
    assert left_of(tmp_path / "home") == []
    assert runs_of_mlflow(tmp_path)["run"]["status"] == "KILLED"
    identity = run_of_wandb(tmp_path / "run")["id"]
    done = command("resume=run", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    before = runs_of_mlflow(tmp_path)["run"]
    assert (before["status"], before["tags"]["team"]) == ("FINISHED", "vision")
    assert before["artifacts"] == {f"figures/{name}.png" for name in FIGURES}
    assert_history(before["points"], tmp_path / "run")
    assert_history(run_of_wandb(tmp_path / "run")["points"], tmp_path / "run")
    other = run_of_wandb(tmp_path / "run")
    assert [other[key] for key in ("id", "project", "name", "group")] == [identity, "mine", "called", "ours"]
    done = command("run", "--dir", "again", module="reproduce", cwd=tmp_path, env=env)
    assert (done.returncode, "identical: " in done.stdout) == (0, True), done.stdout + done.stderr
    after = runs_of_mlflow(tmp_path)
    assert after.pop("experiment") == "mine"
    assert {*after} == {"run", "again"}
    assert after["run"] == before
    assert after["again"]["points"] == before["points"]
    done = command("extend=run", "trainer.max_epochs=41", "hydra.run.dir=longer", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    longer = runs_of_mlflow(tmp_path)["longer"]
    assert_history(longer["points"], tmp_path / "longer")
    assert len(longer["points"]["val/loss"]) == len(before["points"]["val/loss"]) + 1


def test_loggers_and_callbacks_of_ones_own(command, tmp_path):
    """They get the same; later commands make none of them, so these need no --allow; one that fails costs no run."""
    env = own_parts(tmp_path)
    own = [f"+logger.{name.lower()}={{_target_: parts.{name}, folder: '${{run_dir}}'}}" for name in ("Own", "Comet")]
    own += ["+logger.lost={_target_: parts.Lines, folder: '${run_dir}', fails: true}"]
    own += ["+callbacks.seen={_target_: parts.Seen, folder: '${run_dir}'}"]
    done = command(*RUN, "trainer.max_epochs=2", "logger=none", *own, "hydra.run.dir=run", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Lines gets no pictures and no checkpoint: its class has no log_image" in done.stdout
    assert "Lines failed at the end of the run, which is completed without it (ConnectionError: the" in done.stdout
    run = tmp_path / "run"
    record, metrics = (json.loads((run / name).read_text()) for name in ("run.json", "metrics.json"))
    assert record["status"] == "completed"
    for name in ("Own", "Comet"):
        said = [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
        (params,) = [value for kind, value in said if kind == "params"]
        assert (params["run"], params["optim.lr"], params["model.net.hidden_sizes"]) == ("run", 0.002, "[16]")
        rows = [values for kind, value in said if kind == "metrics" for values in value[1:]]
        assert len([row for row in rows if "val/loss" in row]) == 2
        assert [row["test/accuracy"] for row in rows if "test/accuracy" in row] == [metrics["test"]["accuracy"]]
        assert [row["test/mine"] for row in rows if "test/mine" in row] == [7.0]
        assert {value[0] for kind, value in said if kind == "image"} == FIGURES
        assert [value for kind, value in said if kind == "artifact"] == [
            {"Own": "best.ckpt", "Comet": ["best", "best.ckpt"]}[name]
        ]
        assert said[-1] == ["end", "success"]
    steps, accuracy = record["best"]["step"], metrics["test"]["accuracy"]
    assert (run / "hooks.txt").read_text().splitlines() == [
        f"start {steps} 3", "batch 250 10", "batch 110 10", f"epoch {accuracy}", "end",
    ]  # fmt: skip

    (tmp_path / "parts.py").unlink()  # nobody has this code any more
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    for verb, arguments in {"evaluate": ["run"], "predict": ["run", "image.png"], "export": ["run"]}.items():
        done = command(*arguments, module=verb, cwd=tmp_path)
        assert done.returncode == 0, (verb, done.stdout + done.stderr)
    refused = command("run", module="reproduce", cwd=tmp_path)
    assert (refused.returncode, "--allow parts" in refused.stderr) == (1, True)

    shutil.copytree(run, tmp_path / "edited")
    metrics["test"]["accuracy"] -= 0.25
    (tmp_path / "edited/metrics.json").write_text(json.dumps(metrics))
    done = command("edited", module="evaluate", cwd=tmp_path)
    assert (done.returncode, "differs from metrics.json by up to 0.25 (test/accuracy)" in done.stdout) == (1, True)
    done = command("edited", "run", module="evaluate", cwd=tmp_path)
    assert (done.returncode, "edited: differs from metrics.json by up to 0.25" in done.stdout) == (1, True)


def test_a_second_run_in_one_process_is_as_quiet_as_the_first(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    said = []
    for number in (1, 2):
        run = fmx.train(*RUN, "trainer=smoke", "logger=[mlflow,wandb]", f"hydra.run.dir=run{number}")
        assert run_of_wandb(run.path)["name"] == f"run{number}"
        said.append([re.sub(r"run\d", "run", line) for line in "".join(capfd.readouterr()).splitlines()])
    assert said[0] == said[1]
    assert len(said[0]) < 10
    assert {name for name in os.environ if before.get(name) != os.environ[name]} <= {"NO_ALBUMENTATIONS_UPDATE"}


@pytest.mark.parametrize(("name", "logger"), [("mlflow", "MLFlowLogger"), ("wandb", "WandbLogger")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(name, logger, monkeypatch):
    monkeypatch.setattr("fmx.training.loggers.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"logger.{name} needs {name}: pip install 'fmx\[{name}\]'"):
        check_loggers({name: {"_target_": f"pytorch_lightning.loggers.{logger}"}})


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["logger=wandb", "+logger.wandb.settings.consol=off"], "logger.wandb.settings: W&B refuses them"),
        (["logger=wandb", "+logger.wandb.projekt=x"], "W&B takes no 'projekt'; did you mean 'project'?"),
        (["logger=mlflow", "logger.mlflow.tracking_uri=http://127.0.0.1:9"], "logger.mlflow: pytorch_lightning"),
    ],
)
def test_a_wrong_key_or_a_server_that_is_not_there_is_one_line_before_data_is_read(command, tmp_path, typed, said):
    env = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = command(*RUN, *typed, "hydra.run.dir=run", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
