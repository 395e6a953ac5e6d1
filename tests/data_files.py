"""Small data sets in the formats that people have them in, made of the digits inside scikit-learn."""

import bz2
import gzip
import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

DIGITS = load_digits()
IMAGES = (DIGITS.images * 255 / 16).astype(np.uint8)[:400]  # (400, 8, 8)
LABELS = DIGITS.target[:400].astype(np.int64)
PARTS = {"train": slice(0, 300), "test": slice(300, 400)}
VAL = slice(250, 300)


def enlarged(side, part):
    """Digits of `side` pixels, a multiple of 8."""
    return np.kron(IMAGES[PARTS[part]], np.ones((1, side // 8, side // 8), dtype=np.uint8))


def coloured(images):
    """Grey images (N, H, W) in RGB, each channel darker than the one before: (N, H, W, 3)."""
    return np.stack([images, images // 2, images // 4], axis=-1)


def keras(path):
    """The keys of Keras's own files."""
    np.savez(
        path,
        x_train=IMAGES[PARTS["train"]], y_train=LABELS[PARTS["train"]].astype(np.uint8),
        x_test=IMAGES[PARTS["test"]], y_test=LABELS[PARTS["test"]].astype(np.uint8),
    )  # fmt: skip


def medmnist(path):
    """The keys of MedMNIST: colour pictures, and labels (N, 1)."""
    rows = {"train": slice(0, 250), "val": VAL, "test": PARTS["test"]}
    images = {f"{part}_images": coloured(IMAGES[each]) for part, each in rows.items()}
    labels = {f"{part}_labels": LABELS[each, None].astype(np.uint8) for part, each in rows.items()}
    np.savez_compressed(path, **images, **labels)


def usps(root):
    """torchvision's USPS: LIBSVM's text, packed."""
    for name, part in (("usps.bz2", "train"), ("usps.t.bz2", "test")):
        lines = [
            f"{label + 1} "
            + " ".join(f"{place}:{value / 127.5 - 1:.6f}" for place, value in enumerate(image.ravel(), 1))
            for image, label in zip(enlarged(16, part), LABELS[PARTS[part]], strict=True)
        ]
        with bz2.open(root / name, "wt") as file:
            file.write("\n".join(lines) + "\n")


def emnist_letters(root):
    """torchvision's EMNIST, split `letters`, whose labels run from 1 to 26."""
    raw = root / "EMNIST/raw"
    raw.mkdir(parents=True)
    for part, rows in PARTS.items():
        images = np.pad(enlarged(24, part), ((0, 0), (2, 2), (2, 2)))
        labels = (np.arange(400)[rows] % 26 + 1).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (raw / f"emnist-letters-{part}-{kind}-ubyte").write_bytes(header + array.tobytes())


def cifar10(root):
    """torchvision's CIFAR10: pickled batches of rows, whose MD5 sums are of course not the official ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    images = {part: coloured(enlarged(32, part)).transpose(0, 3, 1, 2).reshape(-1, 3072) for part in PARTS}
    for number in range(5):
        rows = slice(60 * number, 60 * number + 60)
        batch = {"data": images["train"][rows], "labels": LABELS[rows].tolist()}
        (folder / f"data_batch_{number + 1}").write_bytes(pickle.dumps(batch))
    batch = {"data": images["test"], "labels": LABELS[PARTS["test"]].tolist()}
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"kind {label}" for label in range(10)]}))


def svhn(root):
    """torchvision's SVHN: Matlab's files, in which the digit 0 has the label 10."""
    from scipy.io import savemat

    for part, rows in PARTS.items():
        labels = np.where(LABELS[rows] == 0, 10, LABELS[rows]).astype(np.uint8)
        savemat(
            root / f"{part}_32x32.mat", {"X": coloured(enlarged(32, part)).transpose(1, 2, 3, 0), "y": labels[:, None]}
        )


def gtsrb(root):
    """torchvision's GTSRB: pictures of different sizes in folders, and a table for the test set."""
    draw = np.random.default_rng(0)
    base = root / "gtsrb/GTSRB"
    (base / "Final_Test/Images").mkdir(parents=True)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label in range(3):
        (base / f"Training/{label:05d}").mkdir(parents=True)
        for number in range(20):
            size = (*draw.integers(20, 40, 2), 3)
            picture = Image.fromarray(draw.integers(80 * label, 80 * label + 60, size, dtype=np.uint8))
            picture.save(base / f"Training/{label:05d}/{number:05d}.ppm")
            if number < 5:
                picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(base / f"Final_Test/Images/{label}{number}.ppm")
                rows.append(f"{label}{number}.ppm;1;1;0;0;0;0;{label}")
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(rows) + "\n")


def flowers(root):
    """torchvision's Flowers102, of three kinds: JPEG of different sizes, and labels in Matlab's files."""
    from scipy.io import savemat

    draw = np.random.default_rng(0)
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    labels = np.arange(60) % 3 + 1
    for number, label in enumerate(labels, 1):
        size = (*draw.integers(30, 60, 2), 3)
        picture = Image.fromarray(draw.integers(70 * label, 70 * label + 40, size, dtype=np.uint8))
        picture.save(folder / f"jpg/image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": labels})
    savemat(folder / "setid.mat", {"trnid": np.arange(1, 31), "valid": np.arange(31, 40), "tstid": np.arange(40, 61)})


def eurosat(root):
    """torchvision's EuroSAT, which has no test part: JPEG of one size in folders."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("Forest", "River", "SeaLake")):
        folder = root / "eurosat/2750" / name
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(80 * label, 80 * label + 60, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}_{number}.jpg")


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def hub(folder):
    """A folder as hubs have it: shards, pictures as {bytes, path}, and names of classes in the schema."""
    import pyarrow as pa
    from pyarrow import parquet

    (folder / "data").mkdir(parents=True)
    features = {
        "image": {"_type": "Image"},
        "label": {"names": [f"kind {n}" for n in range(10)], "_type": "ClassLabel"},
    }
    described = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    for name, rows in {
        "train-00000-of-00002": slice(0, 160),
        "train-00001-of-00002": slice(160, 300),
        "test-00000-of-00001": PARTS["test"],
    }.items():
        pictures = [{"bytes": encoded(image), "path": f"{n}.png"} for n, image in enumerate(IMAGES[rows])]
        table = pa.table({"image": pa.array(pictures), "label": pa.array(LABELS[rows])})
        parquet.write_table(table.replace_schema_metadata(described), folder / f"data/{name}.parquet")


def frame(part="train"):
    """A table of digits: label, pixel1 to pixel64."""
    rows = PARTS[part]
    table = pd.DataFrame(IMAGES[rows].reshape(-1, 64), columns=[f"pixel{number}" for number in range(1, 65)])
    table.insert(0, "label", LABELS[rows])
    return table


# What a member of data/ needs besides its name: its values, and what makes its files.
NAMED = {
    "csv": ["data.train_file=train.csv", "data.test_file=test.csv.gz"],
    "npz": ["data.file=keras.npz"],
    "parquet": ["data.train_file=hub"],
    "torchvision": ["data.dataset=USPS"],
}


def make_named(folder):
    """Files for each of NAMED, below one data.root."""
    tables(folder)
    keras(folder / "keras.npz")
    hub(folder / "hub")
    usps(folder)


def tables(folder):
    """Two tables as a German spreadsheet writes them, one of them packed."""
    frame("train").to_csv(folder / "train.csv", sep=";", encoding="utf-8-sig")
    text = frame("test").to_csv(sep=";").encode("utf-8-sig")
    Path(folder / "test.csv.gz").write_bytes(gzip.compress(text))
