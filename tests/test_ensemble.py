"""`fmx ensemble`: the mean probability of runs, chosen on validation, opened by the other verbs; what is refused."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from scipy.special import softmax

import fmx
from fmx.errors import ConfigError, DataError
from fmx.reporting.ensemble import choose, make_ensemble
from fmx.reporting.intervals import mcnemar, newcombe
from fmx.reporting.outcomes import outcome
from fmx.runs.ensemble import open_members
from fmx.runs.run_dir import open_run
from run_directories import make_run, wrong_at

SHORT = ["augment=none", "logger=none", "trainer.max_epochs=1"]


def folders_of_pictures(home: Path) -> None:
    """Two classes of colour pictures, larger than the networks' images."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for label, name in enumerate(("dark", "bright")):
            (home / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(120, size=(20, 24, 3)) + 130 * label
                Image.fromarray(np.uint8(pixels)).save(home / part / name / f"{number}.png")


@pytest.fixture(scope="module")
def desk(command, tmp_path_factory):
    """Three runs on the digits, two of one folder in other sizes and modes, and an ensemble of the two best."""
    home = tmp_path_factory.mktemp("ensembles")
    for name, more in {
        "a": ["seed=1"], "b": ["seed=2", "data.normalize=unit"], "c": ["seed=3", "optim.lr=0.0001"]
    }.items():  # fmt: skip
        done = command("data=digits", "model=mlp", *SHORT, *more, f"hydra.run.dir={name}", cwd=home)
        assert done.returncode == 0, done.stdout + done.stderr
    folders_of_pictures(home / "pictures")
    for name, more in {"grey": ["data.in_channels=1", "data.image_size=12"], "colour": ["data.image_size=16"]}.items():
        done = command("data=image_folder", "data.root=pictures", "model=mlp", "data.batch_size=4", "data.validation=6",
                       *SHORT, *more, f"hydra.run.dir={name}", cwd=home)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    done = command("a", "b", "c", "--top", "2", "--out", "two", module="ensemble", cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    (home / "said.txt").write_text(done.stdout, encoding="utf-8")
    return home


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def probabilities(run):
    return softmax(np.load(run / "predictions.npz")["logits"].astype(float), axis=1)


def test_it_is_the_mean_of_those_that_are_best_on_validation(desk):
    accuracy = {name: read(desk / name / "metrics.json")["val"]["accuracy"] for name in "abc"}
    best = sorted(accuracy, key=lambda name: -accuracy[name])[:2]
    assert [run.path.name for run in open_members(desk / "two")] == best
    mean = np.mean([probabilities(desk / name) for name in best], axis=0)
    assert np.allclose(probabilities(desk / "two"), mean, atol=1e-6)
    labels = np.load(desk / "two/predictions.npz")["labels"]
    metrics, noted = read(desk / "two/metrics.json"), read(desk / "two/ensemble.json")
    right = mean.argmax(axis=1) == labels
    assert metrics["test"]["accuracy"] == pytest.approx(right.mean())
    assert metrics["test"]["loss"] == pytest.approx(-np.log(mean[np.arange(len(labels)), labels]).mean(), abs=1e-5)
    assert metrics["selected_on"] == "val"
    each = np.stack([probabilities(desk / name).argmax(axis=1) == labels for name in best])
    over_mean, over_best = noted["gains"]
    gain = right - each.mean(axis=0)
    assert over_mean["difference"] == pytest.approx(gain.mean())
    half = 1.96665 * gain.std(ddof=1) / len(labels) ** 0.5  # the 97.5 % point of Student's t with 359 degrees
    assert over_mean["interval"] == pytest.approx([gain.mean() - half, gain.mean() + half], abs=1e-4)
    cells = [int(cell.sum()) for cell in (each[0] & right, each[0] & ~right, ~each[0] & right, ~each[0] & ~right)]
    assert over_best["interval"] == pytest.approx([*newcombe(*cells)])
    assert over_best["p_value"] == pytest.approx(mcnemar(cells[1], cells[2]))
    said = (desk / "said.txt").read_text(encoding="utf-8")
    assert "the 2 of 3 runs with the best validation accuracy" in said
    assert f"{100 * gain.mean():+.2f} points over the mean of its members" in said
    assert f"best on validation, {best[0]}" in said
    assert said.splitlines()[-1] == "two"


def test_the_other_verbs_open_it(desk, command, tmp_path):
    home = Path(shutil.copytree(desk, tmp_path / "desk"))
    pixels = np.uint8(np.random.default_rng(1).integers(256, size=(28, 28)))
    Image.fromarray(pixels).save(home / "x.png")
    done = command("two", "--calibration", module="evaluate", cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert "identical to metrics.json, to the last digit" in done.stdout
    temperature = read(home / "two/calibration.json")["temperature"]
    rows = {}
    for name, options in {"plain": [], "calibrated": ["--calibrated"]}.items():
        done = command("two", "x.png", "--top", "10", "--csv", f"{name}.csv", *options, module="predict", cwd=home)
        assert done.returncode == 0, done.stderr
        with (home / f"{name}.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        rows[name] = {row[f"class_{rank}"]: float(row[f"probability_{rank}"]) for rank in range(1, 11)}
    members = [fmx.open_run(run.path).predict(home / "x.png").probabilities[0] for run in open_members(home / "two")]
    mean = np.mean(members, axis=0)
    assert np.allclose([rows["plain"][str(label)] for label in range(10)], mean, atol=1e-6)
    changed = mean ** (1 / temperature) / (mean ** (1 / temperature)).sum()
    assert np.allclose([rows["calibrated"][str(label)] for label in range(10)], changed, atol=1e-5)
    opened = fmx.open_run(home / "two")
    assert np.allclose(opened.predict(home / "x.png", calibrated=True).probabilities[0], changed, atol=1e-5)
    done = command("two", "--calibrated", "--out", "two.onnx", module="export", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "all 360 test images get the same class" in done.stdout
    (logits,) = onnxruntime.InferenceSession(home / "two.onnx").run(None, {"pixels": pixels[None, None]})
    assert np.allclose(softmax(logits.astype(float), axis=1)[0], changed, atol=1e-4)
    card = (home / "two.onnx.md").read_text(encoding="utf-8")
    assert "mean probability of 2 networks" in card
    assert "| trained by | `fmx ensemble a b c --top 2 --out two` |" in card
    done = command("a", "b", "c", "two", "--csv", "board.csv", module="report", cwd=home)
    assert done.returncode == 0, done.stderr
    with (home / "board.csv").open(encoding="utf-8") as file:
        models = {row["model"]: row for row in csv.DictReader(file)}
    (name,) = [model for model in models if model.startswith("ensemble of ")]
    assert float(models[name]["test_accuracy_mean"]) == read(home / "two/metrics.json")["test"]["accuracy"]
    done = command("a", "two", "--grid", "sides.png", module="compare", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "McNemar's exact test" in done.stdout
    assert (home / "sides.png").is_file() or "no image changed sides" in done.stdout
    for verb, words in {"reproduce": ["two"], "run": ["resume=two"]}.items():
        done = command(*words, module=verb, cwd=home)
        assert done.returncode, done.stdout
        assert "is an ensemble of 2 runs: name one of them, such as" in done.stderr
    done = command("data=digits", "model=mlp", "init=two", cwd=home)
    assert (done.returncode, done.stderr.count("it is an ensemble, so name one of its members")) == (1, 1)
    done = command("two", "x.png", "--checkpoint", "last", module="predict", cwd=home)
    assert "leave out --checkpoint" in done.stderr


def test_members_of_other_sizes_and_modes(desk, command):
    done = command("grey", "colour", "--out", "mixed", module="ensemble", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert "takes images of another size or mode than" in done.stdout
    mean = np.mean([probabilities(desk / name) for name in ("grey", "colour")], axis=0)
    assert np.allclose(probabilities(desk / "mixed"), mean, atol=1e-6)
    picture = "pictures/test/bright/0.png"
    done = command("mixed", picture, "--csv", "mixed.csv", module="predict", cwd=desk)
    assert done.returncode == 0, done.stderr
    with (desk / "mixed.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    each = [fmx.open_run(desk / name).predict(desk / picture) for name in ("grey", "colour")]
    expected = np.mean([one.probabilities[0] for one in each], axis=0)
    assert float(row["probability_1"]) == pytest.approx(expected.max(), abs=1e-6)
    assert row["class_1"] == each[0].class_names[expected.argmax()]
    done = command("mixed", "--out", "mixed.onnx", module="export", cwd=desk)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "take different images (1 x 12 x 12, 3 x 16 x 16)" in done.stderr
    assert not list(desk.glob("mixed.onnx*"))
    done = command("mixed", module="evaluate", cwd=desk)
    assert (done.returncode, done.stderr) == (0, "")
    assert "identical" in done.stdout


def test_what_does_not_fit_together_is_refused(desk, command, tmp_path):
    for words, what in [
        (["a", "colour"], "members need the same"),
        (["a"], "needs two finished runs or more, and there is one"),
        (["a", "a"], "needs two finished runs or more, and there is one"),
        (["a", "b", "--top", "5"], "--top 5 is more than there are: there are 2"),
        (["a", "b", "--out", "two"], "two exists; name another folder with --out"),
        (["a", "two"], "needs two finished runs"),
        (["a", "b", "--top", "1"], "is no whole number from 2"),
    ]:
        before = sorted(desk.rglob("*"))
        done = command(*words, module="ensemble", cwd=desk)
        assert done.returncode in {1, 2}, words
        assert what in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
        assert sorted(desk.rglob("*")) == before
    make_run(tmp_path / "1", seed=1)
    make_run(tmp_path / "2", seed=2, names=["cat", "dog", "elk"], fingerprint="e" * 32)
    make_run(tmp_path / "3", seed=3, indices=range(5, 35))
    make_run(tmp_path / "4", seed=4, said=wrong_at([1]), selected_on="test", validation="test")
    make_run(tmp_path / "5", seed=5, val=None)
    runs = [outcome(open_run(tmp_path / str(number)), str(number)) for number in range(1, 6)]
    with pytest.raises(DataError, match=r"has other classes than .*, such as elk instead of owl"):
        make_ensemble([str(tmp_path / "1"), str(tmp_path / "2")], top=None)
    with pytest.raises(ConfigError, match="4 was validated on the test set"):
        choose([runs[0], runs[3]], top=2)
    with pytest.raises(ConfigError, match="5 has no validation accuracy"):
        choose([runs[0], runs[4]], top=2)


def test_a_member_that_is_gone_or_changed_is_said(desk, command, tmp_path):
    home = Path(shutil.copytree(desk, tmp_path / "moved"))
    Image.new("L", (28, 28)).save(home / "x.png")
    first = open_members(home / "two")[0].path
    assert first.parent == home  # the directories moved together
    for file in sorted((first / "checkpoints").glob("*.ckpt")):
        with file.open("ab") as end:
            end.write(b"x")
    for verb, words in {"predict": ["x.png"], "evaluate": [], "export": []}.items():
        done = command("two", *words, module=verb, cwd=home)
        assert done.returncode, done.stdout
        assert f"was made with other weights of {desk / first.name}" in done.stderr, done.stderr
    for file in sorted((first / "checkpoints").glob("*.ckpt")):
        file.unlink()
    with pytest.raises(DataError, match="has lost the weights of a member"):
        open_members(home / "two")
    noted = read(home / "two/ensemble.json")
    for change in ([], [noted["members"][0]], [{**noted["members"][0], "checkpoint": "../x"}] * 2, "x", [1, 2]):
        (home / "two/ensemble.json").write_text(json.dumps(noted | {"members": change}), encoding="utf-8")
        with pytest.raises(DataError, match="is not what fmx ensemble writes"):
            open_members(home / "two")
    gone = [{**member, "path": "/nowhere\x1b]0;x", "relative": "../nowhere"} for member in noted["members"]]
    (home / "two/ensemble.json").write_text(json.dumps({"members": gone}), encoding="utf-8")
    done = command("two", "x.png", module="predict", cwd=home)
    assert re.search(r"has lost a member, /nowhere\\x1b\]0;x: put it back, or fmx ensemble makes", done.stderr)
    again = [{**member, "path": str(home / "two"), "relative": "."} for member in noted["members"]]
    (home / "two/ensemble.json").write_text(json.dumps({"members": again}), encoding="utf-8")
    with pytest.raises(DataError, match="names another ensemble as a member"):
        open_members(home / "two")
