"""`fmx evaluate`: the figures of a run again, from its directory alone, and what it refuses."""

import csv
import hashlib
import json
import os
import pickle
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from fmx.data.digits import load_digits
from fmx.errors import DataError
from fmx.runs.run_dir import open_run
from fmx.runs.trusted_config import trusted_config

IDENTICAL = "identical to metrics.json, to the last digit"


def contents(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def edit_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def main(monkeypatch, *arguments):
    """The exit code of `fmx evaluate ARGUMENTS` in this process."""
    from fmx.commands import evaluate

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["fmx evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        evaluate.main()
    return ended.value.code


@pytest.fixture
def copied(digits_run, tmp_path):
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(digits_run, tmp_path / "copied"))


def test_figures_are_those_of_the_run_to_the_last_digit(digits_run, command, tmp_path):
    before = contents(digits_run)
    scored = command(str(digits_run), "--json", "scores.json", module="evaluate", cwd=tmp_path)
    assert (scored.returncode, scored.stderr) == (0, "")
    assert scored.stdout.splitlines()[-1] == IDENTICAL
    (evaluation,) = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    metrics = json.loads((digits_run / "metrics.json").read_text(encoding="utf-8"))
    assert evaluation["identical"] is True
    assert evaluation["notes"] == []
    assert evaluation["figures"] == {"val": metrics["val"], "test": metrics["test"]}
    assert f"{100 * metrics['test']['accuracy']:.2f} %" in scored.stdout
    assert contents(digits_run) == before


def test_several_runs_make_a_table_and_what_cannot_be_scored_is_named(digits_run, command, tmp_path):
    for name in ("a", "b", "failed", "killed", "nothing"):
        shutil.copytree(digits_run, tmp_path / "sweep" / name)
    edit_json(tmp_path / "sweep/failed/run.json", status="failed", error="no luck")
    edit_json(tmp_path / "sweep/killed/run.json", status="running", host=socket.gethostname(), pid=2**22 + 1)
    shutil.rmtree(tmp_path / "sweep/nothing/checkpoints")
    shown = command("sweep", "--csv", "scores.csv", "--checkpoint", "last", module="evaluate", cwd=tmp_path)
    assert shown.returncode == 1
    assert [line.split()[:4] for line in shown.stdout.splitlines()] == [
        ["run", "data", "checkpoint", "metrics"],
        ["sweep/a", "digits", "last.ckpt", "new"],
        ["sweep/b", "digits", "last.ckpt", "new"],
    ]
    failed, killed, nothing = shown.stderr.splitlines()
    assert "failed is not finished: its status is failed: no luck" in failed
    assert "killed is not finished: its status is interrupted" in killed
    assert "there is no checkpoint" in nothing
    assert "has none" in nothing
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["sweep/a", "sweep/b"]
    assert rows[0]["identical"] == ""
    assert 0.5 < float(rows[0]["test/accuracy"]) == float(rows[1]["test/accuracy"]) < 1


def test_a_folder_whose_name_looks_like_a_glob(digits_run, command, tmp_path):
    shutil.copytree(digits_run, tmp_path / "run[1]")
    shutil.copytree(digits_run, tmp_path / "run1")
    shutil.rmtree(tmp_path / "run1/checkpoints")
    scored = command("run[1]", module="evaluate", cwd=tmp_path)
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert scored.stdout.startswith("run[1]: digits")


def test_data_that_no_longer_fits_leaves_the_other_runs_their_table(digits_run, command, tmp_path):
    for name in ("a", "b", "c"):
        shutil.copytree(digits_run, tmp_path / name)
    for name, old, new in [
        ("b", "validation: 0.15", "validation: 99999"),
        ("c", "validation: 0.15", "validation: test"),
    ]:
        path = tmp_path / name / ".hydra" / "resolved.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    shown = command("a", "b", "c", "--csv", "scores.csv", module="evaluate", cwd=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.startswith("left out: b: data.validation=99999 leaves none of the 1,437 training images")
    a, c = shown.stdout.splitlines()[1:3]
    assert "†" not in a
    assert c.startswith("c ")
    assert "†" in c
    assert "† validated on the test set, which flatters" in shown.stdout
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        assert [row["validated_on_test"] for row in csv.DictReader(file)] == ["no", "yes"]
    other = command("a", "--set", "data.image_size=14", module="evaluate", cwd=tmp_path)
    assert other.returncode == 1
    assert "the changed data has data.image_size=14, but the run was trained with 28" in other.stderr


def test_changed_weights_and_changed_data_are_told(copied, command, tmp_path):
    path = copied / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    name = next(key for key in reversed(checkpoint["state_dict"]) if key.startswith("net.") and key.endswith("bias"))
    checkpoint["state_dict"][name][3] += 5
    torch.save(checkpoint, path)
    refused = command("copied", module="evaluate", cwd=tmp_path)
    assert refused.returncode == 1
    assert "best.ckpt is damaged" in refused.stderr
    (path.parent / "SHA256SUMS").unlink()  # as one who changes weights on purpose would
    edit_json(copied / "run.json", versions={"torch": "1.0", "nowhere": "2"})
    seed = "data.train.test_seed=1"
    scored = command("copied", "--set", seed, "--set", "data.split_seed=1", module="evaluate", cwd=tmp_path)
    assert (scored.returncode, scored.stderr) == (0, "")
    text = scored.stdout
    assert "differs from metrics.json by up to" in text
    assert "note: the data has changed since the run: its fingerprint is" in text
    assert "note: other images are held out" in text
    assert f"note: torch is {torch.__version__.partition('+')[0]}" in text
    assert "note: nowhere is missing, it was 2" in text
    scored = command("copied", module="evaluate", cwd=tmp_path)
    assert "of 360 test images get another class" in scored.stdout
    assert "fingerprint" not in scored.stdout


def write_csv(path, images, labels):
    pixels = images.flatten(1).tolist()
    lines = ["label," + ",".join(f"pixel{k + 1}" for k in range(len(pixels[0])))]
    lines += [",".join(map(str, [label, *row])) for label, row in zip(labels.tolist(), pixels, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_another_data_set_of_the_same_shape_needs_its_test_files_alone(digits_run, command, tmp_path):
    test = load_digits(part="test", num_test=360, test_seed=0, image_size=28)
    write_csv(tmp_path / "fashion-mnist_test.csv", test.images, test.labels)
    for label in range(10):
        (tmp_path / "test" / str(label)).mkdir(parents=True)
    for k, (image, label) in enumerate(zip(test.images, test.labels, strict=True)):
        Image.fromarray(image[0].numpy()).save(tmp_path / "test" / str(int(label)) / f"{k:03d}.png")
    own = json.loads((digits_run / "metrics.json").read_text(encoding="utf-8"))["test"]
    size = ["--set", "data.image_size=28", "--set", "data.in_channels=1", "--set", "data.num_workers=0"]
    notes = []
    for name, more in [("fashion_mnist_csv", []), ("image_folder", size)]:
        file = tmp_path / f"{name}.json"
        scored = command(
            str(digits_run), "--data", name, "--set", f"data.root={tmp_path}", *more, "--json", str(file),
            module="evaluate", cwd=tmp_path,
        )  # fmt: skip
        assert (scored.returncode, scored.stderr) == (0, "")
        assert f"the test set of {name}, 360 images" in scored.stdout
        (evaluation,) = json.loads(file.read_text(encoding="utf-8"))
        figures = evaluation["figures"]["test"]
        assert evaluation["figures"]["val"] is None
        assert evaluation["identical"] is None
        assert figures["accuracy"] == pytest.approx(own["accuracy"], abs=1e-7)
        assert figures["per_class"] == pytest.approx(own["per_class"], abs=1e-7)
        notes.append(evaluation["notes"])
    assert "calls its classes T-shirt/top" in notes[0][0]
    assert notes[1] == []


def test_refusals_say_what_would_be_right(copied, digits_run, tmp_path, monkeypatch, capsys):
    torch.save({"state_dict": {"net.other": torch.zeros(3)}}, tmp_path / "foreign.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Path("x")))
    (tmp_path / "there.json").write_text("mine", encoding="utf-8")
    group = tmp_path / "conf" / "data" / "tiny.yaml"
    group.parent.mkdir(parents=True)
    group.write_text("defaults: [digits, _self_]\nname: tiny\nimage_size: 8\n", encoding="utf-8")
    edit_json(copied / "run.json", best={"checkpoint": 5})
    digits = str(digits_run)
    for code, arguments, said in [
        (1, [tmp_path / "conf"], "holds no run directory"),
        (1, [tmp_path / "none*"], "holds no run directory"),
        (1, [copied], "does not say best.checkpoint as it should"),
        (1, [digits, "--checkpoint", tmp_path / "none.ckpt"], "has best, last"),
        (1, [digits, "--checkpoint", tmp_path / "foreign.ckpt"], "does not fit this model: it has no weights"),
        (1, [digits, "--checkpoint", tmp_path / "pickle.ckpt"], "cannot be read as a checkpoint"),
        (1, [digits, "--data", "tiny", "--config-dir", tmp_path / "conf"], "trained with 28: only data of the same"),
        (2, [digits, "--data", "fashion"], "did you mean 'fashion_mnist'?"),
        (2, [digits, "--config-dir", "."], "--config-dir is for --data NAME"),
        (2, [digits, "--set", "model.name=x"], "only data.KEY=VALUE can be set"),
        (2, [digits, "--set", "data.splitseed=2"], "did you mean 'split_seed'?"),
        (2, [digits, "--json", tmp_path / "there.json"], "exists; replace it with --force"),
        (2, [digits, "--csv", tmp_path / "nowhere" / "x.csv"], "there is no folder"),
    ]:
        assert main(monkeypatch, *arguments) == code, arguments
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.out == ""
        assert "Traceback" not in captured.err
    assert (tmp_path / "there.json").read_text(encoding="utf-8") == "mine"


HOSTILE = {
    "a function of Python": ("model.net", {"_target_": "os.system", "command": "touch PWNED"}),
    "by way of torch": ("model.net", {"_target_": "torch.os.system", "command": "touch PWNED"}),
    "by way of fmx": ("augment", {"_target_": "fmx.runs.record.subprocess.run", "args": ["touch", "PWNED"]}),
    "nested": ("data.train.image_size", {"_target_": "builtins.eval", "_args_": ["1"]}),
    "in a list": ("vars", {"a": [[{"_target_": "os.system"}]]}),
    "made by an interpolation": ("model.net", '${oc.create:{_target_:os.system,command:"touch PWNED"}}'),
    "an interpolated name": ("model.net", {"_target_": "${oc.decode:os.system}", "command": "touch PWNED"}),
    "no name": ("model.net._target_", 5),
}


@pytest.mark.parametrize("where", HOSTILE)
def test_a_run_directory_cannot_name_code_from_elsewhere(where, copied, monkeypatch):
    monkeypatch.chdir(copied)
    path = copied / ".hydra" / "resolved.yaml"
    config = OmegaConf.load(path)
    key, value = HOSTILE[where]
    OmegaConf.update(config, key, value, merge=False)
    OmegaConf.save(config, path)
    with pytest.raises(DataError, match=str(copied)):
        trusted_config(open_run(copied))
    assert not (copied / "PWNED").exists()


def test_code_of_the_users_own_is_run_where_it_is_allowed(copied, command, tmp_path):
    (tmp_path / "mine.py").write_text("from fmx.models.lenet import LeNet\nclass Net(LeNet): pass\n", encoding="utf-8")
    path = copied / ".hydra" / "resolved.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("fmx.models.lenet.LeNet", "mine.Net"), encoding="utf-8")
    env = {"PYTHONPATH": str(tmp_path)}
    refused = command("copied", module="evaluate", cwd=tmp_path, env=env)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "names the target 'mine.Net'" in refused.stderr
    assert "add --allow mine" in refused.stderr
    allowed = command("copied", "--allow", "mine", module="evaluate", cwd=tmp_path, env=env)
    assert IDENTICAL in allowed.stdout


def test_help_is_quick_and_has_examples(cold_command, tmp_path):
    for verb in ("evaluate", "predict", "export"):
        shown = cold_command("--help", module=verb, cwd=tmp_path, env={"PYTHONPROFILEIMPORTTIME": "1"})
        assert shown.returncode == 0
        assert f"examples:\n  fmx {verb} outputs/latest" in shown.stdout
        imported = {line.split("|")[-1].strip() for line in shown.stderr.splitlines()}
        assert not imported & {"torch", "numpy", "hydra", "matplotlib", "rich", "onnx"}


@pytest.mark.data
def test_real_run_is_scored_to_the_last_digit_also_from_elsewhere(command, tmp_path, monkeypatch):
    trained = command(
        "model=lenet", "trainer.max_epochs=1", "trainer.limit_train_batches=60", "logger=none",
        "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "FashionMNIST").mkdir(parents=True)
    (elsewhere / "FashionMNIST" / "raw").symlink_to(Path(os.environ["FMX_DATA_ROOT"], "FashionMNIST", "raw"))
    real = os.environ["FMX_DATA_ROOT"]
    monkeypatch.delenv("FMX_DATA_ROOT")
    for more in ([], ["--set", f"data.root={elsewhere}"]):
        scored = command("run", *more, module="evaluate", cwd=tmp_path)
        assert (scored.returncode, scored.stderr) == (0, "")
        assert scored.stdout.splitlines()[-1] == IDENTICAL
    monkeypatch.setenv("FMX_DATA_ROOT", real)
    other = command("run", "--data", "mnist", module="evaluate", cwd=tmp_path)
    assert "the test set of mnist, 10,000 images" in other.stdout
    assert "note: mnist calls its classes 0, 1, 2" in other.stdout
