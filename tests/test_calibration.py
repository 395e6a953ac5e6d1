"""Calibration: the error equals a computation by hand, the temperature comes from validation alone and is used."""

import csv
import json
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassCalibrationError

import fmx
from fmx.errors import DataError
from fmx.inference.calibration import fit_temperature, reliability
from fmx.runs.calibration import read_calibration

BINS = 15


@pytest.fixture(scope="module")
def calibrated(command, digits_run, tmp_path_factory):
    """A copy of a run with its calibration, and what the command said."""
    folder = Path(shutil.copytree(digits_run, tmp_path_factory.mktemp("calibrated") / "run"))
    done = command("run", "--calibration", "--json", "scores.json", module="evaluate", cwd=folder.parent)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def probabilities(logits, temperature=1.0):
    logits = logits.astype(float)
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def ece_by_hand(probs, labels):
    """Equation 3 of Guo et al., in words of NumPy: bins are open below and closed above."""
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    edges, error = np.linspace(0, 1, BINS + 1), 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def overconfident(num, seed, factor=3.0):
    """Logits (N, 5) whose classes are drawn from their softmax, then multiplied by the temperature `factor`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num, 5)) * 2
    labels = (probabilities(logits).cumsum(axis=1) < generator.random((num, 1))).sum(axis=1)
    return (factor * logits).astype(np.float32), labels


def test_the_error_is_that_of_a_computation_by_hand_and_of_torchmetrics():
    for logits, labels in (overconfident(4000, seed=1), overconfident(50, seed=2, factor=0.5)):
        measured = reliability(logits, labels)
        probs = probabilities(logits)
        assert measured.ece == pytest.approx(ece_by_hand(probs, labels), abs=1e-12)
        theirs = MulticlassCalibrationError(num_classes=5, n_bins=BINS)(torch.from_numpy(probs), torch.tensor(labels))
        assert measured.ece == pytest.approx(float(theirs), abs=1e-6)
        assert measured.nll == pytest.approx(-np.log(probs[np.arange(len(labels)), labels]).mean())
        assert measured.brier == pytest.approx(((probs - np.eye(5)[labels]) ** 2).sum(axis=1).mean())
        assert sum(measured.counts) == len(labels)
        low, high = measured.ece_interval
        assert 0 <= low <= measured.ece <= high
    certain = np.array([[100.0, 0.0], [100.0, 0.0]], np.float32)
    assert reliability(certain, np.array([0, 1])).ece == 0.5  # a confidence of exactly 1 is in the last bin


def test_the_interval_covers_an_error_that_is_known():
    """Of a model that is calibrated the true error is 0; of one that always says 0.8 and is right in half, 0.3."""
    covered = 0
    for seed in range(20):
        logits, labels = overconfident(300, seed=seed, factor=1.0)
        covered += reliability(logits, labels).ece_interval[0] == 0
        drawn = np.random.default_rng(seed).random(300) < 0.5
        certain = np.tile(np.log(np.array([0.8, 0.2], np.float32)), (300, 1))
        low, high = reliability(certain, np.where(drawn, 0, 1)).ece_interval
        covered += low <= 0.3 <= high
    assert covered >= 36


def test_a_temperature_is_found_and_what_diverged_is_refused():
    logits, labels = overconfident(20_000, seed=3)
    assert fit_temperature(logits, labels) == pytest.approx(3.0, rel=0.03)
    logits[7, 2] = np.nan
    with pytest.raises(DataError, match="1 of 20,000 images have logits that are not finite"):
        fit_temperature(logits, labels)


def test_evaluate_fits_on_validation_and_keeps_it(calibrated, command, tmp_path):
    run, said = calibrated
    kept = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    scores = json.loads((run.parent / "scores.json").read_text(encoding="utf-8"))
    assert scores[0]["calibration"]["temperature"] == kept["temperature"]
    assert scores[0]["identical"] is True
    test = np.load(run / "predictions.npz")
    for state, temperature in (("trained", 1.0), ("calibrated", kept["temperature"])):
        probs = probabilities(test["logits"], temperature)
        assert kept["parts"]["test"][state]["ece"] == pytest.approx(ece_by_hand(probs, test["labels"]), abs=1e-9)
    before, after = (kept["parts"]["val"][state]["nll"] for state in ("trained", "calibrated"))
    assert after <= before  # it was fitted there; on the test set it may be worse
    assert kept["parts"]["val"]["trained"]["nll"] == pytest.approx(
        json.loads((run / "metrics.json").read_text(encoding="utf-8"))["val"]["loss"], abs=1e-5
    )
    assert f"temperature {kept['temperature']:.4g}, fitted on 216 validation images" in said
    assert ["test,", "trained", f"{100 * kept['parts']['test']['trained']['ece']:.2f}"] in [
        line.split()[:3] for line in said.splitlines()
    ]
    with Image.open(run / "figures/reliability.png") as picture:
        assert picture.size[0] > 800
    board = command("run", "--csv", str(tmp_path / "t.csv"), "--html", str(tmp_path / "t.html"), module="report",
                    cwd=run.parent, env={"COLUMNS": "200"})  # fmt: skip
    assert "ECE % calibrated" in board.stdout
    with (tmp_path / "t.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["test_ece_mean"]) == kept["parts"]["test"]["trained"]["ece"]
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert "Reliability of the best run" in page
    assert "ECE % calibrated" in page


def test_predict_and_export_use_it_when_they_are_asked_to(calibrated, command, tmp_path):
    run, _ = calibrated
    temperature = read_calibration(run).temperature
    Image.fromarray(np.uint8(np.random.default_rng(0).integers(256, size=(28, 28)))).save(tmp_path / "x.png")
    outputs = {}
    for name, options in (("plain", []), ("calibrated", ["--calibrated"])):
        done = command(
            str(run), "x.png", "--top", "10", "--csv", f"{name}.csv", *options, module="predict", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert ("with temperature" in done.stdout) == bool(options)
        with (tmp_path / f"{name}.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        outputs[name] = {row[f"class_{k}"]: float(row[f"probability_{k}"]) for k in range(1, 11)}
    plain = np.array([*outputs["plain"].values()])
    expected = plain ** (1 / temperature) / (plain ** (1 / temperature)).sum()
    assert [*outputs["calibrated"]] == [*outputs["plain"]]
    assert np.allclose([*outputs["calibrated"].values()], expected, atol=1e-6)
    mine = fmx.open_run(run).predict(tmp_path / "x.png", calibrated=True).probabilities[0]
    assert np.allclose(sorted(mine), sorted(expected), atol=1e-6)
    done = command(str(run), "--calibrated", "--out", "m.onnx", module="export", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "all 360 test images get the same class" in done.stdout
    card = (tmp_path / "m.onnx.md").read_text(encoding="utf-8")
    assert f"| temperature | {temperature:.4g}, fitted on 216 validation images |" in card
    assert "divided by the temperature" in card
    stored = {each.key: each.value for each in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert float(stored["temperature"]) == temperature
    with Image.open(tmp_path / "x.png") as image:
        pixels = np.asarray(image)[None, None]
    (logits,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"pixels": pixels})
    assert np.allclose(sorted(probabilities(logits)[0]), sorted(expected), atol=1e-5)
    done = command("m.onnx", "x.png", module="predict", cwd=tmp_path)
    assert f"with temperature {temperature:.4g}" in done.stdout


REFUSED = {
    "none": (["data.validation=none"], "held no validation images out"),
    "test": (["data.validation=test"], "was validated on its test set"),
}


@pytest.mark.parametrize("validation", REFUSED)
def test_a_run_without_validation_is_refused_with_what_to_do(validation, command, tmp_path):
    overrides, what = REFUSED[validation]
    done = command("data=digits", "model=mlp", "trainer=smoke", *overrides, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = command("run", "--calibration", module="evaluate", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"run {what}")
    assert "train it with data.validation=0.1" in done.stderr
    assert not (tmp_path / "run/calibration.json").exists()


def test_what_is_not_there_or_not_sound_is_said(calibrated, digits_run, command, tmp_path):
    run = Path(shutil.copytree(calibrated[0], tmp_path / "run"))
    Image.new("L", (28, 28)).save(tmp_path / "x.png")
    copied = Path(shutil.copytree(digits_run, tmp_path / "a copy"))
    done = command("a copy", "x.png", "--calibrated", module="predict", cwd=tmp_path)
    assert done.returncode == 1
    _, verb, *words = shlex.split(re.search(r"(fmx evaluate .+ --calibration) fits it", done.stderr)[1])
    assert command(*words, module=verb, cwd=tmp_path).returncode == 0
    assert (copied / "calibration.json").is_file()
    done = command("run", "x.png", "--calibrated", "--checkpoint", "last", module="predict", cwd=tmp_path)
    assert "was fitted to other weights" in done.stderr
    for wrong in ("--data=mnist", "--checkpoint=last"):
        done = command("run", "--calibration", wrong, module="evaluate", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"leave out {wrong.partition('=')[0]}" in done.stderr
    kept = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    for change in ({"temperature": 1e9}, {"temperature": "2"}, {"parts": {}}, {"parts": 3}, {"weights": None}):
        (run / "calibration.json").write_text(json.dumps(kept | change), encoding="utf-8")
        with pytest.raises(DataError, match="is not what fmx evaluate --calibration writes"):
            read_calibration(run)
    (run / "calibration.json").write_text(" " * 300_000, encoding="utf-8")
    with pytest.raises(DataError, match="larger than the limit"):
        read_calibration(run)
    (run / "calibration.json").unlink()
    shutil.move(run / "figures", tmp_path / "elsewhere")
    (run / "figures").symlink_to(tmp_path / "elsewhere")
    before = sorted(each.name for each in (tmp_path / "elsewhere").iterdir())
    done = command("run", "--calibration", module="evaluate", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert before == sorted(each.name for each in (tmp_path / "elsewhere").iterdir())
    assert not (run / "calibration.json").exists()
