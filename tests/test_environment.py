"""What comes from the environment is stored as the reference that was written; what it said lies in no file."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

SECRET, LISTED = "hunter2-in-a-run", "hunter2-in-a-list"
SMALL = ["data=digits", "model=mlp", "trainer=smoke"]
TAKEN = [
    "+vars.token='${oc.env:TOKEN}'",
    "+vars.header='Bearer ${vars.token}'",
    '+vars.width="${oc.decode:${oc.env:WIDTH}}"',
    '+vars.list="${oc.decode:${oc.env:LIST}}"',
    '+vars.same="${vars.list}"',
    '+vars.unset="${oc.env:SURELY_UNSET,a default}"',
    "model.net.hidden_sizes=['${vars.width}']",
]
SAID = {"TOKEN": SECRET, "WIDTH": "12", "LIST": f"[{LISTED},3]"}


def files_that_tell(folder: Path) -> list[str]:
    secrets = [text.encode() for text in (SECRET, LISTED)]
    read = [path for path in folder.rglob("*") if path.is_file()]
    assert read
    return [str(path) for path in read if any(secret in path.read_bytes() for secret in secrets)]


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment")
    done = command(*SMALL, *TAKEN, "hydra.run.dir=run", cwd=folder, env=SAID)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def test_no_file_of_a_run_or_of_a_verb_says_what_a_variable_says(command, run):
    stored = yaml.safe_load((run / ".hydra/resolved.yaml").read_text())["vars"]
    assert stored["token"].startswith("${oc.env:TOKEN} (digest ")
    assert stored["header"].startswith("Bearer ${vars.token} (digest ")
    assert stored["unset"] == "a default"
    assert any((run / "tensorboard").iterdir())
    for module, *arguments in (
        ["evaluate", "run"],
        ["report", "run", "--html", "page.html"],
        ["compare", "run", "run"],
        ["export", "run", "--format", "state_dict", "--out", "weights.pt"],
        ["reproduce", "run", "--dir", "again"],
    ):
        done = command(*arguments, module=module, cwd=run.parent, env=SAID)
        assert done.returncode == 0, (module, done.stdout + done.stderr)
        assert SECRET not in done.stdout + done.stderr
    assert not files_that_tell(run.parent)


def test_a_run_says_which_variable_it_needs(command, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    without = command(
        "run", module="evaluate", cwd=tmp_path, env={"WIDTH": "12"}
    )  # the token is no part of the network
    assert without.returncode == 0, without.stdout + without.stderr
    for module in ("evaluate", "export", "reproduce"):
        missing = command("run", module=module, cwd=tmp_path)
        assert missing.returncode == 1
        assert (
            "comes from the environment variable WIDTH, which is not set: set WIDTH to its earlier value"
            in missing.stderr
        )
        other = command("run", module=module, cwd=tmp_path, env=SAID | {"WIDTH": "13"})
        assert other.returncode == 1
        assert "has another value now: set WIDTH to its earlier value" in other.stderr
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    whole = [*SMALL, *TAKEN, "resume=run"]
    for typed in (["resume=run"], whole):
        other = command(*typed, cwd=tmp_path, env=SAID | {"TOKEN": "another"})
        assert other.returncode in {1, 2}
        assert "vars.token comes from the environment (${oc.env:TOKEN}), which has another value" in other.stderr
        missing = command(*typed, cwd=tmp_path, env={key: text for key, text in SAID.items() if key != "TOKEN"})
        assert missing.returncode in {1, 2}
        assert "variable TOKEN, which is not set" in missing.stderr
    went_on = command("resume=run", cwd=tmp_path, env=SAID)
    assert went_on.returncode == 0, went_on.stdout + went_on.stderr
    assert yaml.safe_load((copy / ".hydra/resolved.yaml").read_text())["vars"]["token"].startswith("${oc.env:TOKEN} (")
    assert not files_that_tell(tmp_path)


def test_no_file_of_a_sweep_or_a_search_says_it(command, tmp_path):
    (tmp_path / "failing.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self, token, num_classes):\n"
        "        super().__init__()\n        self.token, self.layer = token, torch.nn.Linear(784, num_classes)\n\n"
        "    def forward(self, images):\n        if self.training and images.is_cpu and len(images) > 2:\n"
        "            raise RuntimeError(f'no access for {self.token}')\n        return self.layer(images.flatten(1))\n"
    )
    env = SAID | {"PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))}
    for name, extra in (
        ("sweep", ["seed=1,2"]),
        ("search", ["hydra/sweeper=search", "hydra.sweeper.n_trials=2", "optim.lr=interval(0.001,0.01)"]),
    ):
        done = command("-m", *SMALL, *TAKEN, *extra, f"hydra.sweep.dir={name}", cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not files_that_tell(tmp_path / name)
    shutil.rmtree(tmp_path / "sweep/1")
    for changed in ({"TOKEN": "another"}, {"LIST": "[1]"}):
        refused = command("--resume-sweep", "sweep", cwd=tmp_path, env=env | changed)
        assert refused.returncode == 1
        assert f"has another value now: set {next(iter(changed))} to its earlier value" in refused.stderr
        assert not (tmp_path / "sweep/1").exists()
    again = command("--resume-sweep", "sweep", cwd=tmp_path, env=env)
    assert again.returncode == 0, again.stdout + again.stderr
    assert not files_that_tell(tmp_path / "sweep")
    broken = ["model.net={_target_:failing.Net,token:'${oc.env:TOKEN}',num_classes:10}", "hydra.run.dir=broken"]
    failed = command("data=digits", "trainer=smoke", "~model.net", f"+{broken[0]}", broken[1], cwd=tmp_path, env=env)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "no access for ${oc.env:TOKEN}" in json.loads((tmp_path / "broken/run.json").read_text())["error"]
    assert not files_that_tell(tmp_path / "broken")


def test_runs_whose_variables_said_something_else_are_not_the_same(command, tmp_path):
    rate = ["optim.lr='${oc.decode:${oc.env:RATE}}'", "logger=none"]
    for value in ("0.01", "0.02"):
        done = command(*SMALL, *rate, f"hydra.run.dir=runs/{value}", cwd=tmp_path, env={"RATE": value})
        assert done.returncode == 0, done.stdout + done.stderr
    done = command("runs", "--csv", "table.csv", module="report", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 3


def test_a_stored_reference_of_somebody_elses_run_is_not_looked_up(command, run, tmp_path):
    """Nobody who does not know what a variable says gets a run to use it."""
    copy = shutil.copytree(run, tmp_path / "run")
    resolved = copy / ".hydra/resolved.yaml"
    text = resolved.read_text()
    for reference in ("${oc.env:HOME}", "${oc.decode:${oc.env:HOME}}", "${oc.create:x}", "${oc.env:HOME}${vars.same}"):
        resolved.write_text(text.replace("name: mlp", f"name: '{reference} (digest 0123456789abcdef)'"))
        done = command("run", module="evaluate", cwd=tmp_path, env=SAID)
        assert done.returncode == 1
        assert "model.name comes from the environment" in done.stderr
        assert os.environ["HOME"] not in done.stderr.replace(str(tmp_path), "")
