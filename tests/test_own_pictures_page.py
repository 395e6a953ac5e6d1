"""Every line of docs/own_images.md's table is typed, in a folder with files in the formats that it names."""

import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_files

PAGE = (Path(__file__).resolve().parents[1] / "docs/own_images.md").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("| You have, or want | Type |") :].partition("\n\n")[0]
ROWS = [line.strip("|").split(" | ") for line in TABLE.splitlines()[2:]]
TYPED = {task.strip(): code[1] for task, cell in ROWS if (code := re.fullmatch(r"`(.+)` *", cell))}
SHORT = ["model=mlp", "model.net.hidden_sizes=[16]", "trainer=smoke", "logger=none", "data.num_workers=0"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    for root, parts in (("pictures", ["train", "test"]), ("with_val", ["train", "valid", "test"])):
        for part in parts:
            for label, kind in enumerate(["boots", "sandals"]):
                (folder / root / part / kind).mkdir(parents=True)
                for number in range(24):
                    noise = np.random.default_rng([number, label, len(part)]).integers(0, 99, (30, 40, 3))
                    image = Image.fromarray((noise + 120 * label).astype(np.uint8))
                    image.save(folder / root / part / kind / f"{number}.png")
    (folder / "sets").mkdir()
    data_files.usps(folder / "sets")
    data_files.emnist_letters(folder / "sets")
    data_files.keras(folder / "digits.npz")
    data_files.medmnist(folder / "medmnist.npz")
    (folder / "arrays").mkdir()
    arrays = np.load(folder / "digits.npz")
    for name, array in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", array)
    np.savez(folder / "first.npz", images=arrays["x_train"], labels=arrays["y_train"])
    np.savez(folder / "second.npz", images=arrays["x_test"], labels=arrays["y_test"])
    data_files.hub(folder / "hub")
    for part in ("train", "test"):
        data_files.frame(part).to_csv(folder / f"{part}.csv", index=False)
    for block in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        path = folder / block[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block[1], encoding="utf-8")
    return folder


def test_the_page_has_a_row_for_each_thing_that_people_have():
    assert len(TYPED) > 25
    assert len(TYPED) >= len(ROWS) - 1


@pytest.mark.parametrize("task", TYPED)
def test_a_row_of_the_page(command, desk, tmp_path, task):
    words = shlex.split(TYPED[task])
    env = {"PYTHONPATH": os.fspath(desk)} if words[0] == "PYTHONPATH=." else {}
    assert words[1 if env else 0] == "fmx"
    words = words[2 if env else 1 :]
    if words[0] == "predict":
        words = [word.replace("outputs/latest", os.fspath(tmp_path / "run")) for word in words]
        command("data=image_folder", "data.root=pictures", *SHORT, f"hydra.run.dir={tmp_path}/run", cwd=desk)
    if words[0] in {"data", "predict"}:
        done = command(*words[1:], module=words[0], cwd=desk, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    where = f"hydra.sweep.dir={tmp_path}/sweep" if "-m" in words else f"hydra.run.dir={tmp_path}/run"
    done = command(*words, *SHORT, where, cwd=desk, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("run.json")]
    assert len(records) == (5 if "-m" in words else 1)
    assert {record["status"] for record in records} == {"completed"}
    mirrored = ("image_folder" in TYPED[task] or "data=mine" in TYPED[task]) and "augment=" not in TYPED[task]
    assert not mirrored or "RandomHorizontalFlip, drawn for each training image" in done.stdout, "a default is said"
