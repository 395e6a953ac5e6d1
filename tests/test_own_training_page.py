"""Every line of the tables of docs/own_training.md is typed, in a folder with the runs that the page names."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

PAGE = (Path(__file__).resolve().parents[1] / "docs/own_training.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| `(.+)` *\|$", PAGE, re.MULTILINE)
TABLE_LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| You want")]
SHORT = ["trainer=smoke", "augment=none"]
VERBS = {
    "evaluate",
    "predict",
    "export",
    "report",
    "compare",
    "reproduce",
    "tensorboard",
    "ensemble",
    "explain",
    "lr-find",
}


@pytest.fixture(scope="module")
def desk(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    for name, model in (("first", "lenet"), ("grey", "mlp")):
        done = command("data=digits", f"model={model}", *SHORT, f"hydra.run.dir=outputs/runs/{name}", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    Image.effect_noise((40, 30), 90).save(folder / "picture.png")
    for block in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        path = folder / block[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block[1], encoding="utf-8")
    return folder


def test_each_row_is_found_and_no_two_are_alike():
    assert len(ROWS) == len(TABLE_LINES) > 35
    assert len({task for task, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize("task", [task for task, _ in ROWS])
def test_a_row_of_the_page(command, desk, tmp_path, task):
    words = shlex.split(dict(ROWS)[task])
    shutil.copytree(desk, tmp_path, dirs_exist_ok=True, symlinks=True)
    env = {"PYTHONPATH": os.fspath(tmp_path)} if words[0] == "PYTHONPATH=." else {}
    words = words[1:] if env else words
    assert words.pop(0) == "fmx"
    verb = words.pop(0) if words[0] in VERBS else "run"
    if verb == "run":
        words += [each for each in SHORT if each.partition("=")[0] not in {word.partition("=")[0] for word in words}]
    before = {*tmp_path.rglob("run.json")}
    done = command(*words, module=verb, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    new = {*tmp_path.rglob("run.json")} - before
    assert {json.loads(each.read_text())["status"] for each in new} == (
        {"completed"} if verb in {"run", "ensemble"} else set()
    )
