"""Ten thousand damaged files for each reader: each loads, or is a DataError, in bounded time and memory."""

import csv
import gzip
import io
import json
import os
import random
import shutil
import signal
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mutants
from fmx.data.csv_images import load_csv
from fmx.data.folder import ImageFolder
from fmx.data.idx import load_idx
from fmx.errors import DataError
from fmx.inference.export.signature import Signature, signature_of
from fmx.inference.images import prepare
from fmx.reporting.html_report import _history
from fmx.reporting.outcomes import outcome
from fmx.runs.checkpoint_files import load_checkpoint, load_weights
from fmx.runs.predictions import read_predictions
from fmx.runs.run_dir import open_run
from fmx.runs.trusted_config import trusted_config
from run_directories import make_run

MIB = 2**20
NUM_SHORT, NUM_LONG = 300, 10_000
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
LABELS = np.arange(6, dtype=np.uint8) % 3


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class Idx:
    """Images and labels in turn, the other one whole; `packed` ones are changed before or after they are packed."""

    bound = 96 * MIB  # 64 are allowed to any .gz

    def __init__(self, folder: Path, *, packed: bool = False) -> None:
        self.folder, self.packed = folder, packed
        self.files = {"images": idx(PIXELS), "labels": idx(LABELS)}

    def __call__(self, seed: int) -> str:
        suffix = ".gz" if self.packed else ""
        for number, (name, contents) in enumerate(self.files.items()):
            changed = number == seed % 2
            inside = mutants.mutant([contents], seed) if changed and not (self.packed and seed % 3) else contents
            data = gzip.compress(inside, mtime=0) if self.packed else inside
            outside = changed and self.packed and seed % 3
            (self.folder / f"{name}{suffix}").write_bytes(mutants.mutant([data], seed) if outside else data)
        files = ({"name": name, "md5": None, "gz_md5": None} for name in self.files)
        return infer_output(lambda: check_arrays(load_idx(
            folder=str(self.folder), images=next(files), labels=next(files), image_size=4, num_classes=3,
            mirrors=[], instead=[],
        )))  # fmt: skip


class IdxGz(Idx):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, packed=True)


class Csv:
    bound = 96 * MIB

    def __init__(self, folder: Path) -> None:
        self.path = folder / "images.csv"
        header = ["label", *(f"pixel{n}" for n in range(1, 17))]
        rows = [[label, *image.flatten()] for label, image in zip(LABELS, PIXELS, strict=True)]
        texts = []
        for quoting, end in [(csv.QUOTE_MINIMAL, "\n"), (csv.QUOTE_ALL, "\r\n")]:
            text = io.StringIO()
            csv.writer(text, quoting=quoting, lineterminator=end).writerows([header, *rows])
            texts.append(text.getvalue().encode())
        self.corpus = texts

    def __call__(self, seed: int) -> str:
        self.path.write_bytes(mutants.mutant(self.corpus, seed))
        return infer_output(
            lambda: check_arrays(load_csv(file=str(self.path), image_size=4, num_classes=3, instead=[]))
        )


class Pictures:
    """Files of each format, PNG with its sums mended so that damage is read, for a folder's data set and predict."""

    bound = 1024 * MIB  # 64 million pixels of four bytes, and a second copy of most kinds

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "images"
        (self.folder / "a").mkdir(parents=True)
        draw = np.random.default_rng(1)
        self.corpus: dict[str, list[bytes]] = {}
        for kind, modes in {
            "png": ["L", "RGBA", "P", "I;16", "1", "LA"], "jpeg": ["L", "RGB", "CMYK"], "gif": ["P"],
            "bmp": ["RGB", "P"], "ppm": ["RGB", "L"], "tiff": ["L", "RGB", "I;16", "F"], "webp": ["RGB", "RGBA"],
        }.items():  # fmt: skip
            self.corpus[kind] = [encoded(draw, kind, mode) for mode in modes]
        self.signature = Signature("m", "d", ["a", "b"], None, 1, 8, [0.5], [0.5], "inside", "pad", light_on_dark=True)

    def __call__(self, seed: int) -> str:
        kinds = list(self.corpus)
        kind = kinds[seed % len(kinds)]
        data = mutants.mutant(self.corpus[kind], seed)
        path = self.folder / "a" / f"x.{kind}"
        path.write_bytes(mended_png(data) if kind == "png" and seed % 3 else data)
        words = {
            infer_output(
                lambda: ImageFolder(folder=str(self.folder), class_names=["a"], image_size=8, in_channels=3)[0]
            ),
            infer_output(lambda: prepare(path, self.signature, "auto")),
        }
        path.unlink()
        return " and ".join(sorted(words))


def encoded(draw: np.random.Generator, kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    base = Image.fromarray(draw.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(draw.integers(0, 2**16, (12, 10), dtype=np.uint16))
    else:
        picture = base.convert(mode)
    exif = {"exif": base.getexif()} if kind in {"jpeg", "png", "webp"} else {}
    if exif:
        exif["exif"][0x0112] = 6
    picture.save(buffer, kind, **exif)
    return buffer.getvalue()


def mended_png(data: bytes) -> bytes:
    """The sum of each chunk made right again."""
    out, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        size = min(int.from_bytes(data[place : place + 4]), len(data) - place - 12)
        body = data[place + 4 : place + 8 + size]
        out += struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + size
    return bytes(out)


class Checkpoint:
    """An archive changed as it is, or with its list of tensors changed and the archive made anew around it."""

    bound = 128 * MIB

    def __init__(self, folder: Path) -> None:
        self.path = folder / "best.ckpt"
        self.net = nn.Linear(3, 2)
        weights = OrderedDict(self.net.state_dict())
        plain = {
            "state_dict": weights,
            "global_step": 3,
            "callbacks": {"x": {"dirpath": "/a", "k": [1, 2.5, None, True]}},
        }
        momentum = {
            "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 3).t()}},
            "param_groups": [{"lr": 1e-3}],
        }
        self.corpus = []
        for contents in (plain, plain | {"optimizer_states": [momentum]}):
            buffer = io.BytesIO()
            torch.save(contents, buffer)
            self.corpus.append(buffer.getvalue())

    def __call__(self, seed: int) -> str:
        self.path.write_bytes(rezipped(self.corpus, seed) if seed % 3 else mutants.mutant(self.corpus, seed))

        def read():
            state = load_checkpoint(self.path)
            total = sum(t.numel() * t.itemsize for t in state["state_dict"].values())
            assert total <= 2 * self.path.stat().st_size
            load_weights(self.net, self.path)

        return infer_output(read)


def rezipped(corpus: list[bytes], seed: int) -> bytes:
    draw = random.Random(seed)
    with zipfile.ZipFile(io.BytesIO(draw.choice(corpus))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice([next(n for n in members if n.endswith("data.pkl"))] * 4 + list(members))
    members[name] = mutants.mutant([members[name]], seed)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw.choice([zipfile.ZIP_STORED] * 5 + [zipfile.ZIP_DEFLATED])) as archive:
        for member, contents in members.items():
            archive.writestr(member, contents)
    return buffer.getvalue()


class RunDirectory:
    """Each file that the tables and verbs read of a run, in turn."""

    bound = 96 * MIB
    files = ("run.json", "metrics.json", ".hydra/resolved.yaml", "predictions.npz", "history.csv", "run.json")

    def __init__(self, folder: Path) -> None:
        self.run = make_run(folder / "run", choices={})
        self.whole = {name: (self.run / name).read_bytes() for name in self.files}

    def __call__(self, seed: int) -> str:
        name = self.files[seed % len(self.files)]
        (self.run / name).write_bytes(mutants.mutant([self.whole[name]], seed))

        word = self.read()
        (self.run / name).write_bytes(self.whole[name])
        return word

    def read(self) -> str:
        return infer_output(self.tables)

    def tables(self) -> None:
        outcome(open_run(self.run), "x")
        read_predictions(self.run)
        _history(self.run / "history.csv", None)


class RestoredRun(RunDirectory):
    """The same of a real run, whose configuration has every group."""

    files = ("run.json", "metrics.json", ".hydra/resolved.yaml", ".hydra/resolved.yaml", "predictions.npz")

    def __init__(self, folder: Path, run: Path) -> None:
        self.run = shutil.copytree(run, folder / "run")
        self.whole = {name: (self.run / name).read_bytes() for name in self.files}

    def read(self) -> str:
        return " and ".join(sorted({infer_output(self.tables), infer_output(self.restore)}))

    def restore(self) -> None:
        run = open_run(self.run)
        run.checkpoint(run.tested)
        signature_of(trusted_config(run), normalize="inside", record={})


class Onnx:
    """What happens in the worker process, with its limits; where that dies, the reader says so in a DataError."""

    bound = 512 * MIB

    def __init__(self, folder: Path, whole: bytes) -> None:
        self.path, self.whole = folder / "model.onnx", whole

    def __call__(self, seed: int) -> str:
        from fmx.inference.export import onnx_worker

        self.path.write_bytes(mutants.mutant([self.whole], seed))
        try:
            session, facts = onnx_worker._open(self.path)
            shape = [2, *facts["inputs"][0][2][1:]]
        except Exception:  # noqa: BLE001 - the worker passes any on as a line, which becomes a DataError
            return "error"
        signature = infer_output(lambda: Signature.from_texts(facts["texts"], self.path))
        try:
            session.run(None, {facts["inputs"][0][0]: np.zeros(shape, np.uint8)})
        except Exception:  # noqa: BLE001 - likewise
            return f"error in a run, signature {signature}"
        return signature


def infer_output(read) -> str:
    """`loaded` or `refused`; all other exceptions pass."""
    try:
        read()
    except DataError as error:
        if not 0 < len(str(error)) < 2000:
            raise AssertionError(str(error)[:100]) from error
        return "refused"
    return "loaded"


def check_arrays(arrays) -> None:
    assert arrays.images.shape[1:] == (1, 4, 4)
    assert len(arrays.images) == len(arrays.labels)
    assert 0 <= int(arrays.labels.min()) <= int(arrays.labels.max()) < 3


READERS = {
    "idx": Idx,
    "idx_gz": IdxGz,
    "csv": Csv,
    "pictures": Pictures,
    "checkpoint": Checkpoint,
    "run": RunDirectory,
    "restored_run": RestoredRun,
    "onnx": Onnx,
}


@pytest.fixture(scope="module")
def onnx_file(command, tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("onnx")
    done = command(
        "data=digits", "data.image_size=8", "model=mlp", "model.net.hidden_sizes=[8]", "trainer=smoke", "logger=none",
        "hydra.run.dir=run", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = command("run", "--out", "model.onnx", module="export", cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "model.onnx").read_bytes()


@pytest.fixture
def reader(request, tmp_path):
    kind = READERS[request.param]
    needs = {Onnx: "onnx_file", RestoredRun: "digits_run"}
    return kind(tmp_path, *([request.getfixturevalue(needs[kind])] if kind in needs else []))


def check(reader, folder: Path, seeds: range) -> mutants.Outcome:
    read = mutants.read_all(reader, seeds, folder, address_bytes=reader.bound + 512 * MIB)
    peak = f"peak {read.peak_bytes / MIB:.0f} MiB, {read.seconds:.0f} s"
    print(f"\n{type(reader).__name__}: {len(seeds)} files: {dict(read.counts)}, died {len(read.died)}, {peak}")
    assert read.wrong == []
    assert isinstance(reader, Onnx) or read.died == []
    assert sum(read.counts.values()) + len(read.died) == len(seeds)
    assert read.peak_bytes < reader.bound
    return read


@pytest.mark.parametrize("reader", READERS, indirect=True)
def test_damaged_files_load_or_are_refused(reader, tmp_path):
    read = check(reader, tmp_path, range(NUM_SHORT))
    assert len(read.counts) > 1, "changes that never or always matter find nothing"


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("reader", READERS, indirect=True)
def test_ten_thousand_damaged_files_load_or_are_refused(reader, tmp_path):
    check(reader, tmp_path, range(NUM_SHORT, NUM_SHORT + NUM_LONG))


def test_the_harness_sees_what_goes_wrong(tmp_path):
    def read(seed: int) -> str:
        if seed == 1:
            raise KeyError("x")
        if seed == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 5:
            bytearray(64 * MIB)
        return "fine"

    read_all = mutants.read_all(read, range(8), tmp_path, address_bytes=1024 * MIB)
    assert [(seed, text.partition(":")[0]) for seed, text in read_all.wrong] == [(1, "KeyError")]
    assert read_all.died == [(3, signal.SIGKILL)]
    assert read_all.counts["fine"] == 6
    assert read_all.peak_bytes > 60 * MIB
    assert mutants.mutant([b"abcd" * 50], 7) == mutants.mutant([b"abcd" * 50], 7) != mutants.mutant([b"abcd" * 50], 8)
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["peak"]
