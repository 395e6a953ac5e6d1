"""A setting is obeyed or refused: what is typed, what is empty, and whose file of a name is read."""

import json
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("no_figures")

CONF = Path(__file__).parents[1] / "conf"
SHORT = ["data=digits", "model=mlp", "trainer=smoke", "trainer.max_epochs=1"]

REFUSED = {
    # words that only a multirun obeys, and those that none obeys
    "hydra.launcher.workers=3": ["hydra.launcher.workers=3 is for a multirun", "-m data=digits"],
    "hydra.sweep.dir=abc": ["hydra.sweep.dir=abc is for a multirun"],
    "hydra.sweep.subdir=x": ["hydra.sweep.subdir=x is for a multirun"],
    "sweep.keep_checkpoints=1": ["sweep.keep_checkpoints=1 is for a multirun"],
    "hydra.sweeper=search": ["hydra.sweeper is a group", "hydra/sweeper=search"],
    "hydra.launcher=slurm": ["hydra.launcher is a group", "hydra/launcher=slurm"],
    "-m hydra.sweeper=search": ["hydra.sweeper is a group", "hydra/sweeper=search"],
    "-m hydra.run.dir=abc seed=1,2": ["hydra.run.dir=abc is for a single run", "hydra.sweep.dir=DIR"],
    "hydra.output_subdir=null": ["hydra.output_subdir cannot be changed", ".hydra"],
    "optim/lr=0.1": ["optim/lr is no group", "did you mean optim.lr=0.1?"],
    # what another value makes meaningless
    "+trainer.min_epochs=5": ["trainer.min_epochs=5 would be without effect", "trainer.max_epochs=1 ends before"],
    "+trainer.profiler=simple": ["trainer.profiler=simple would print to nowhere", "profilers.SimpleProfiler,dirpath:"],
    "data.split=tail data.split_seed=3": [
        "data.split_seed=3 would be without effect",
        "data.split=tail takes the last",
    ],
    "data.validation=test data.split_seed=3": ["data.split_seed=3 would be without effect", "draws no images"],
    "-m data.validation=none data.split_seed=3,4": ["would be without effect", "draws no images"],
    # what Hydra cannot read
    "+vars.x=e=1": ["quote a text twice", """'+vars.x="e=1"'"""],
    "+vars.x=(": ["quote a text twice", """'+vars.x="("'"""],
    "+vars.x=ü": ["quote a text twice", """'+vars.x="ü"'"""],
    # empty values
    "hydra.run.dir=": ["hydra.run.dir= has no value", "shell variable"],
    "hydra.run.dir=''": ["hydra.run.dir is empty"],
    "data.root=": ["data.root= has no value"],
    "data.root=''": ["data.root must be a folder", "got ''"],
    "resume=": ["resume= has no value"],
    "model=": ["model= has no value"],
    "seed=": ["seed= has no value"],
    "+vars.x=": ["+vars.x= has no value"],
    "--config-dir=": ["--config-dir= has no value"],
    "-m hydra.sweep.dir=": ["hydra.sweep.dir= has no value"],
    "": ["an argument is empty"],
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_has_no_effect_is_refused(command, tmp_path, line):
    done = command(*SHORT, *line.split(" "), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert [part for part in REFUSED[line] if part not in done.stderr] == [], done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["", " "])
def test_an_empty_root_of_the_environment_is_no_root(command, tmp_path, root):
    done = command("data=fashion_mnist", "model=mlp", cwd=tmp_path, env={"FMX_DATA_ROOT": root})
    assert done.returncode == 2, done.stdout + done.stderr
    assert "data.root must be a folder" in done.stderr
    assert "FMX_DATA_ROOT" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("data", ["digits", "--root", ""]),
        ("data", ["digits", "--root="]),
        ("report", [""]),
        ("evaluate", [""]),
        ("compare", ["a", ""]),
        ("export", ["", "--out", "x"]),
        ("reproduce", [""]),
    ],
)
def test_an_empty_argument_of_a_verb_is_not_the_current_folder(command, tmp_path, verb, arguments):
    done = command(*arguments, module=verb, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "shell variable" in done.stderr


def test_names_and_paths_stay_text(command, tmp_path):
    """Folders and members that are named after dates and numbers."""
    (tmp_path / "my/experiment").mkdir(parents=True)
    (tmp_path / "my/experiment/2024_01.yaml").write_text("# @package _global_\nseed: 7\n")
    typed = ["hydra.run.dir=2024_01_15", "data.root=2026", "model.name=1_0", "experiment=2024_01"]
    done = command(*SHORT, "--config-dir", "my", *typed, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    config = yaml.safe_load((tmp_path / "2024_01_15/.hydra/resolved.yaml").read_text())
    assert (config["data"]["root"], config["model"]["name"], config["seed"]) == ("2026", "1_0", 7)
    dry = command(*SHORT, "hydra.run.dir=jö r=g(1)", "--dry-run", cwd=tmp_path)
    assert str(tmp_path / "jö r=g(1)") in dry.stdout, dry.stderr
    again = command("resume=2024_01_15", cwd=tmp_path)
    assert "is complete" in again.stderr, again.stderr
    jobs = ["-m", "data.root=007,1e3", "hydra.sweep.dir=2024_02", "hydra/launcher=local", "--dry-run"]
    swept = command(*SHORT, *jobs, cwd=tmp_path)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "2024_02" in swept.stdout
    assert "007" in swept.stdout
    assert "1e3" in swept.stdout


def test_the_users_own_file_goes_before_that_of_fmx(command, tmp_path):
    written = {
        "model/mlp.yaml": "name: mlp\nnet: {_target_: fmx.models.mlp.MLP, in_channels: 1, image_size: 28, "
        "num_classes: 10, hidden_sizes: [7]}\n",
        "optim/adamw.yaml": "_target_: torch.optim.AdamW\n_partial_: true\nlr: 0.5\nweight_decay: 0.125\n",
        "_loader.yaml": (CONF / "_loader.yaml").read_text().replace("split_seed: 0", "split_seed: 3"),
        "model/lenet.yaml": "name: lenet\nnet: {_target_: builtins.dict}\n",
    }
    for name, text in written.items():
        (tmp_path / "my" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my" / name).write_text(text)
    done = command(*SHORT, "--config-dir", "my", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["params"] == 784 * 7 + 7 + 7 * 10 + 10
    config = yaml.safe_load((tmp_path / "run/.hydra/resolved.yaml").read_text())
    assert (config["optim"]["lr"], config["data"]["split_seed"]) == (0.5, 3)
    for name in ("model/mlp", "optim/adamw", "_loader"):
        assert f"my/{name}.yaml is used in place of fmx's own {name}\n" in done.stderr
    assert "lenet" not in done.stderr
    by_path = command(*SHORT, f"hydra.searchpath=['file://{tmp_path}/my']", "--cfg", "job", cwd=tmp_path)
    assert "lr: 0.5" in by_path.stdout
    looked = command("digits", "--config-dir", "my", module="data", cwd=tmp_path)
    assert looked.returncode == 0, looked.stdout + looked.stderr
    jobs = ["--config-dir", "my", "-m", "seed=1,2", "hydra/launcher=local", "--dry-run"]
    swept = command(*SHORT, *jobs, cwd=tmp_path)
    assert swept.stderr.count("is used in place of fmx's own model/mlp") == 1
