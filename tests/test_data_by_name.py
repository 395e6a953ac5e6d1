"""Data sets by name: torchvision's, NumPy's arrays, Parquet files and tables of pixels, each in its real format."""

import json
import logging
import shutil
import sys

import numpy as np
import pytest
import torch

import data_files
from data_files import IMAGES, LABELS, PARTS
from fmx.config.trust import check_trusted, without_torchvision
from fmx.data.found import READ_BY
from fmx.data.torchvision_sets import describe, load_torchvision
from fmx.errors import ConfigError, DataError
from fmx.process.exits import raised_errors
from fmx.runs.composition import compose_config
from fmx.training.build import make_data

pytestmark = pytest.mark.usefixtures("no_figures")

SHORT = ["model=mlp", "model.net.hidden_sizes=[16]", "trainer.max_epochs=1", "logger=none", "data.num_workers=0"]


def made(*overrides):
    """The data module of a `data` node; its errors as a command says them."""
    with raised_errors():
        return make_data(compose_config([*overrides]).data, augment=torch.nn.Identity(), seed=0)


def trained(command, folder, *overrides):
    done = command(*overrides, *SHORT, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "run/run.json").read_text()), done


def refused(command, folder, *overrides):
    done = command(*overrides, *SHORT, "hydra.run.dir=run", cwd=folder)
    assert done.returncode in {1, 2}, done.stdout
    assert not (folder / "run").exists(), "refused before there is a run"
    assert "Traceback" not in done.stderr
    return done.stderr


def of_torchvision(root, dataset, part="train", **more):
    given = {"options": {}, "split": None, "mirrors": []} | more
    facts = describe(root=str(root), dataset=dataset, **given)
    source = load_torchvision(
        root=str(root), dataset=dataset, part=part, num_test=0.2, test_seed=0, in_channels=facts["in_channels"],
        image_size=facts["image_size"], resize="stretch", **given,
    )  # fmt: skip
    return facts, source


@pytest.fixture
def any_sum(monkeypatch):
    """Sets made here do not have the official MD5 sums."""
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda *_, **__: True)


@pytest.mark.usefixtures("any_sum")
def test_sets_that_torchvision_holds_in_memory(tmp_path):
    data_files.cifar10(tmp_path)
    data_files.svhn(tmp_path)
    data_files.emnist_letters(tmp_path)
    facts, cifar = of_torchvision(tmp_path, "CIFAR10")
    assert facts["class_names"] == [f"kind {label}" for label in range(10)]
    assert (facts["in_channels"], facts["image_size"]) == (3, 32)
    pixels = data_files.coloured(data_files.enlarged(32, "train"))
    assert facts["mean"] == pytest.approx((pixels / 255).mean((0, 1, 2)), abs=1e-6)
    assert facts["std"] == pytest.approx((pixels / 255).std((0, 1, 2)), abs=1e-6)
    assert np.array_equal(cifar.images, pixels.transpose(0, 3, 1, 2))
    assert np.array_equal(cifar.labels, LABELS[PARTS["train"]])
    _, svhn = of_torchvision(tmp_path, "SVHN", part="test")
    assert np.array_equal(svhn.labels, LABELS[PARTS["test"]])
    assert svhn.images.shape == (100, 3, 32, 32)
    facts, letters = of_torchvision(tmp_path, "EMNIST", options={"split": "letters"})
    assert facts["class_names"] == [chr(ord("a") + letter) for letter in range(26)]
    assert letters.labels.tolist() == [index % 26 for index in range(300)]


def test_channels_and_size_of_a_set_in_memory_may_be_others(tmp_path):
    data_files.usps(tmp_path)
    options = {"options": {}, "split": None, "mirrors": [], "num_test": 0.2, "test_seed": 0, "resize": "stretch"}
    usual, other = (
        load_torchvision(
            root=str(tmp_path), dataset="USPS", part="test", in_channels=channels, image_size=size, **options
        )
        for channels, size in ((1, 16), (3, [8, 12]))
    )
    assert (usual.images.shape, other.images.shape) == ((100, 1, 16, 16), (100, 3, 8, 12))
    assert abs(usual.images.float().mean() - other.images.float().mean()) < 2


@pytest.mark.usefixtures("any_sum")
def test_sets_whose_pictures_lie_in_files(tmp_path, monkeypatch):
    data_files.flowers(tmp_path)
    data_files.gtsrb(tmp_path)
    data_files.eurosat(tmp_path)
    facts, flowers = of_torchvision(tmp_path, "Flowers102")
    assert len(facts["class_names"]) == 102
    assert facts["class_names"][0] == "pink primrose"
    assert (len(flowers), flowers[0][0].shape, facts["in_channels"]) == (30, (3, 64, 64), 3)
    assert flowers.labels.tolist() == [number % 3 for number in range(30)]
    assert len(of_torchvision(tmp_path, "Flowers102", split="val")[1]) == 9
    named = [f"data.root={tmp_path}", "data=torchvision", "data.dataset=Flowers102"]
    assert made(*named).sizes() == {"train": 30, "val": 9, "test": 21}
    assert made(*named, "data.val=null").sizes() == {"train": 27, "val": 3, "test": 21}
    # Signs have no argument `loader`: their labels are found without decoding a picture.
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: decoded.append(1))
    options = {
        "options": {},
        "mirrors": [],
        "num_test": 0.2,
        "test_seed": 0,
        "in_channels": 3,
        "image_size": 8,
        "resize": "stretch",
    }
    signs = load_torchvision(root=str(tmp_path), dataset="GTSRB", part="train", split=None, **options)
    assert not decoded
    monkeypatch.undo()
    assert signs.labels.bincount().tolist() == [20, 20, 20]
    assert 80 <= signs[25][0].min() <= signs[25][0].max() < 140, "a picture of the class 1"
    whole, label = signs.original(25)
    assert (label, whole.shape[0], 20 <= whole.shape[1] < 40) == (1, 3, True), "for transforms before it is resized"
    assert torch.equal(signs.to_size(whole), signs[25][0])
    before = signs.fingerprint()
    shutil.copy(signs.files[0], signs.files[-1])
    assert (
        load_torchvision(root=str(tmp_path), dataset="GTSRB", part="train", split=None, **options).fingerprint()
        != before
    )
    # torchvision does not divide EuroSAT: a test set is drawn once.
    facts, land = of_torchvision(tmp_path, "EuroSAT")
    assert facts["class_names"] == ["Forest", "River", "SeaLake"]
    assert facts["image_size"] == 16
    test = of_torchvision(tmp_path, "EuroSAT", part="test")[1]
    assert (len(land), len(test), test.labels.bincount().tolist()) == (48, 12, [4, 4, 4])
    assert not {*land.files} & {*test.files}


@pytest.mark.parametrize(
    ("dataset", "more", "says"),
    [
        ("cifar10", {}, "did you mean 'CIFAR10'"),
        ("FLOWERS103", {}, "did you mean 'Flowers102'"),
        ("VOCDetection", {}, "boxes, masks or captions"),
        ("CocoCaptions", {}, "boxes, masks or captions"),
        ("CelebA", {}, "several attributes"),
        ("ImageFolder", {}, "data=image_folder"),
        ("nothing_like_it", {}, "Sets: CIFAR10, CIFAR100"),
        (None, {}, "data.dataset=CIFAR10"),
        ("EMNIST", {}, "data.options={split: NAME}' of byclass, bymerge, balanced"),
        ("EMNIST", {"options": {"split": "lettrs"}}, "Valid values are"),
        ("USPS", {"options": {"splt": 1}}, "takes no 'splt'"),
        ("USPS", {"options": {"train": False}}, "data.train.split=NAME"),
        ("Flowers102", {"options": {"loader": "os.system"}}, "fmx sets it itself"),
        ("Flowers102", {"split": "validation"}, "Valid values are"),
        ("USPS", {"split": "extra"}, "has train and test"),
    ],
)
def test_a_wrong_set_or_option_is_refused_with_what_to_type(tmp_path, dataset, more, says):
    with pytest.raises(ConfigError) as error:
        of_torchvision(tmp_path, dataset, **more)
    assert says in str(error.value)
    assert not any(tmp_path.iterdir())


def test_a_run_of_a_set_of_torchvision(command, tmp_path):
    """By command: trained, reproduced, evaluated after its files moved, and refused where they are missing."""
    data_files.usps(tmp_path)
    run = ["data=torchvision", "data.root=.", "trainer=smoke"]
    record, _ = trained(command, tmp_path, *run, "data.dataset=USPS")
    assert record["data"]["name"] == "USPS"
    assert record["data"]["sizes"] == {"train": 270, "val": 30, "test": 100}
    (kept,) = (tmp_path / ".fmx").glob("*.json")
    assert json.loads(kept.read_text())["image_size"] == 16
    again = command("run", module="reproduce", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "identical" in again.stdout
    (tmp_path / "there").mkdir()
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).rename(tmp_path / "there" / name)
    gone = command("run", module="evaluate", cwd=tmp_path)
    assert gone.returncode == 1
    assert "torchvision's USPS is not there" in gone.stderr, "a run's directory lets torchvision fetch nothing"
    moved = command("run", "--set", "data.root=there", module="evaluate", cwd=tmp_path)
    assert "identical to metrics.json" in moved.stdout, moved.stdout + moved.stderr
    shutil.rmtree(tmp_path / "run")
    missing = refused(command, tmp_path, *run, "data.dataset=CIFAR10", "data.train.mirrors=[]")
    assert "Ways out: data.root=DIR" in missing
    assert "fmx data torchvision data.dataset=CIFAR10" in missing


def test_what_was_found_is_read_again_and_a_folder_that_takes_nothing_is_said(tmp_path, caplog):
    data_files.usps(tmp_path)
    given = {"root": str(tmp_path), "dataset": "USPS", "options": {}, "split": None, "mirrors": ["torchvision"]}
    facts = describe(**given)
    (kept,) = (tmp_path / ".fmx").iterdir()
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).rename(tmp_path / f"{name}.away")
    assert describe(**given) == facts, "without its files"
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / f"{name}.away").rename(tmp_path / name)
    kept.write_text("{")
    assert describe(**given) == facts, "a damaged file is written anew"
    assert json.loads(kept.read_text()) == facts
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("a file where the folder should be")
    assert describe(**given) == facts
    assert "cannot be kept" in caplog.text


def test_a_set_that_cannot_be_fetched_names_the_ways_out(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.usps.download_url", offline)
    given = {"root": str(tmp_path), "dataset": "USPS", "options": {}, "split": None}
    with pytest.raises(DataError, match=r"could not be fetched.*no route to host.*\n.*data=digits"):
        describe(**given, mirrors=["torchvision"])
    with pytest.raises(DataError, match="is not there"):
        describe(**given, mirrors=[])
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setattr("torchvision.datasets.pcam.PCAM._download", offline)
    with pytest.raises(DataError, match=r"PCAM needs a package: .*pip install h5py"):
        describe(**given | {"dataset": "PCAM"}, mirrors=["torchvision"])


def test_arrays_of_numpy(command, tmp_path):
    """A MedMNIST-like file is trained on, evaluated where data.root moved, and named again for another run's model."""
    data_files.medmnist(tmp_path / "med.npz")
    record, _ = trained(command, tmp_path, "data=npz", "data.root=.", "data.file=med.npz", "data.name=medical")
    assert record["data"]["sizes"] == {"train": 250, "val": 50, "test": 100}
    assert record["data"]["name"] == "medical"
    (tmp_path / "there").mkdir()
    (tmp_path / "med.npz").rename(tmp_path / "there/med.npz")
    moved = command("run", module="evaluate", cwd=tmp_path, env={"FMX_DATA_ROOT": str(tmp_path / "there")})
    assert "identical to metrics.json" in moved.stdout, moved.stdout + moved.stderr
    other = ["--data", "npz", "--set", "data.root=there", "--set", "data.file=med.npz"]
    again = command("run", *other, module="evaluate", cwd=tmp_path)
    assert f"{json.loads((tmp_path / 'run/metrics.json').read_text())['test']['accuracy']:.2%}"[:4] in again.stdout
    shown = command("npz", "data.file=med.npz", "--root", "there", module="data", cwd=tmp_path)
    assert "250 training, 50 validation and 100 test images of 3 × 8 × 8, 10 classes" in shown.stdout, shown.stderr
    shutil.rmtree(tmp_path / "run")
    missing = refused(command, tmp_path, "data=npz", "data.root=there", "data.file=no.npz")
    assert "there/no.npz is missing" in missing


def sources(*overrides):
    """The images and labels of both parts, as training takes them."""
    data = made(*overrides, "data.validation=none")
    return data, data.sources["train"], data.sources["test"]


def test_arrays_are_found_by_their_names(tmp_path):
    root = [f"data.root={tmp_path}", "data=npz"]
    data_files.keras(tmp_path / "keras.npz")
    data, train, test = sources(*root, "data.file=keras.npz")
    assert np.array_equal(train.images[:, 0], IMAGES[PARTS["train"]])
    assert np.array_equal(test.labels, LABELS[PARTS["test"]])
    assert (data.class_names, data.input_shape) == ([str(label) for label in range(10)], (1, 8, 8))
    for part, rows in PARTS.items():  # two files of floats, channels first, and labels from 1
        images = np.stack([IMAGES[rows]] * 12, axis=1) / np.float32(255)
        np.savez(tmp_path / f"{part}.npz", images=images, labels=LABELS[rows] + 1)
    data, train, _ = sources(*root, "data.file=train.npz", "data.test_file=test.npz")
    assert (data.input_shape, data.class_names[0], int(train.labels[0])) == ((12, 8, 8), "1", LABELS[0])
    (tmp_path / "arrays").mkdir()
    for part, rows in PARTS.items():  # a folder, of images that are no squares
        np.save(tmp_path / f"arrays/{part}_x.npy", IMAGES[rows, :, :6])
        np.save(tmp_path / f"arrays/{part}_y.npy", np.eye(10)[LABELS[rows]])
    assert sources(*root, "data.file=arrays")[0].input_shape == (1, 8, 6)
    np.savez(tmp_path / "odd.npz", a=IMAGES, b=LABELS, c=IMAGES[:9], d=LABELS[:9])
    named = ["data.train.images=a", "data.train.labels=b", "data.test.images=c", "data.test.labels=d"]
    assert len(sources(*root, "data.file=odd.npz", *named)[2]) == 9


def test_texts_in_arrays_are_names_of_classes(tmp_path, caplog):
    kinds = np.array(["dog", "cat", "eel"])[LABELS % 3]
    given = {"x_train": IMAGES, "y_train": kinds, "x_test": IMAGES[:9], "y_test": kinds[:9, None].astype("S3")}
    np.savez(tmp_path / "a.npz", **given)
    root = [f"data.root={tmp_path}", "data=npz", "data.file=a.npz"]
    with caplog.at_level(logging.INFO):
        data, train, test = sources(*root)
    assert data.class_names == ["cat", "dog", "eel"]
    assert "labels are texts: each is its position in data.class_names, cat 0, dog 1, eel 2" in caplog.text
    assert [data.class_names[label] for label in train.labels] == kinds.tolist()
    assert [data.class_names[label] for label in test.labels] == kinds[:9].tolist()
    data, train, _ = sources(*root, "data.class_names=[eel,dog,cat]")
    assert [data.class_names[label] for label in train.labels] == kinds.tolist()
    with pytest.raises(DataError, match=r"'eel' is not in data.class_names \(cat, dog\)"):
        sources(*root, "data.class_names=[cat,dog]")
    np.savez(tmp_path / "a.npz", **given | {"y_test": np.array(["fox"] * 9)})
    with pytest.raises(DataError, match=r"data.test: .*'fox' is not in data.class_names \(cat, dog, eel\)"):
        sources(*root)
    np.savez(tmp_path / "a.npz", **given | {"y_test": LABELS[:9]})
    with pytest.raises(DataError, match="holds <U3; labels are whole numbers, or texts in all parts"):
        sources(*root)


CUBES = np.zeros((len(LABELS), 12, 12, 12), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "overrides", "says"),
    [
        ({"a": IMAGES, "b": LABELS}, [], r"holds a, b\); data.train.images=NAME"),
        ({"x_train": IMAGES, "y_train": LABELS}, [], "data.test_file=FILE names a second file"),
        ({"x_train": IMAGES, "train_images": IMAGES}, [], "x_train and train_images may both be"),
        ({"x_train": np.array([{}] * 9), "y_train": LABELS}, [], r"x_train holds .* images that differ in size"),
        ({"x_train": IMAGES, "y_train": LABELS * 0}, [], r"labels in a.npz name one class alone, '0'"),
        ({f"{x}_{part}": a for part in PARTS for x, a in (("x", CUBES), ("y", LABELS))}, [], "channels first or last"),
        ({"x_train": IMAGES, "y_train": np.array([{}] * 400)}, [], "never unpickled"),
        ({"x_train": IMAGES, "y_train": LABELS / 2}, [], "labels are whole numbers"),
        ({"x_train": IMAGES, "y_train": np.ones((400, 3))}, [], r"one whole number per image, \(N,\) or \(N, 1\)"),
        ({"x_train": IMAGES, "y_train": LABELS}, ["data.train.images=x_trian"], "did you mean 'x_train'"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path, arrays, overrides, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises((ConfigError, DataError), match=says):
        sources(f"data.root={tmp_path}", "data=npz", "data.file=a.npz", *overrides)


def test_damaged_and_swollen_arrays_are_refused(tmp_path, monkeypatch):
    root = [f"data.root={tmp_path}", "data=npz", "data.file=a.npz"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is missing"):
        sources(*root)
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"no .npz file"):
        sources(*root)
    data_files.keras(tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:2000] + bytes(2000) + whole[4000:])
    with pytest.raises(DataError, match=r"cannot be read.*x_train"):
        sources(*root)
    np.savez_compressed(tmp_path / "a.npz", x_train=np.zeros((9, 4000, 4000), np.uint8), y_train=LABELS[:9])
    monkeypatch.setattr("fmx.data.npz.FREE_BYTES", 2**20)
    monkeypatch.setattr("fmx.data.npz.MAX_RATIO", 2)
    with pytest.raises(DataError, match="does not allow"):
        sources(*root, "data.test_file=a.npz", "data.num_classes=10")
    shutil.move(tmp_path / "a.npz", tmp_path / "b.npz")
    with pytest.raises(DataError, match=r"add data.root=\.|data\.root=\. "):
        sources("data=npz", "data.file=b.npz", "data.root=elsewhere")


def test_parquet_files_of_a_hub(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    root = [f"data.root={tmp_path}", "data=parquet"]
    data_files.hub(tmp_path / "hub")
    data, train, test = sources(*root, "data.train_file=hub")
    assert np.array_equal(train.images[:, 0], IMAGES[PARTS["train"]])
    assert np.array_equal(test.labels, LABELS[PARTS["test"]])
    assert data.class_names == [f"kind {label}" for label in range(10)]
    hub = tmp_path / "hub/data"
    shutil.copy(hub / "test-00000-of-00001.parquet", hub / "validation-00000-of-00001.parquet")
    assert made(*root, "data.train_file=hub").sizes() == {"train": 300, "val": 100, "test": 100}
    kinds = np.array(["dog", "cat", "eel"])[LABELS % 3]
    for part, rows in PARTS.items():  # bytes of JPEG in several sizes, texts as labels, other names of columns
        images = data_files.coloured(IMAGES[rows])[:20]
        images = [np.kron(image, np.ones((2, 1 + n % 2, 1), np.uint8)) for n, image in enumerate(images)]
        pictures = [data_files.encoded(image, "JPEG") for image in images]
        table = pa.table({"photo": pictures, "kind": pa.array(kinds[rows][:20].tolist())})
        parquet.write_table(table, tmp_path / f"{part}.parquet")
    files = ["data.train_file=train.parquet", "data.test_file=test.parquet"]
    with pytest.raises(DataError, match=r"has photo, kind: name it with data.train.image=NAME"):
        sources(*root, *files)
    data, train, _ = sources(*root, *files, "data.train.image=photo", "data.train.label=kind")
    assert (data.class_names, data.input_shape) == (["cat", "dog", "eel"], (3, 64, 64))
    assert [data.class_names[label] for label in train.labels] == kinds[:20].tolist()
    with pytest.raises(ConfigError, match=r"data\.test_file=FILE"):
        sources(*root, files[0], "data.train.image=photo", "data.train.label=kind")
    (tmp_path / "test.parquet").write_text("no table")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        sources(*root, *files, "data.train.image=photo", "data.train.label=kind")


def test_large_parquet_files_are_decoded_for_each_batch(tmp_path, monkeypatch):
    data_files.hub(tmp_path / "hub")
    in_memory = made(f"data.root={tmp_path}", "data=parquet", "data.train_file=hub")
    monkeypatch.setattr("fmx.data.parquet.MAX_IN_MEMORY", 1000)
    lazy = made(f"data.root={tmp_path}", "data=parquet", "data.train_file=hub")
    for position in (0, 269):
        assert torch.equal(lazy.pictures("train")[position], in_memory.pictures("train")[position])
    assert torch.equal(lazy.labels("train"), in_memory.labels("train"))
    assert torch.equal(lazy.sources["train"].original(7)[0], in_memory.sources["train"].images[7])
    before = lazy.fingerprints()["fingerprint"]
    assert made(f"data.root={tmp_path}", "data=parquet", "data.train_file=hub").fingerprints()["fingerprint"] == before


def test_parquet_without_pyarrow_names_the_command(monkeypatch, tmp_path):
    data_files.hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'fmx\[parquet\]'"):
        made(f"data.root={tmp_path}", "data=parquet", "data.train_file=hub")


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet"])
def test_runs_of_files_by_name_are_reproduced(command, tmp_path, kind):
    data_files.medmnist(tmp_path / "medmnist.npz")
    data_files.hub(tmp_path / "hub")
    for part in ("train", "test"):
        data_files.frame(part).to_csv(tmp_path / f"{part}.csv", index=False)
    files = {
        "npz": ["data.file=medmnist.npz", "augment=randaugment"],
        "csv": ["data.train_file=train.csv", "data.test_file=test.csv"],
        "parquet": ["data.train_file=hub"],
    }
    trained(command, tmp_path, f"data={kind}", *files[kind], "data.root=.")
    again = command("run", "--dir", "again", module="reproduce", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "identical: " in again.stdout


def written(folder, table, **form):
    table.to_csv(folder / "a.csv", **({"index": False} | form))


TABLES = {
    "semicolons, a byte order mark and row numbers": lambda folder, table: written(
        folder, table, sep=";", index=True, encoding="utf-8-sig"
    ),
    "tabs": lambda folder, table: written(folder, table, sep="\t"),
    "UTF-16": lambda folder, table: written(folder, table, encoding="utf-16"),
    "no header": lambda folder, table: written(folder, table, header=False),
    "labels from 1": lambda folder, table: written(folder, table.assign(label=table["label"] + 1)),
    "labels last": lambda folder, table: written(folder, table[[*table.columns[1:], "label"]]),
    "columns in another order": lambda folder, table: written(folder, table[[*reversed(table.columns)]]),
    "an identifier": lambda folder, table: written(folder, table.assign(Id=range(len(table)))),
    "pixels in one column": lambda folder, table: written(
        folder,
        table[["label"]].assign(pixels=[" ".join(map(str, row)) for row in table.iloc[:, 1:].to_numpy()]),
    ),
}


@pytest.mark.parametrize("form", TABLES)
def test_tables_of_any_form_give_the_same_images(tmp_path, form):
    TABLES[form](tmp_path, data_files.frame())
    data, train, _ = sources(f"data.root={tmp_path}", "data=csv", "data.train_file=a.csv", "data.test_file=a.csv")
    assert np.array_equal(train.images[:, 0], IMAGES[PARTS["train"]])
    assert np.array_equal(train.labels, LABELS[PARTS["train"]])
    assert (data.input_shape, data.num_classes) == ((1, 8, 8), 10)


def test_other_tables(tmp_path):
    root = [f"data.root={tmp_path}", "data=csv", "data.train_file=a.csv"]
    both = ["data.test_file=a.csv"]
    table = data_files.frame()
    parts = np.where(np.arange(300) < 200, "Training", np.where(np.arange(300) < 250, "PublicTest", "PrivateTest"))
    written(tmp_path, table.assign(Usage=parts))
    data, train, test = sources(*root)
    assert (len(train), len(test)) == (200, 50)
    assert np.array_equal(data.labels("val"), table["label"][200:250]), "a part of its own"
    assert made(*root, "data.val=null").sizes() == {"train": 180, "val": 20, "test": 50}
    written(tmp_path, table.assign(label=np.array(["cat", "dog"])[table["label"] % 2]))
    data, train, _ = sources(*root, *both)
    assert (data.class_names, train.labels[:3].tolist()) == (["cat", "dog"], [0, 1, 0])
    written(tmp_path, table.assign(label=np.array(["cat", "d\x1b[2Jog"])[table["label"] % 2]))
    with pytest.raises(DataError, match="cannot be printed"):
        sources(*root, *both)
    written(tmp_path, table.rename(columns={"label": "what"}).drop(columns=[f"pixel{n}" for n in range(49, 65)]))
    size = ["data.label=what", "data.image_size=[6,8]"]
    with pytest.raises(DataError, match=r"data.in_channels=1 fits"):
        sources(*root, *both, *size)
    assert sources(*root, *both, *size, "data.in_channels=1")[0].input_shape == (1, 6, 8)
    rgb = np.column_stack([table["label"], data_files.coloured(IMAGES[PARTS["train"]]).reshape(300, -1)])
    np.savetxt(tmp_path / "a.csv", rgb, fmt="%d", delimiter=" ")
    data, train, _ = sources(*root, *both)
    assert data.input_shape == (3, 8, 8)
    assert np.array_equal(train.images[:, 1], IMAGES[PARTS["train"]] // 2)


@pytest.mark.parametrize(
    ("text", "more", "says"),
    [
        ("", [], "no first line"),
        ("what,pixel1\n1,2\n", [], r"no column is named as labels are .* data.label=NAME"),
        ("what,pixel1\n1,2\n", ["data.label=whta"], "did you mean 'what'"),
        ("label,p1,p2,p3,p4\n0,1,x,1,1\n1,1,1,1,1\n", [], r"a\.csv, line 2: the pixel in column 'p2' is 'x'"),
        ("label,p1,p2,p3,p4\n0,1,1,1,1\n1,1\n", [], "line 3: the pixel in column 'p2' is missing"),
        ("label,p1,p2,p3\n0,1,1,1\n1,1,1,1\n", ["data.drop=[p9]"], "has no column 'p9'"),
        ("label,p1,p2\n0,1,1\n1,1,1\n", [], r"2 pixels per row, which make no square.*data.image_size=\[H,W\]"),
        ("0,1,0\n0,1,1\n", ["data.image_size=[1,2]"], "holds 0 alone.*data.label=-1"),
        ("label\n1\n", [], "one column alone"),
        ("label,p1,p2,p3,p4\n0.5,1,1,1,1\n1,1,1,1,1\n", [], "whole numbers from 0 or 1, or texts"),
    ],
)
def test_tables_that_cannot_be_used_name_the_place_and_the_remedy(tmp_path, text, more, says):
    (tmp_path / "a.csv").write_text(text)
    root = [f"data.root={tmp_path}", "data=csv", "data.train_file=a.csv"]
    with pytest.raises((ConfigError, DataError), match=says):
        sources(*root, "data.test_file=a.csv", *more)


def test_one_table_alone_says_what_to_type(tmp_path):
    written(tmp_path, data_files.frame())
    with pytest.raises(ConfigError, match=r"data\.test_file=FILE"):
        sources(f"data.root={tmp_path}", "data=csv", "data.train_file=a.csv")


def test_a_run_from_elsewhere_names_sources_and_nothing_more(tmp_path):
    """Trusted are the sources alone; no target inside their options; and torchvision fetches nothing for it."""
    config = {"data": {"_target_": "fmx.data.module.ImageDataModule"}}
    for name in READ_BY:
        check_trusted(config | {"data": config["data"] | {"train": {"_target_": name}}}, tmp_path)
    node = {"_target_": "fmx.data.torchvision_sets.load_torchvision", "mirrors": ["torchvision", "http://here/"]}
    assert without_torchvision({"train": node})["train"]["mirrors"] == ["http://here/"]
    assert node["mirrors"] == ["torchvision", "http://here/"]
    node["options"] = {"split": {"_target_": "torchvision.datasets.utils.download_url"}}
    with pytest.raises(DataError, match=r"data\.train\.options\.split"):
        check_trusted(config | {"data": config["data"] | {"train": node}}, tmp_path)


def test_a_key_of_another_source_is_refused():
    with pytest.raises(ConfigError, match="'file'"):
        made("data=digits", "+data.file=x.npz")


def test_options_are_typed_and_rows_of_a_sweep_are_told_apart_by_the_set_alone(command, tmp_path):
    data_files.emnist_letters(tmp_path)
    data_files.usps(tmp_path)
    run = ["data=torchvision", "data.root=.", *SHORT, "trainer=smoke", "data.validation=9"]
    for folder, more in (("a", ["data.dataset=EMNIST", "data.options={split: letters}"]), ("b", ["data.dataset=USPS"])):
        done = command(*run, *more, f"hydra.run.dir=runs/{folder}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = command("runs", "--csv", "table.csv", module="report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = (tmp_path / "table.csv").read_text().splitlines()[0].split(",")
    assert {"dataset", "data.dataset"} & {*names}
    assert not {"class_names", "num_classes", "image_size", "mean", "std"} & {*names}, names
