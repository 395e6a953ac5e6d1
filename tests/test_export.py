"""`fmx export`: files that other programs read, that say what the run said, and what is not kept."""

import csv
import json
import shlex
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from fmx.commands import predict
from fmx.data.digits import load_digits
from fmx.data.idx import load_idx
from fmx.errors import DataError, FmxError
from fmx.inference.export.model_card import model_card
from fmx.inference.export.onnx_model import open_onnx
from fmx.inference.export.parity import Reference, check_parity
from fmx.inference.export.signature import Signature
from fmx.runs.run_dir import open_run

TEST = load_digits(part="test", num_test=360, test_seed=0, image_size=28)
PIXELS = TEST.images.numpy()
NORMALISED = ((PIXELS / 255 - 0.305295) / 0.324596).astype(np.float32)


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def main(monkeypatch, *arguments):
    """The exit code of `fmx export ARGUMENTS` in this process."""
    from fmx.commands import export

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["fmx export", *map(str, arguments)])
    try:
        export.main()
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.fixture
def copied(digits_run, tmp_path):
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(digits_run, tmp_path / "copied"))


@pytest.fixture(scope="session")
def exported(digits_run, command, tmp_path_factory):
    """The folder where `fmx export` wrote lenet_digits.onnx, and what it said."""
    folder = tmp_path_factory.mktemp("exported")
    written = command(str(digits_run), module="export", cwd=folder)
    assert (written.returncode, written.stderr) == (0, "")
    return folder, written.stdout


def test_onnx_takes_any_number_of_raw_pixels_and_says_what_the_run_said(digits_run, exported):
    folder, said = exported
    assert sorted(p.name for p in folder.iterdir()) == ["lenet_digits.onnx", "lenet_digits.onnx.md"]
    assert "all 360 test images get the same class; the largest logit difference is " in said
    model = session(folder / "lenet_digits.onnx")
    (entry,) = model.get_inputs()
    assert (entry.name, entry.type, entry.shape[1:]) == ("pixels", "tensor(uint8)", [1, 28, 28])
    expected = np.load(digits_run / "predictions.npz")["logits"]
    for chosen in (slice(0, 1), slice(0, 5), slice(0, 360)):
        (logits,) = model.run(["logits"], {"pixels": PIXELS[chosen]})
        assert np.array_equal(logits.argmax(1), expected[chosen].argmax(1))
        assert np.abs(logits - expected[chosen]).max() < 1e-4
    notes = {key: json.loads(text) for key, text in model.get_modelmeta().custom_metadata_map.items()}
    assert notes["class_names"] == [str(k) for k in range(10)]
    assert (notes["in_channels"], notes["image_size"], notes["normalize"]) == (1, 28, "inside")
    assert (notes["mean"], notes["std"]) == ([0.305295], [0.324596])
    proto = onnx.load(folder / "lenet_digits.onnx")
    onnx.checker.check_model(proto)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == 18
    assert b"/fmx/" not in proto.SerializeToString()  # no folders of the machine that wrote it


def test_the_onnx_file_alone_is_enough_to_predict(digits_run, exported, command, tmp_path):
    shutil.copy(exported[0] / "lenet_digits.onnx", tmp_path / "m.onnx")
    for k in range(12):
        Image.fromarray(PIXELS[k, 0]).save(tmp_path / f"{k:02d}.png")
    rows = []
    for name, model in [("run.csv", str(digits_run)), ("onnx.csv", "m.onnx")]:
        said = command(model, "*.png", "--csv", name, module="predict", cwd=tmp_path)
        assert (said.returncode, said.stderr) == (0, "")
        with (tmp_path / name).open(encoding="utf-8", newline="") as file:
            rows.append(list(csv.DictReader(file)))
    for a, b in zip(*rows, strict=True):
        assert [a[k] for k in ("image", "class_1", "class_2")] == [b[k] for k in ("image", "class_1", "class_2")]
        assert float(a["probability_1"]) == pytest.approx(float(b["probability_1"]), abs=1e-5)


def test_a_card_says_what_the_file_is(digits_run, exported):
    card = (exported[0] / "lenet_digits.onnx.md").read_text(encoding="utf-8")
    record = json.loads((digits_run / "run.json").read_text(encoding="utf-8"))
    metrics = json.loads((digits_run / "metrics.json").read_text(encoding="utf-8"))
    for line in [
        "# lenet, trained on digits",
        f"| test accuracy | {100 * metrics['test']['accuracy']:.2f} % |",
        f"| validation accuracy | {100 * metrics['val']['accuracy']:.2f} % |",
        "| parameters | 61,610 |",
        f"| data | digits, fingerprint `{record['data']['fingerprint']}` |",
        "| trained by | `python -m fmx.run data=digits model=lenet augment=none trainer.max_epochs=3` |",
        f"| exported by | `fmx export {digits_run}` |",
        "Pixels uint8 (N, 1, 28, 28) from 0 to 255",
        "| 9 | 9 |",
        'session.run(None, {"pixels": images})',
    ]:
        assert line in card
    assert f"onnxruntime {onnxruntime.__version__}" in card


def test_a_card_cannot_be_broken_by_names(digits_run):
    names = ["<script>alert(1)</script>", "a|b`c*d", "line\nbreak", "![x](http://y)"]
    signature = Signature("m|\n", "<b>d", names, None, 1, 28, [0.0], [1.0], "inside", "pad", light_on_dark=False)
    card = model_card(
        run=open_run(digits_run), signature=signature, file="f.onnx", contents=b"", form="onnx", network={},
        num_params=1, checkpoint="best", agreement="none", command="a `b` | c",
    )  # fmt: skip
    assert "<script>" not in card
    assert "<b>" not in card
    assert r"| 1 | a\|b\`c\*d |" in card
    assert r"| 2 | line\\nbreak |" in card
    assert r"| 3 | !\[x\](http://y) |" in card
    assert r"| `` a `b` \| c `` |" in card


def test_outside_torchscript_and_state_dict_say_the_same(digits_run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    expected = np.load(digits_run / "predictions.npz")["logits"]
    outside = ["--normalise", "outside", "--opset", "20", "--out", "outside.onnx"]
    for arguments in (outside, ["--format", "torchscript"], ["--format", "state_dict", "--out", "w.pt"]):
        assert main(monkeypatch, digits_run, *arguments) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert "all 360 test images get the same class" in captured.out
    model = session("outside.onnx")
    assert [(i.name, i.type) for i in model.get_inputs()] == [("images", "tensor(float)")]
    assert np.abs(model.run(None, {"images": NORMALISED})[0] - expected).max() < 1e-4
    assert {entry.domain: entry.version for entry in onnx.load("outside.onnx").opset_import}[""] == 20
    assert "(pixel / 255 - mean) / std with mean [0.305295]" in Path("outside.onnx.md").read_text(encoding="utf-8")
    notes = {"fmx.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated
        script = torch.jit.load("lenet_digits.torchscript.pt", _extra_files=notes)
    assert np.abs(script(TEST.images).detach().numpy() - expected).max() < 1e-4
    assert json.loads(notes["fmx.json"])["class_names"][9] == "9"
    weights = torch.load("w.pt", weights_only=True)
    checkpoint = torch.load(digits_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, checkpoint[f"net.{name}"]) for name, tensor in weights.items())
    assert "fmx.models.lenet.LeNet" in Path("w.pt.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::FutureWarning:torch.jit")  # deprecated, as its help says
def test_what_a_file_does_not_take_is_an_error_and_no_answer(digits_run, exported, monkeypatch, tmp_path, capsys):
    """Floats in 0..1, channels last, another size, type or rank; and any number of images, none included."""
    monkeypatch.chdir(tmp_path)
    for name, arguments in {
        "inside.pt2": ["--format", "pt2"],
        "inside.pt": ["--format", "torchscript"],
        "outside.pt2": ["--format", "pt2", "--normalise", "outside"],
        "outside.pt": ["--format", "torchscript", "--normalise", "outside"],
    }.items():
        with warnings.catch_warnings(record=True) as warned:
            assert main(monkeypatch, digits_run, *arguments, "--out", name) == 0
        assert [str(each.message) for each in warned] == []
        assert "all 360 test images get the same class" in capsys.readouterr().out
    said = {name: Path(f"{name}.md").read_text(encoding="utf-8") for name in ("inside.pt2", "inside.pt", "outside.pt")}
    assert 'torch.export.load("inside.pt2").module()' in said["inside.pt2"]
    assert "Another type of numbers, number of channels or size is an error." in said["inside.pt2"]
    assert "TorchScript is deprecated; `fmx export --format pt2`" in said["inside.pt"]
    assert "Images with another normalisation get wrong results." in said["outside.pt"]
    notes = {"fmx.json": ""}
    models = {
        "inside.pt2": torch.export.load("inside.pt2", extra_files=notes).module(),
        "inside.pt": torch.jit.load("inside.pt"),
        "outside.pt2": torch.export.load("outside.pt2").module(),
        "outside.pt": torch.jit.load("outside.pt"),
    }
    assert json.loads(notes["fmx.json"])["class_names"][9] == "9"
    assert b"/fmx/" not in Path("inside.pt2").read_bytes()  # no folders of the machine that wrote it
    onnx_model = session(exported[0] / "lenet_digits.onnx")
    models["inside.onnx"] = lambda images: torch.from_numpy(onnx_model.run(None, {"pixels": images.numpy()})[0])
    expected = np.load(digits_run / "predictions.npz")["logits"]
    for name, model in models.items():
        right = TEST.images if name.startswith("inside") else torch.from_numpy(NORMALISED)
        for count in (0, 1, 3, 360):
            logits = model(right[:count]).detach().numpy()
            assert logits.shape == (count, 10)
            assert not count or np.abs(logits - expected[:count]).max() < 1e-4
        wrong = [right[:2].to(torch.int64), right[:2].to(torch.float64), right[:2].to(torch.int8)]
        wrong += [right[:2].permute(0, 2, 3, 1), right[:2].expand(-1, 3, -1, -1), right[:2, :, 2:, 2:], right[0, 0]]
        wrong += [right[0], right[:2, None], TEST.images[:2] / 255 if right.dtype == torch.uint8 else TEST.images[:2]]
        for images in wrong:
            with pytest.raises(Exception, match=r"(?i)dtype mismatch|guard failed|takes|invalid|unexpected"):
                model(images)
    for name in ("inside.pt2", "inside.pt"):
        monkeypatch.setattr(sys, "argv", ["fmx predict", name, "x.png"])
        Path("x.png").write_bytes(b"")
        with pytest.raises(SystemExit) as ended:
            predict.main()
        assert ended.value.code == 2
        assert "predict reads run directories and the ONNX files of fmx export" in capsys.readouterr().err


TINY = """\
name: tiny
net:
  _target_: fmx.models.mlp.MLP
  in_channels: ${data.in_channels}
  num_classes: ${data.num_classes}
  image_size: ${data.image_size}
  hidden_sizes: [8]
"""
EXPERIMENT = """\
# @package _global_
defaults:
  - override /hydra/sweeper: search
  - override /model: tiny
hydra:
  sweeper:
    params: {model.net.hidden_sizes: ["[8]", "[9]"], seed: [3]}
    n_trials: 2
    sampler: grid
"""


def test_the_card_names_a_command_that_trains_it_again(command, tmp_path):
    """Of a job of a sweep and a trial of a search, whose own commands name frozen files, and of a resumed run."""
    for name, text in {"model/tiny.yaml": TINY, "experiment/mine.yaml": EXPERIMENT}.items():
        (tmp_path / "my conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my conf" / name).write_text(text)
    start = ["--config-dir", "my conf"]
    parts = ["data=digits", "trainer=smoke", "logger=none"]
    swept = command("-m", *start, *parts, "model=mlp,tiny", "+vars.a='b c'", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    searched = command(*start, *parts, "experiment=mine", "hydra.sweep.dir=search", cwd=tmp_path)
    assert searched.returncode == 0, searched.stdout + searched.stderr
    longer = ["data=digits", "model=tiny", "trainer.max_epochs=40", "data.batch_size=64", "logger=none"]
    sent = (tmp_path / "cut/checkpoints/previous.ckpt", signal.SIGTERM)
    cut = command(*start, *longer, "hydra.run.dir=cut", cwd=tmp_path, send=sent)
    assert cut.returncode == 143, cut.stdout + cut.stderr
    resumed = command("resume=cut", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    for number, (run, not_again) in enumerate({"sweep/1": "/jobs", "search/0": "/jobs", "cut": "resume="}.items()):
        record = json.loads((tmp_path / run / "run.json").read_text())
        assert not_again in record["command"]
        file = f"{number}.pt"
        written = command(run, "--format", "state_dict", "--out", file, module="export", cwd=tmp_path)
        assert written.returncode == 0, written.stderr
        card = (tmp_path / f"{file}.md").read_text(encoding="utf-8")
        (line,) = [line for line in card.splitlines() if line.startswith("| trained by |")]
        python, *typed = shlex.split(line.removeprefix("| trained by | `").removesuffix("` |"))
        assert [python, *typed[:2]] == ["python", "-m", "fmx.run"]
        again = command(*typed[2:], f"hydra.run.dir=again{number}", cwd=tmp_path)
        assert again.returncode == 0, (typed, again.stderr)
        repeated = json.loads((tmp_path / f"again{number}/run.json").read_text())
        assert repeated["config_fingerprint"] == record["config_fingerprint"]


def test_a_file_that_does_not_agree_with_the_run_is_not_kept(copied, monkeypatch, tmp_path, capsys):
    path = copied / "predictions.npz"
    arrays = dict(np.load(path))
    arrays["logits"][5] = np.roll(arrays["logits"][5], 1)
    np.savez(path, **arrays)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    (tmp_path / "out" / "kept.pt").write_text("mine", encoding="utf-8")
    assert main(monkeypatch, copied, "--format", "torchscript", "--out", "kept.pt", "--force") == 1
    captured = capsys.readouterr()
    assert "does not agree with the run: 1 of 360 test images get another class" in captured.err
    assert captured.out == ""
    assert [p.name for p in Path().iterdir()] == ["kept.pt"]
    assert Path("kept.pt").read_text(encoding="utf-8") == "mine"
    arrays["labels"][5] += 1
    np.savez(path, **arrays)
    assert main(monkeypatch, copied, "--format", "torchscript") == 1
    assert "is not of this run's test set" in capsys.readouterr().err


def test_without_the_test_set_random_images_prove_it_and_nothing_is_fetched(copied, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    path = copied / ".hydra" / "resolved.yaml"
    config = OmegaConf.load(path)
    config.data.train.test_seed = config.data.test.test_seed = 5
    OmegaConf.save(config, path)
    assert main(monkeypatch, copied, "--format", "state_dict") == 0
    captured = capsys.readouterr()
    assert "the test set is not at hand: " in captured.err
    assert "holds other images than the run was trained and tested on" in captured.err
    assert "all 256 random images get the same class" in captured.out
    file = {"name": "x-ubyte", "md5": None, "gz_md5": None}
    idx = {
        "_target_": "fmx.data.idx.load_idx", "folder": "nowhere", "images": file, "labels": file, "image_size": 28,
        "num_classes": 10, "mirrors": ["http://127.0.0.1:1/"], "instead": [],
    }  # fmt: skip
    config.data.train = config.data.test = idx
    OmegaConf.save(config, path)
    assert main(monkeypatch, copied, "--format", "state_dict", "--force", "--checkpoint", "last") == 0
    captured = capsys.readouterr()
    assert "x-ubyte.gz is missing" in captured.err
    assert "127.0.0.1" not in captured.err
    card = Path("lenet_digits.state_dict.pt.md").read_text(encoding="utf-8")
    assert "| accuracy | not scored: the run's metrics are those of `best` |" in card
    assert "256 random images" in card


def test_ties_are_no_disagreement_where_a_gpu_computed_the_figures():
    images = [torch.zeros(1, 2, 2, dtype=torch.uint8)] * 300
    logits = np.tile(np.array([[1.0, 1.001, -3.0]], np.float32), (300, 1))

    def swapped(pixels):
        return logits[: len(pixels), [1, 0, 2]]

    with pytest.raises(FmxError, match=r"300 of 300 test images get another class.*nothing was written"):
        check_parity(swapped, Reference(images, "test images", logits))
    said = check_parity(swapped, Reference(images, "test images", logits, from_gpu=True))
    assert "but for 300 that are ties to the run's GPU" in said
    reference = Reference(images, "images", logits, from_gpu=True)
    for wrong in (logits + 0.5, logits * np.nan, np.roll(logits, 1, axis=1)):
        with pytest.raises(FmxError, match="does not agree"):
            check_parity(lambda pixels, wrong=wrong: wrong[: len(pixels)], reference)


def test_onnx_files_from_elsewhere_are_refused(exported, tmp_path):
    whole = (exported[0] / "lenet_digits.onnx").read_bytes()
    proto = onnx.load_from_string(whole)
    notes = {entry.key: entry.value for entry in proto.metadata_props}
    for changed, said in [
        ({}, "is not from fmx export"),
        (notes | {"class_names": "[1, 2]"}, "cannot be right"),
        (notes | {"class_names": "[" * 9}, "is not from fmx export"),
        (notes | {"image_size": "4294967296"}, "cannot be right"),
        (notes | {"image_size": "27"}, "has other inputs or outputs than its signature says"),
        (notes | {"std": "[NaN]"}, "cannot be right"),
        (notes | {"normalize": '"outside"'}, "has other inputs or outputs than its signature says"),
    ]:
        del proto.metadata_props[:]
        onnx.helper.set_model_props(proto, changed)
        onnx.save(proto, tmp_path / "changed.onnx")
        with pytest.raises(DataError, match=said):
            open_onnx(tmp_path / "changed.onnx")
    fewer = notes | {"class_names": '["a", "b", "c"]'}
    onnx.helper.set_model_props(proto, fewer)
    onnx.save(proto, tmp_path / "changed.onnx")
    with pytest.raises(DataError, match=r"gives float32 \(2, 10\), not a number for each of its classes"):
        open_onnx(tmp_path / "changed.onnx")[1](PIXELS[:2])
    for contents in (b"", b"onnx", whole[:-500], whole[500:]):
        (tmp_path / "damaged.onnx").write_bytes(contents)
        with pytest.raises(DataError, match=r"damaged\.onnx"):
            open_onnx(tmp_path / "damaged.onnx")


def test_refusals_say_what_would_be_right(digits_run, copied, tmp_path, monkeypatch, capsys):
    record = json.loads((copied / "run.json").read_text(encoding="utf-8"))
    (copied / "run.json").write_text(json.dumps(record | {"status": "running"}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("there.onnx").touch()
    Path("card.pt.md").write_text("mine", encoding="utf-8")
    for code, arguments, said in [
        (1, [tmp_path], "is not a run directory: it has no run.json"),
        (1, [copied], "is not finished: its status is interrupted"),
        (1, [digits_run, "--checkpoint", "none.ckpt"], "has best, last"),
        (2, [digits_run, "--out", "there.onnx"], "there.onnx exists; replace it with --force"),
        (2, [digits_run, "--format", "torchscript", "--out", "card.pt"], "card.pt.md exists"),
        (2, [digits_run, "--out", "nowhere/m.onnx"], "there is no folder nowhere"),
        (2, [digits_run, "--out", "m.pt"], "an ONNX file is called something.onnx"),
        (2, [digits_run, "--format", "pt2", "--out", "m.pt"], "a pt2 file is called something.pt2, not m.pt"),
        (2, [digits_run, "--opset", "12"], "a number from 18"),
        (2, [digits_run, "--format", "tflite"], "invalid choice: 'tflite'"),
        (2, [digits_run, "--format", "state_dict", "--normalise", "inside"], "holds weights alone"),
    ]:
        assert main(monkeypatch, *arguments) == code, arguments
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.out == ""
        assert "Traceback" not in captured.err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(monkeypatch, digits_run) == 2
    assert "pip install onnx onnxscript onnxruntime" in capsys.readouterr().err
    assert sorted(p.name for p in Path().iterdir()) == ["card.pt.md", "copied", "there.onnx"]


@pytest.mark.data
def test_real_run_and_onnxruntime_give_the_same_ten_thousand_classes(command, tmp_path):
    trained = command(
        "model=lenet", "trainer.max_epochs=1", "trainer.limit_train_batches=60", "logger=none",
        "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    written = command("run", "--out", "m.onnx", module="export", cwd=tmp_path)
    assert (written.returncode, written.stderr) == (0, "")
    assert "all 10,000 test images get the same class" in written.stdout
    config = OmegaConf.to_container(OmegaConf.load(tmp_path / "run" / ".hydra" / "resolved.yaml").data)
    images = load_idx(**{k: v for k, v in config["test"].items() if k != "_target_"}).images.numpy()
    model = session(tmp_path / "m.onnx")
    classes = np.concatenate([model.run(None, {"pixels": part})[0].argmax(1) for part in np.split(images, 20)])
    assert np.array_equal(classes, np.load(tmp_path / "run" / "predictions.npz")["logits"].argmax(1))
