"""`model=pretrained model.net.weights=…` by command: every kind of file, what does not fit, and what comes after."""

import gzip
import json
import shutil
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models as torchvision_models

from fmx.data.digits import load_digits

pytestmark = pytest.mark.usefixtures("no_figures")

ARCHITECTURE = "shufflenet_v2_x0_5"
PARTS = ["model=pretrained", f"model.net.architecture={ARCHITECTURE}", "augment=none", "logger=none"]
FOLDER = ["data=image_folder", "data.in_channels=1", "data.image_size=28", "data.num_workers=0", "data.batch_size=16"]
LAST = "net.net.fc."


def state_of(run):
    return torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]


def accuracy(run):
    return json.loads((run / "metrics.json").read_text())["test"]["accuracy"]


def succeeds(command, *arguments, **options):
    done = command(*arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(command, tmp_path_factory) -> Path:
    """Pictures of the digits 0 to 5 (`first`) and 6 to 9 (`rest`), and a run on the former."""
    folder = tmp_path_factory.mktemp("finetuning")
    for part in ("train", "test"):
        digits = load_digits(part=part, num_test=360, test_seed=0, image_size=28)
        for number, (image, label) in enumerate(zip(digits.images.numpy(), digits.labels.tolist(), strict=True)):
            place = folder / ("first" if label < 6 else "rest") / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(place / f"{number}.png")
    succeeds(
        command, *FOLDER, "data.root=first", *PARTS, "trainer.max_epochs=6", "hydra.run.dir=before", cwd=folder
    )  # fmt: skip
    succeeds(command, "before", "--format", "state_dict", "--out", "exported.pt", module="export", cwd=folder)
    return folder


def test_an_epoch_of_fine_tuning_beats_one_from_random_weights(command, home):
    run = [*FOLDER, "data.root=rest", *PARTS, "trainer.max_epochs=1", "optim.lr=0.005"]
    said = {}
    for name, choice in {
        "scratch": "model.net.weights=null",
        "tuned": "model.net.weights=before/checkpoints/best.ckpt",
        "frozen": "model.net.weights=exported.pt model.net.freeze=true",
    }.items():
        said[name] = succeeds(command, *run, *choice.split(), f"hydra.run.dir={name}", cwd=home)
    assert accuracy(home / "tuned") > accuracy(home / "scratch") + 0.3
    assert accuracy(home / "frozen") > accuracy(home / "scratch") + 0.2
    first_lines = {name: "".join(text.splitlines(keepends=True)[:4]) for name, text in said.items()}
    assert f"{ARCHITECTURE} starts from random weights: model.net.weights=DEFAULT takes" in first_lines["scratch"]
    made_anew = "last layer made anew for 4 classes (6 classes there)"
    assert f"{ARCHITECTURE} starts from before/checkpoints/best.ckpt; {made_anew}\n" in first_lines["tuned"]
    assert f"starts from exported.pt; {made_anew}; all but the last layer frozen" in first_lines["frozen"]
    before, frozen, tuned = (state_of(home / name) for name in ("before", "frozen", "tuned"))
    kept = {name for name in before if not name.startswith(LAST)}
    assert all(torch.equal(frozen[name], before[name]) for name in kept)
    assert not any(torch.equal(tuned[name], before[name]) for name in kept if name.endswith("conv1.0.weight"))


@pytest.fixture(scope="module")
def files(home) -> dict[str, str]:
    """Files of weights by what they are, as they are typed."""
    torch.manual_seed(1)
    stock = torchvision_models.get_model(ARCHITECTURE).state_dict()
    (home / "cache/hub/checkpoints").mkdir(parents=True)
    torch.save(stock, home / "cache/hub/checkpoints/shufflenetv2_x0.5-f707e7126e.pth")
    torch.save(stock, home / "torchvision.pth")
    torch.save(stock, home / "old.pth", _use_new_zipfile_serialization=False)
    folder = home / "mit Ümläuten, und Komma"
    folder.mkdir()
    torch.save({f"module.{key}": value for key, value in stock.items()}, folder / "größe=1.pth")
    torch.save({"epoch": 3, "model": stock, "optimizer": {"state": {}}}, home / "wrapped.pth")
    own = {key.removeprefix("net.net."): value for key, value in state_of(home / "before").items()}
    torch.save({key: value for key, value in own.items() if not key.startswith("fc.")}, home / "backbone.pth")
    wide = stock | {"conv1.0.weight": torch.randn(24, 5, 3, 3)}
    torch.save(wide, home / "five_channels.pth")
    return {
        "DEFAULT": "3 to 1 channels; last layer made anew for 4 classes (1000 classes there)",
        "torchvision.pth": "3 to 1 channels; last layer made anew for 4 classes (1000 classes there)",
        "old.pth": "3 to 1 channels; last layer made anew for 4 classes (1000 classes there)",
        "'mit Ümläuten, und Komma/größe=1.pth'": "3 to 1 channels; last layer made anew for 4 classes",
        "wrapped.pth": "3 to 1 channels; last layer made anew for 4 classes (1000 classes there)",
        "before/checkpoints/last.ckpt": "last layer made anew for 4 classes (6 classes there)",
        "backbone.pth": "last layer made anew for 4 classes (none there)",
        "five_channels.pth": "first layer adapted from 5 to 1 channels",
    }


def test_a_sweep_over_every_kind_of_file(command, home, files):
    succeeds(
        command, "-m", *FOLDER, "data.root=rest", *PARTS, "trainer=smoke", "model.net.freeze=true",
        f"model.net.weights={','.join(files)}", "hydra.sweep.dir=kinds", cwd=home,
        env={"TORCH_HOME": str(home / "cache")},
    )  # fmt: skip
    for number, (typed, said) in enumerate(files.items()):
        run = home / "kinds" / str(number)
        assert said in (home / "kinds/jobs" / f"{number}.log").read_text(encoding="utf-8"), typed
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        path = Path(home, record["weights"]["file"])
        assert len(record["weights"]["sha256"]) == 64
        saved = torch.load(path, weights_only=True)
        saved = saved.get("state_dict", saved.get("model", saved))
        (there,) = [value for key, value in saved.items() if key.endswith("stage2.0.branch1.0.weight")]
        assert torch.equal(state_of(run)["net.net.stage2.0.branch1.0.weight"], there), typed
    table = (home / "kinds/leaderboard.csv").read_text(encoding="utf-8")
    assert "wrapped.pth" in table
    assert "größe=1.pth" in table


@pytest.mark.usefixtures("files")
def test_a_file_that_does_not_fit_is_refused_before_there_is_a_run(command, home):
    contents = (home / "torchvision.pth").read_bytes()
    (home / "truncated.pth").write_bytes(contents[: len(contents) // 2])
    torch.save(torchvision_models.get_model("squeezenet1_1").state_dict(), home / "other.pth")
    torch.save({"epoch": 3, "model": {"lr": 0.1}}, home / "none.pth")
    whole = torch.load(home / "torchvision.pth", weights_only=True)
    whole["conv1.0.weight"] = whole["conv1.0.weight"] * torch.nan
    torch.save(whole, home / "nan.pth")
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,999]}}'
    (home / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (home / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n")
    (home / "page.pth").write_text("\n<!DOCTYPE html><html>404</html>")
    (home / "empty.pth").touch()
    (home / "packed.pth").write_bytes(gzip.compress(contents))
    np.savez(home / "arrays.pth.npz", a=np.zeros(3))
    with zipfile.ZipFile(home / "script.pt", "w") as archive:
        archive.writestr("script/code/__torch__.py", "")
    (home / "cut/hub/checkpoints").mkdir(parents=True)
    (home / "cut/hub/checkpoints/shufflenetv2_x0.5-f707e7126e.pth").write_bytes(contents[:5000])
    run = [*FOLDER, "data.root=rest", *PARTS, "trainer=smoke", "hydra.run.dir=refused"]
    for code, weights, said in [
        (1, "truncated.pth", ["truncated.pth cannot be read as a checkpoint"]),
        (1, "none.pth", ["none.pth holds no state dict"]),
        (1, "nan.pth", ["not finite, in conv1.0.weight"]),
        (1, "m.safetensors", ["m.safetensors cannot be read as safetensors: "]),
        (1, "lfs.pth", ["git lfs pull"]),
        (1, "page.pth", ["it is a web page"]),
        (1, "empty.pth", ["it is empty"]),
        (1, "packed.pth", ["it is compressed: gunzip unpacks it"]),
        (1, "arrays.pth.npz", ["it is an archive of NumPy's arrays"]),
        (1, "script.pt", ["it is a TorchScript module: torch.save(torch.jit.load(FILE).state_dict()"]),
        (1, "other.pth", [f"do not fit '{ARCHITECTURE}'", "it lacks conv1.0.weight, ", "has no features.0.weight, "]),
        (1, "DEFAULT", ["It is torch's copy of DEFAULT: remove it, and it is fetched anew"]),
        (2, "rest", ["weights 'rest' is a folder, neither a file nor a name that torchvision has"]),
        (2, "missing.pth", ["weights 'missing.pth' is neither a file nor a name"]),
        (2, "IMAGENET1K_V7", ["use IMAGENET1K_V1, DEFAULT, a file, or model.net.weights=null"]),
    ]:
        done = command(*run, f"model.net.weights={weights}", cwd=home, env={"TORCH_HOME": str(home / "cut")})
        assert (done.returncode, done.stdout) == (code, ""), weights
        assert len(done.stderr.splitlines()) == 1
        assert [words for words in said if words not in done.stderr] == []
        assert not (home / "refused").exists()
    other = command(*run, "model.net.weights=torchvision.pth", "model.net.architecture=shufflenet_v2_x1_0", cwd=home)
    assert other.returncode == 1
    assert "other shapes: stage2.0.branch1.2.weight [24, 24, 1, 1] instead of [58, 24, 1, 1]" in other.stderr
    swept = command("-m", *run[:-1], "model.net.weights=torchvision.pth,other.pth", "hydra.sweep.dir=refused", cwd=home)
    assert swept.returncode == 2
    assert "job 1 (" in swept.stderr
    assert not (home / "refused").exists()


@pytest.mark.usefixtures("files")
def test_what_comes_after_needs_the_file_only_to_begin_anew(command, home, tmp_path):
    shutil.copy(home / "torchvision.pth", tmp_path / "start.pth")
    run = ["data=digits", *PARTS, "model.net.weights=start.pth", "trainer.max_epochs=9"]
    sent = (tmp_path / "cut/checkpoints/previous.ckpt", signal.SIGTERM)
    done = command(*run, "data.batch_size=512", "hydra.run.dir=cut", cwd=tmp_path, send=sent)
    assert done.returncode == 143, done.stdout + done.stderr
    (tmp_path / "start.pth").rename(tmp_path / "gone.pth")
    said = succeeds(command, "resume=cut", cwd=tmp_path)
    assert "resuming after step" in said
    assert "starts from" not in said
    assert json.loads((tmp_path / "cut/run.json").read_text())["weights"]["file"] == "start.pth"
    assert "identical" in succeeds(command, "cut", module="evaluate", cwd=tmp_path)
    picture = next((home / "rest/test/7").iterdir())
    succeeds(command, "cut", str(picture), module="predict", cwd=tmp_path)
    succeeds(command, "cut", "--format", "state_dict", "--out", "w.pt", module="export", cwd=tmp_path)
    refused = command("cut", "--dir", "again", module="reproduce", cwd=tmp_path)
    assert refused.returncode == 1
    assert "weights 'start.pth' is neither a file nor a name" in refused.stderr
    (tmp_path / "gone.pth").rename(tmp_path / "start.pth")
    said = succeeds(command, "cut", "--dir", "again", module="reproduce", cwd=tmp_path)
    assert "identical: history, metrics, test logits and weights are the same to the bit" in said


@pytest.mark.data
def test_mnist_helps_the_digits(command, tmp_path):
    """Trained on MNIST, the network knows the digits after an epoch better than one from random weights."""
    run = [*PARTS, "data.batch_size=32", "trainer.max_epochs=1", "trainer.precision=32-true"]  # alike on each processor
    succeeds(
        command, *run, "data=mnist", "trainer.limit_train_batches=400", "trainer.limit_val_batches=4",
        "trainer.limit_test_batches=4", "hydra.run.dir=mnist", cwd=tmp_path,
    )  # fmt: skip
    weights = "model.net.weights=mnist/checkpoints/best.ckpt"
    for name, choice in {"scratch": [], "tuned": [weights], "frozen": [weights, "model.net.freeze=true"]}.items():
        succeeds(command, *run, "data=digits", *choice, f"hydra.run.dir={name}", cwd=tmp_path)
    assert accuracy(tmp_path / "tuned") > accuracy(tmp_path / "scratch") + 0.2
    assert accuracy(tmp_path / "frozen") > accuracy(tmp_path / "scratch") + 0.2
