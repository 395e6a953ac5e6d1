"""Run directories, checkpoints and images from elsewhere: nothing in them runs, and nothing leaves its folder."""

import json
import os
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from fmx.config.conf_dir import CONF_DIR
from fmx.config.expansion import check_expansion
from fmx.config.trust import check_paths, check_trusted
from fmx.errors import DataError
from fmx.inference.export.signature import signature_of
from fmx.runs.run_dir import open_run
from fmx.runs.trusted_config import trusted_config

SRC = Path(__file__).parents[1] / "src/fmx"
CANARY = "PWNED"
TOUCH = f"touch {CANARY}"

MLFLOW = yaml.safe_load((CONF_DIR / "logger/mlflow.yaml").read_text())["mlflow"]
WANDB = yaml.safe_load((CONF_DIR / "logger/wandb.yaml").read_text())["wandb"] | {"save_dir": "."}
# By name: the place in the configuration, what stands there, and what the refusal says of it.
TARGETS = {
    "python": ("model.net", {"_target_": "os.system", "command": TOUCH}, "add --allow os"),
    "builtins": ("data.train.image_size", {"_target_": "builtins.eval", "_args_": ["1"]}, "add --allow builtins"),
    "nested": ("model.net.widths", [{"a": {"_target_": "os.system", "command": TOUCH}}], "add --allow os"),
    "list": ("vars", {"a": [[{"_target_": "os.system", "command": TOUCH}]]}, "add --allow os"),
    "resolver": ("model.net", "${oc.create:{_target_:os.system,command:touch " + CANARY + "}}", "model.net"),
    "resolved name": ("model.net._target_", "${oc.decode:os.system}", "no dotted path"),
    "environment": ("model.net._target_", "${oc.env:EVIL}", "no dotted path"),
    "no name": ("model.net._target_", 5, "no dotted path"),
    "by way of torch": ("model.net", {"_target_": "torch.os.system", "command": TOUCH}, "it takes networks"),
    "by way of fmx": ("augment", {"_target_": "fmx.runs.record.os.system", "command": TOUCH}, "it takes aug"),
    "hub": ("model.net", {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "x", "source": "local"}, "takes"),
    "load": ("loss", {"_target_": "torch.load", "f": "evil.pt", "weights_only": False}, "it takes losses"),
    "compiler": ("model.net", {"_target_": "torch.utils.cpp_extension.load", "name": "x", "sources": []}, "it takes"),
    "partial": ("optim", {"_target_": "torch.hub.load", "_partial_": True, "repo_or_dir": "."}, "it takes optimizers"),
    "download": ("data.train", {"_target_": "torchvision.datasets.utils.download_url", "root": "."}, "fmx's own data"),
    "legacy data": ("data.train", {"_target_": "torchvision.datasets.MNIST", "root": "."}, "--allow torchvision"),
    "validation data": ("data.val", {"_target_": "torchvision.datasets.MNIST", "root": "."}, "--allow torchvision"),
    "our own": ("data.train", {"_target_": "fmx.data.download.fetch", "path": "x"}, "it takes fmx's own data sources"),
    "lambda": (
        "augment",
        {"_target_": "torchvision.transforms.Lambda", "lambd": {"_target_": "torch.hub.load", "_partial_": True}},
        "it takes augmentations",
    ),
    "remote logger": ("logger.x", {"_target_": "pytorch_lightning.loggers.WandbLogger"}, "that write files alone"),
    "server": ("logger.x", {**MLFLOW, "tracking_uri": "http://elsewhere"}, "where tracking_uri is None"),
    "folder": ("logger.x", {**MLFLOW, "artifact_location": "/elsewhere"}, "where artifact_location is None"),
    "upload": ("logger.x", {**WANDB, "offline": False}, "where offline is True"),
    "address": ("logger.x", {**WANDB, "settings": {"base_url": "http://elsewhere"}}, "where settings is"),
    "code": ("logger.x", {**WANDB, "save_code": True}, "where save_code is None"),
    "callable": ("callbacks.x", {"_target_": "pytorch_lightning.callbacks.LambdaCallback", "on_fit_start":
                 {"_target_": "torch.os.system", "_partial_": True, "command": TOUCH}}, "it takes callbacks"),
    "language model": ("metrics.x", {"_target_": "torchmetrics.text.BLEUScore"}, "it takes classification metrics"),
    "private": ("model.net", {"_target_": "torch._dynamo.eval_frame.os.system", "command": TOUCH}, "a private name"),
    "wrong kind": ("model.net", {"_target_": "torch.optim.Adam"}, "it takes networks"),
    "misplaced": ("select", {"_target_": "torch.nn.Identity"}, "no target belongs there"),
    "hydra": ("hydra", {"callbacks": {"x": {"_target_": "torch.nn.Identity"}}}, "it has the key 'hydra'"),
    "defaults": ("defaults", ["_self_"], "it has the key 'defaults'"),
    "no group": ("trainer", 3, "it lacks trainer"),
}  # fmt: skip


def implant(run: Path, key: str, value: object) -> None:
    path = run / ".hydra/resolved.yaml"
    config = yaml.safe_load(path.read_text())
    node = config
    *parents, last = key.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    path.write_text(yaml.safe_dump(config))


def assert_untouched(*folders: Path) -> None:
    assert [path for folder in folders for path in folder.rglob(CANARY)] == []


def refusal(done) -> str:
    """What a command says that refuses: a line or two, exit code 1, no traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3, done.stderr
    return done.stderr


@pytest.fixture
def foreign(digits_run, tmp_path) -> Path:
    """A run directory that came from elsewhere."""
    return shutil.copytree(digits_run, tmp_path / "foreign")


@pytest.fixture
def cwd(tmp_path) -> Path:
    """A working folder with code that a target could load: a hub repository, a pickle, a module."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    (folder / "hubconf.py").write_text(f"import os\nos.system({TOUCH!r})\ndef x(): pass\n")
    (folder / "evil.py").write_text(f"import os\nos.system({TOUCH!r})\nclass Net: pass\n")
    (folder / "evil.pt").write_bytes(pickle.dumps(Touch()))
    return folder


class Touch:
    """What a pickle can do to who loads it."""

    def __reduce__(self):
        return os.system, (TOUCH,)


@pytest.mark.parametrize("attack", TARGETS)
def test_a_target_of_another_kind_is_refused(attack, foreign, cwd, monkeypatch):
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("EVIL", "os.system")
    key, value, said = TARGETS[attack]
    implant(foreign, key, value)
    with pytest.raises(DataError) as refused:
        trusted_config(open_run(foreign))
    assert said in str(refused.value)
    assert str(foreign) in str(refused.value)
    assert_untouched(cwd, foreign)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", ["0.3x"]),
        ("std", [[0.3]]),
        ("mean", []),
        ("mean", [10**400]),
        ("std", [{"0.3  class_names": None}, "0"]),
    ],
)
def test_a_mean_that_is_no_number_is_refused(foreign, key, value):
    """Found among the damaged files: a mean of the restored run had become a text, a std had swallowed the next key."""
    implant(foreign, f"data.{key}", value)
    with pytest.raises(DataError):
        signature_of(trusted_config(open_run(foreign)), normalize="inside", record={})


def test_what_is_not_trusted_is_not_even_imported(foreign, cwd, monkeypatch):
    monkeypatch.chdir(cwd)
    monkeypatch.syspath_prepend(str(cwd))
    implant(foreign, "augment", {"_target_": "evil.Net"})
    with pytest.raises(DataError, match="add --allow evil"):
        trusted_config(open_run(foreign))
    assert_untouched(cwd)
    trusted_config(open_run(foreign), allow=["evil"])  # the user's word is enough


VERBS = {
    "run": ["resume=foreign"],
    "evaluate": ["foreign"],
    "predict": ["foreign", "image.png"],
    "export": ["foreign"],
    "reproduce": ["foreign", "--dir", "again"],
    "compare": ["foreign", "other", "--grid", "grid.png"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_it(verb, command, foreign, cwd):
    shutil.copytree(foreign, cwd / "other")
    change_sides(cwd / "other")
    Image.new("L", (28, 28)).save(cwd / "image.png")
    for attack in ("python", "nested", "hub", "by way of torch", "resolved name"):
        key, value, said = TARGETS[attack]
        shutil.rmtree(cwd / "foreign", ignore_errors=True)
        shutil.copytree(foreign, cwd / "foreign")
        implant(cwd / "foreign", key, value)
        before = sorted(cwd.rglob("*"))
        if verb == "run" and said.startswith("add --allow"):  # which `fmx run` does not take
            said = "type the whole command that began the run"
        assert said in refusal(command(*VERBS[verb], module=verb, cwd=cwd, env={"PYTHONPATH": str(cwd)}))
        assert sorted(cwd.rglob("*")) == before
        assert_untouched(cwd)


def change_sides(run: Path) -> None:
    """Let a copy of a run say something else of an image, so that a grid has something to show."""
    import numpy as np

    stored = dict(np.load(run / "predictions.npz"))
    stored["logits"] = np.roll(stored["logits"], 1, axis=1)
    np.savez(run / "predictions.npz", **stored)


@pytest.mark.parametrize("attack", ["python", "hub", "list"])
def test_tables_show_it_as_text(attack, command, foreign, cwd):
    for name in ("a", "b"):
        shutil.copytree(foreign, cwd / name)
        implant(cwd / name, *TARGETS[attack][:2])
    for verb, arguments in {"report": [".", "--html", "page.html"], "compare": ["a", "b"]}.items():
        done = command(*arguments, module=verb, cwd=cwd, env={"PYTHONPATH": str(cwd)})
        assert done.returncode == 0, done.stderr
    assert_untouched(cwd)


def test_every_part_of_ours_is_of_its_kind():
    """conf/ is what runs are made from, so whatever it names must come back from a run directory."""
    places = {"net": "model.net"}
    found = 0
    for file in sorted(CONF_DIR.glob("[!h]*/*.yaml")):
        group, node = file.parent.name, OmegaConf.to_container(OmegaConf.load(file))
        if group in {"experiment", "hydra"}:
            continue
        assert isinstance(node, dict)
        node = {group: {"net": node["net"]} if group == "model" else node}
        check_trusted(node, file)
        found += "_target_" in file.read_text()
    assert found > 30, places


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("model.net", "torchvision.models.resnet18"),
        ("model.net", "torch.nn.Flatten"),
        ("optim", "torch.optim.Adagrad"),
        ("schedule.scheduler", "torch.optim.lr_scheduler.ExponentialLR"),
        ("augment", "torchvision.transforms.v2.RandomRotation"),
        ("loss", "torch.nn.CrossEntropyLoss"),
        ("metrics.calibration", "torchmetrics.classification.MulticlassCalibrationError"),
        ("metrics.accuracy", "torchmetrics.Accuracy"),
        ("callbacks.swa", "pytorch_lightning.callbacks.StochasticWeightAveraging"),
        ("logger.csv", "pytorch_lightning.loggers.CSVLogger"),
        ("trainer.strategy", "pytorch_lightning.strategies.DDPStrategy"),
    ],
)
def test_parts_of_the_right_kind_from_trusted_packages_pass(key, target):
    node: dict = {"_target_": target}
    for part in reversed(key.split(".")):
        node = {part: node}
    check_trusted(node, Path("run"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("callbacks.best.dirpath", "/etc"),
        ("callbacks.best.dirpath", "weights"),
        ("callbacks.best.filename", "../../x"),
        ("logger.tensorboard.save_dir", "~"),
        ("logger.tensorboard.version", "/elsewhere/x"),
        ("trainer.default_root_dir", "s3://bucket"),
    ],
)
def test_a_run_that_would_write_elsewhere_is_not_reproduced(key, value, foreign):
    check_paths(trusted_config(open_run(foreign)), foreign)
    implant(foreign, key, value)
    with pytest.raises(DataError, match=f"would write to {re.escape(repr(value))}"):
        check_paths(trusted_config(open_run(foreign)), foreign)


def test_a_moved_run_is_reproduced_where_it_is_now(command, digits_run, cwd):
    shutil.copytree(digits_run, cwd / "foreign")
    events = sorted((digits_run / "tensorboard").iterdir())
    done = command("foreign", "--dir", "again", module="reproduce", cwd=cwd)
    assert (done.returncode, "identical" in done.stdout) == (0, True), done.stderr
    assert sorted((digits_run / "tensorboard").iterdir()) == events
    assert list((cwd / "again/tensorboard").iterdir())


def test_files_are_fetched_from_known_mirrors_alone(foreign):
    source = {
        "_target_": "fmx.data.idx.load_idx",
        "mirrors": ["file:///etc/", "https://ossci-datasets.s3.amazonaws.com/mnist/"],
    }
    implant(foreign, "data.train", source)
    implant(foreign, "data.test", source | {"mirrors": "file:///etc/"})
    data = trusted_config(open_run(foreign)).data
    assert data.train.mirrors == ["https://ossci-datasets.s3.amazonaws.com/mnist/"]
    assert data.test.mirrors == []


def evil_checkpoints(folder: Path) -> dict[str, Path]:
    """Files called checkpoints: a plain pickle, an archive with code among its tensors, names that make arrays."""
    torch.save({"state_dict": {}, "x": Touch()}, folder / "archive.ckpt")
    (folder / "plain.ckpt").write_bytes(pickle.dumps({"state_dict": Touch()}))
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": bytearray(8)}, folder / "array.ckpt")
    return {file.stem: file for file in folder.glob("*.ckpt")}


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export", "reproduce"])
def test_a_malicious_checkpoint_is_refused(verb, command, foreign, cwd, tmp_path):
    Image.new("L", (28, 28)).save(cwd / "image.png")
    shutil.move(foreign, cwd / "foreign")
    files = tmp_path / "files"
    files.mkdir()
    for file in evil_checkpoints(files).values():
        for name in ("best", "last"):
            shutil.copy(file, cwd / f"foreign/checkpoints/{name}.ckpt")
        assert ".ckpt" in refusal(command(*VERBS[verb], module=verb, cwd=cwd))
        assert_untouched(cwd)
        assert not (cwd / "again").exists()


def test_malicious_weights_are_refused_by_a_run(command, cwd):
    for file in evil_checkpoints(cwd).values():
        done = command(
            "data=digits", "model=pretrained", f"model.net.weights={file}", "hydra.run.dir=run", cwd=cwd
        )  # fmt: skip
        assert str(file) in refusal(done)
    assert_untouched(cwd)


NAMES = [
    "<script>alert(1)<∕script>",
    "${oc.env:HOME}",
    "${oc.create:{_target_:os.system,command:touch PWNED}}",
    "$(touch PWNED)",
    "..\\..\\x",
]


@pytest.fixture
def images(tmp_path) -> Path:
    """An image folder whose class folders have hostile names."""
    for part in ("train", "test"):
        for shade, name in enumerate(NAMES):
            folder = tmp_path / "images" / part / name.lstrip(".")
            folder.mkdir(parents=True)
            for number in range(8):
                Image.new("L", (8, 8), 40 * shade + number).save(folder / f"{number}.png")
    return tmp_path / "images"


IMAGE_RUN = ["data=image_folder", "data.image_size=8", "data.in_channels=1", "data.num_workers=0", "model=mlp",
             "trainer.max_epochs=1", "hydra.run.dir=run"]  # fmt: skip


def test_names_of_class_folders_are_only_names(command, images, cwd):
    done = command(*IMAGE_RUN, f"data.root={images}", cwd=cwd)
    assert done.returncode == 0, done.stderr
    told = json.loads((cwd / "run/metrics.json").read_text())["test"]["per_class"]
    assert set(told) == {path.name for path in (images / "train").iterdir()}
    picture = str(next((images / "test").rglob("*.png")))
    for verb, arguments in {
        "evaluate": ["run"],
        "predict": ["run", picture, "--csv", "said.csv", "--grid", "said.png"],
        "export": ["run", "--out", "model.onnx"],
        "report": ["run", "--html", "page.html", "--md", "table.md"],
        "compare": ["run", "run"],
        "reproduce": ["run", "--dir", "again"],
    }.items():
        done = command(*arguments, module=verb, cwd=cwd)
        assert done.returncode == 0, done.stderr
        assert os.environ["HOME"] + "\n" not in done.stdout
    assert "identical" in done.stdout
    for page in ("page.html", "table.md", "model.onnx.md"):
        assert "<script>alert" not in (cwd / page).read_text()
    assert_untouched(cwd, images)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "99.png").symlink_to("/etc/hostname"), "leads outside"),
        (lambda folder: Image.new("1", (60_000, 1)).save(folder / "0.png"), "60000 x 1 pixels"),
        (lambda folder: Image.new("1", (9_000, 9_000)).save(folder / "0.png"), "9000 x 9000 pixels"),
        (lambda folder: (folder / "0.png").write_bytes(png_header(60_000, 60_000)), "cannot be read as an image"),
    ],
)
def test_a_hostile_image_is_refused(command, digits_run, images, spoil, said):
    cwd = images.parent
    folder = images / "test" / NAMES[0]
    spoil(folder)
    done = command(*IMAGE_RUN, f"data.root={images}", cwd=cwd)
    assert said in refusal(done)
    done = command(str(digits_run), str(folder), module="predict", cwd=cwd)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def png_header(width: int, height: int) -> bytes:
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(bytes(99))]
    parts = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_interpolations_cannot_grow_without_bounds():
    lines = {f"a{n}": f"${{data.a{n + 1}}}${{data.a{n + 1}}}" for n in range(60)}
    nodes = {f"a{n}": {"x": f"${{data.a{n + 1}}}", "y": f"${{data.a{n + 1}}}"} for n in range(60)}
    for data in (lines, nodes):
        with pytest.raises(DataError, match="grow beyond measure"):
            check_expansion({"data": data}, "data", Path("config.yaml"))
    for text in ("${oc.decode:x}", "${a${b}}", "\\\\${oc.decode:x}", "${ a }", "${oc.env:A,${oc.create:x}}"):
        with pytest.raises(DataError, match="may not have"):
            check_expansion({"data": text}, "data", Path("config.yaml"))
    tenfold = {f"a{n}": f"${{.a{n + 1}}}" * 10 for n in range(5)}  # some megabytes, but many seconds
    for data in (tenfold, {"a.dotted.key": tenfold}):
        with pytest.raises(DataError, match="grow beyond measure"):
            check_expansion({"data": data}, "data", Path("config.yaml"))
    check_expansion({"data": {"x": "\\${oc.decode:x}", "y": ["${..x}"]}}, "data", Path())
    check_expansion({"data": ["${data.root}/x", "${subfolders:${data.root}/train}", "${oc.env:A,b}"]}, "data", Path())


FORBIDDEN = {
    r"\btorch\.load\((?!.*weights_only=True)": "torch.load without weights_only=True",
    r"weights_only=False": "weights_only=False",
    r"\bnp\.load\((?!.*allow_pickle=False)": "np.load without allow_pickle=False",
    r"allow_pickle=True": "allow_pickle=True",
    r"^\s*(import|from) (pickle|marshal|shelve|dill|joblib|cloudpickle)\b": "a module that loads code",
    r"(?<![\w.\"])(eval|exec|compile)\(": "eval, exec or compile",
    r"\byaml\.(unsafe_load|full_load|load_all|load)\((?!.*Loader=PlainLoader)": "yaml.load",
    r"shell=True|os\.system\(|os\.popen\(": "a shell",
    r"\bread_pickle\(|\bload_checkpoint_and|\.load_from_checkpoint\(": "a loader that trusts",
    r"OmegaConf\.load\(": "OmegaConf.load, which resolves and has no bounds",
}  # fmt: skip


def offences(text: str) -> list[str]:
    """What a source file does that none of ours may; comments and docstrings count as well, so none shows it either."""
    return [what for line in text.splitlines() for pattern, what in FORBIDDEN.items() if re.search(pattern, line)]


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "import pickle",
        "from joblib import load",
        "from pickle import loads",
        "x = eval(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(command, shell=True)",
        "OmegaConf.load(path)",
    ],
)
def test_the_search_finds_what_must_not_be(line):
    assert offences(line)


def test_nothing_loads_code():
    files = sorted(SRC.rglob("*.py"))
    assert len(files) > 80
    found = {file.relative_to(SRC).as_posix(): wrong for file in files if (wrong := offences(file.read_text()))}
    assert found == {"process/cores.py": ["a module that loads code"]}, "which takes joblib's count of cores alone"
    assert re.findall(r".*joblib import.*", (SRC / "process/cores.py").read_text()) == [
        "    from joblib import cpu_count"
    ]


def test_an_archive_with_a_path_in_it_writes_nothing(tmp_path):
    path = tmp_path / "a" / "best.ckpt"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../data.pkl", b"\x80\x02}.")
    from fmx.runs.checkpoint_files import load_checkpoint

    with pytest.raises(DataError):
        load_checkpoint(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "best.ckpt"]
