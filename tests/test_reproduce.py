"""reproduce: a fresh run is identical; an edited key, another pixel and another version are named."""

import json
import math
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fmx.commands.reproduce import _metric_differences as figures_that_differ

pytestmark = pytest.mark.usefixtures("no_figures", "cold_second_run")


@pytest.fixture
def copied_run(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def test_a_fresh_run_is_identical_and_another_version_is_named(command, copied_run, tmp_path):
    record = json.loads((copied_run / "run.json").read_text())
    record["versions"]["numpy"] = "0.0.1"
    (copied_run / "run.json").write_text(json.dumps(record))
    done = command("run", "--dir", "again", module="reproduce", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical: " in done.stdout
    assert re.search(r"differs +versions numpy: was 0\.0\.1, is \d", done.stdout)
    assert "DIFFERENT" not in done.stdout
    again = json.loads((tmp_path / "again" / "run.json").read_text())
    assert again["status"] == "completed"
    assert again["config_fingerprint"] != ""
    assert str(copied_run) not in (tmp_path / "again" / ".hydra" / "resolved.yaml").read_text()


def test_a_fresh_run_is_shown_as_the_same_configuration(command, copied_run, tmp_path):
    (tmp_path / "runs").mkdir()
    shutil.move(copied_run, tmp_path / "runs/one")
    done = command("runs/one", "--dir", "runs/two", module="reproduce", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (json.loads((tmp_path / f"runs/{name}/run.json").read_text()) for name in ("one", "two"))
    assert one["overrides"] == two["overrides"] != []
    compared = command("runs/one", "runs/two", module="compare", cwd=tmp_path)
    assert "lenet on digits" in compared.stdout, compared.stdout + compared.stderr
    assert "augment" not in compared.stdout
    table = command("runs", "--csv", "table.csv", module="report", cwd=tmp_path)
    assert table.returncode == 0, table.stdout + table.stderr
    assert "runs/one,repeated" in (tmp_path / "table.csv").read_text()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core")
def test_as_many_threads_as_then(command, copied_run, tmp_path):
    assert json.loads((copied_run / "run.json").read_text())["device"]["threads"] == 1
    done = command("run", "--dir", "again", module="reproduce", cwd=tmp_path, env={"OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "again/run.json").read_text())["device"]["threads"] == 1


def test_an_edited_key_is_named_with_what_it_changed(command, copied_run, tmp_path):
    path = copied_run / ".hydra" / "resolved.yaml"
    text = path.read_text()
    assert "lr: 0.002" in text
    path.write_text(text.replace("lr: 0.002", "lr: 0.004"))
    done = command("run", "--dir", "again", module="reproduce", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "optim.lr was 0.002, is 0.004" in done.stdout
    assert re.search(r"DIFFERENT history\.csv: from row 1 \(epoch 1\) on: .*train/loss by up to", done.stdout)
    assert re.search(r"DIFFERENT best\.ckpt: \d+ of \d+ weights, by up to", done.stdout)
    assert "Traceback" not in done.stderr


def test_another_pixel_is_named(command, tmp_path):
    rng = np.random.default_rng(0)
    header = ",".join(["label", *(f"pixel{number}" for number in range(1, 785))])
    for part in ("train", "test"):
        rows = np.column_stack([np.arange(60) % 10, rng.integers(0, 256, (60, 784))])
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        (tmp_path / f"fashion-mnist_{part}.csv").write_text("\n".join(lines) + "\n")
    first = command(
        "data=fashion_mnist_csv", "data.root=.", "data.validation=20", "model=mlp", "trainer.max_epochs=1",
        "data.batch_size=8", "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    train = tmp_path / "fashion-mnist_train.csv"
    lines = train.read_text().splitlines()
    label, pixel, rest = lines[1].split(",", 2)
    lines[1] = f"{label},{(int(pixel) + 100) % 256},{rest}"
    train.write_text("\n".join(lines) + "\n")
    done = command("run", "--dir", "again", module="reproduce", cwd=tmp_path)
    assert re.search(r"differs +data fingerprint: was [0-9a-f]{32}, is [0-9a-f]{32}", done.stdout), done.stdout


def test_a_fresh_run_on_files_is_shown_as_the_same_configuration(command, tmp_path):
    """Whose folders follow from data.root, which is written from the working directory on."""
    for number, (part, label) in enumerate([(p, c) for p in ("train", "test") for c in "abab" * 3]):
        (tmp_path / "set" / part / label).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.full((8, 8), 20 * number % 256, np.uint8))
        picture.save(tmp_path / "set" / part / label / f"{number}.png")
    run = ["data=image_folder", "data.root=set", "data.image_size=8", "data.num_workers=0", "model=mlp"]
    first = command(*run, "data.validation=2", "trainer=smoke", "hydra.run.dir=runs/one", cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    done = command("runs/one", module="reproduce", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = command("runs", "--csv", "table.csv", module="report", cwd=tmp_path)
    assert table.returncode == 0, table.stdout + table.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert "runs/one,repeated" in (tmp_path / "table.csv").read_text()


def test_a_figure_that_is_not_a_number_is_the_same_twice():
    nan, one = ({"val": None, "test": {"loss": value}} for value in (math.nan, 1.0))
    runs = [SimpleNamespace(metrics=metrics) for metrics in (nan, one)]
    assert list(figures_that_differ(runs[0], runs[0])) == []
    assert list(figures_that_differ(*runs)) == ["metrics.json: test loss nan is 1 now"]


def test_refusals(command, copied_run, tmp_path):
    assert command("nothing", module="reproduce", cwd=tmp_path).returncode == 1
    done = command("run", "--dir", "run", module="reproduce", cwd=tmp_path)
    assert (done.returncode, "exists" in done.stderr) == (2, True)
    path = copied_run / ".hydra" / "resolved.yaml"
    path.write_text(path.read_text().replace("_target_: fmx.models.lenet.LeNet", "_target_: os.system"))
    done = command("run", "--dir", "again", module="reproduce", cwd=tmp_path)
    assert done.returncode == 1
    assert "'os.system'" in done.stderr
    assert not (tmp_path / "again").exists()
