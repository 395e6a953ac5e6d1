"""Files that say they are larger than they are, or become so: an error of ours, and no memory for what is not there."""

import gzip
import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper

import mutants
from fmx.config.bounded_files import PlainLoader, read_yaml
from fmx.config.conf_dir import CONF_DIR
from fmx.data.csv_images import load_csv
from fmx.data.idx import load_idx
from fmx.errors import DataError
from fmx.inference.export.onnx_model import open_onnx
from fmx.inference.export.signature import Signature
from fmx.models.tensor_file import read_tensors
from fmx.reporting.outcomes import outcome
from fmx.runs.checkpoint_files import load_checkpoint
from fmx.runs.predictions import read_predictions
from fmx.runs.run_dir import open_run
from fmx.runs.trusted_config import trusted_config
from run_directories import make_run

MIB = 2**20
GIB = 2**30


def refused(read, folder: Path, *, at_most: int = 128 * MIB) -> None:
    """`read` raises DataError in a process that takes no more memory than that, and does so in seconds."""

    def infer_output(_: int) -> str:
        try:
            read()
        except DataError as error:
            return str(error)
        return "loaded"

    seen = mutants.read_all(infer_output, range(1), folder, address_bytes=at_most + 256 * MIB)
    assert (seen.wrong, seen.died) == ([], [])
    assert list(seen.counts) != ["loaded"]
    assert seen.peak_bytes < at_most
    assert seen.seconds < 20


def sparse(path: Path, start: bytes, size: int) -> None:
    """A file of any size that takes no room: zeros behind its start."""
    path.write_bytes(start)
    os.truncate(path, size)


def idx_reader(folder: Path):
    images, labels = ({"name": name, "md5": None, "gz_md5": None} for name in ("images", "labels"))
    return lambda: load_idx(
        folder=str(folder), images=images, labels=labels, image_size=4, num_classes=3, mirrors=[], instead=[]
    )


HEADER = {"images": bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 4, 4), "labels": bytes([0, 0, 8, 1])}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("count", [2**32 - 1, 2**31, 2**24])
def test_an_idx_header_of_any_size(tmp_path, suffix, count):
    pack = gzip.compress if suffix else bytes
    (tmp_path / f"images{suffix}").write_bytes(pack(bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 4, 4) + bytes(64)))
    (tmp_path / f"labels{suffix}").write_bytes(pack(bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes(4)))
    refused(idx_reader(tmp_path), tmp_path)


def test_a_gzip_bomb(tmp_path):
    packer = zlib.compressobj(9, wbits=31)
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**26, 4, 4)
    bomb = packer.compress(head) + b"".join(packer.compress(bytes(16 * MIB)) for _ in range(64)) + packer.flush()
    assert len(bomb) < 2 * MIB  # of 1 GiB
    (tmp_path / "images.gz").write_bytes(bomb)
    (tmp_path / "labels.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes(4)))
    refused(idx_reader(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "start",
    [b"", b"label,pixel1,pixel2,pixel3,pixel4\n1,", b"label," + b"pixel1," * 10**6, b"1," * 10**6],
    ids=["no end", "a line without an end", "a million columns", "a million numbers"],
)
def test_a_csv_line_of_any_length(tmp_path, start):
    path = tmp_path / "x.csv"
    sparse(path, start, GIB)
    refused(lambda: load_csv(file=str(path), image_size=2, num_classes=3, instead=[]), tmp_path, at_most=64 * MIB)


def altered(path: Path, old: bytes, new: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Change the list of tensors of a checkpoint, and make the archive anew around it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, contents in members.items():
            archive.writestr(name, contents.replace(old, new) if name.endswith("data.pkl") else contents)


def int4(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


CHECKPOINTS = {
    "a storage beyond the file": (b"K\x08tq", int4(2**30) + b"tq"),
    "a tensor beyond its storage": (b"K\x08\x85", int4(2**30) + b"\x85"),
    "strides of zero": (b"K\x08\x85q\nK\x01\x85", int4(2**31 - 1) + b"\x85q\nK\x00\x85"),
    "a negative offset": (b"QK\x00K\x08\x85", b"Q" + int4(-4) + b"K\x08\x85"),
    "an array of any size": (b"ctorch._utils\n_rebuild_tensor_v2\n", b"c__builtin__\nbytearray\n"),
    "a tensor without numbers": (b"_rebuild_tensor_v2", b"_rebuild_meta_tensor_no_storage"),
    "a place in memory": (b"q\x01", b"r\xff\xff\xff\xff"),
    "an array made by size": (b"}q\x02", b"}q\x02\x96\x00\x00\x00\x00\x01\x00\x00\x00"),
}


@pytest.mark.parametrize("attack", CHECKPOINTS)
def test_a_checkpoint_that_claims_more_than_it_holds(tmp_path, attack):
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": {"w": torch.arange(8.0)}}, path)
    assert load_checkpoint(path)["state_dict"]["w"].tolist() == list(range(8))
    before = path.read_bytes()
    altered(path, *CHECKPOINTS[attack])
    assert path.read_bytes() != before

    def read():
        weights = load_checkpoint(path)["state_dict"]["w"]
        assert weights.tolist() == list(range(8))  # what is only mapped past its end is still itself
        raise DataError("harmless")

    refused(read, tmp_path)


def test_a_compressed_checkpoint_and_one_that_is_counted_twice(tmp_path):
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(32 * MIB)}}, path)
    altered(path, b"", b"", zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < MIB
    refused(lambda: load_checkpoint(path), tmp_path)
    torch.save({"state_dict": {str(n): torch.zeros(n + 1) for n in range(3)}}, path)
    contents = path.read_bytes()
    assert contents.count(b"PK\x01\x02") > 3
    path.write_bytes(contents.replace(b"PK\x01\x02", b"PK\x01\x02", 1))
    assert set(load_checkpoint(path)["state_dict"]) == {"0", "1", "2"}
    place = contents.rindex(b"data/2") - 46 + 42  # the offset of the last record in the directory
    first = contents.index(b"data/0") - 30
    path.write_bytes(contents[:place] + struct.pack("<I", first) + contents[place + 4 :])
    refused(lambda: load_checkpoint(path), tmp_path)


def test_what_was_shared_stays_shared_and_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "x.ckpt"
    base = torch.arange(6.0)
    torch.save({"a": base, "b": base[2:4], "t": base.view(2, 3).t(), "empty": torch.zeros(0), "n": [base]}, path)
    read = read_tensors(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(read["a"], base)
    assert torch.equal(read["t"], base.view(2, 3).t())
    read["a"][2] = 9
    assert read["b"][0] == read["n"][0][2] == 9


def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"w": torch.ones(100)}}, path)
    contents = bytearray(path.read_bytes())
    contents[contents.index(struct.pack("<f", 1.0) * 10) + 2] ^= 1
    path.write_bytes(contents)
    with pytest.raises(DataError, match=r"x\.ckpt is damaged"):
        load_checkpoint(path)


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["run.json", "metrics.json", ".hydra/resolved.yaml", "predictions.npz"])
def test_a_file_of_a_run_that_is_huge_or_never_ends(tmp_path, run, name):
    def read():
        outcome(open_run(run), "x")
        read_predictions(run)

    read()
    sparse(run / name, b"{", GIB)
    refused(read, tmp_path, at_most=64 * MIB)
    (run / name).unlink()
    os.mkfifo(run / name)
    refused(read, tmp_path, at_most=64 * MIB)


TAGS = ["no bool", "no int", "no time", "base 60 in a tag"]


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"a{n + 1}: &a{n + 1} [{f'*a{n}, ' * 9}]\n" for n in range(20)),
        "a: " + "[" * 10_000,
        "a: " + "1:" * 400_000 + "1",
        "a: !!python/object/apply:os.system [touch PWNED]",
        "a: !!set {x}",
        "a: !!binary aGVsbG8=",
        "a: " + "1:" * 200 + "1.5",
        "a: !!bool maybe",
        'a: !!int ""',
        "a: !!timestamp soon",
        "a: !!int " + "1:" * 20_000 + "1",
    ],
    ids=["aliases", "depth", "base 60", "an object", "a set", "bytes", "a large number", *TAGS],
)
def test_a_configuration_that_grows(tmp_path, run, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (run / ".hydra/resolved.yaml").write_text(text)
    refused(lambda: trusted_config(open_run(run)), tmp_path)
    assert not (tmp_path / "PWNED").exists()


def npz(run: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with np.load(run / "predictions.npz") as stored:
        whole = {name: npy(stored[name]) for name in stored}
    with zipfile.ZipFile(run / "predictions.npz", "w", compression) as archive:
        for name, contents in (whole | members).items():
            archive.writestr(f"{name}.npy", contents)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_claiming(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(64)


@pytest.mark.parametrize(
    "members",
    [
        {"logits": npy_claiming((2**40, 3))},
        {"logits": npy_claiming((2**31, 2**31))},
        {"logits": npy_claiming((-1, 3))},
        {"labels": npy_claiming((30,), "<U100000000")},
        {"labels": npy_claiming((8,), "|O")},
        {"labels": npy(np.full(30, 2**40))},
        {"labels": npy(np.full(30, -1))},
    ],
)
def test_predictions_that_claim_more_than_they_hold(tmp_path, run, members):
    read_predictions(run)
    npz(run, **members)
    refused(lambda: read_predictions(run), tmp_path)


def test_predictions_that_are_a_bomb(tmp_path, run):
    npz(run, zipfile.ZIP_DEFLATED, logits=npy(np.zeros((64 * MIB, 3), np.float32)))
    refused(lambda: read_predictions(run), tmp_path)


def test_a_fifo_for_data_ends_in_an_error(tmp_path):
    for name in ("images", "labels", "x.csv", "best.ckpt"):
        os.mkfifo(tmp_path / name)
    refused(idx_reader(tmp_path), tmp_path)
    refused(lambda: load_csv(file=str(tmp_path / "x.csv"), image_size=2, num_classes=3, instead=[]), tmp_path)
    refused(lambda: load_checkpoint(tmp_path / "best.ckpt"), tmp_path)


SIGNATURE = Signature("m", "d", ["a", "b"], None, 1, 2, [0.5], [0.5], "inside", "pad", light_on_dark=True)


def write_model(path: Path, nodes: list, initializers=()) -> None:
    """An ONNX file that says of itself what fmx export says, around any nodes that make `logits`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, SIGNATURE.to_texts())
    path.write_bytes(model.SerializeToString())


def constant(name: str, values: list[int]) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def wait(text: str) -> dict:
    """Nodes that call for 2**40 numbers in one way or another."""
    return {
        "constant": [
            helper.make_node("ConstantOfShape", ["size"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["logits"]),
        ],
        "outer product": [
            helper.make_node("ConstantOfShape", ["line"], ["a"]),
            helper.make_node("Transpose", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "a"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["logits"]),
        ],
    }[text]


@pytest.mark.parametrize("kind", ["constant", "outer product"])
def test_an_onnx_file_that_asks_for_terabytes(tmp_path, kind):
    path = tmp_path / "m.onnx"
    write_model(path, wait(kind), [constant("size", [2**20, 2**20]), constant("line", [1, 2**20])])

    def run():
        open_onnx(path)[1](np.zeros((2, 1, 2, 2), np.uint8))

    with pytest.raises(DataError, match=r"m\.onnx cannot be (read|run)"):
        run()


@pytest.mark.parametrize("place", ["/etc/passwd", "../secret", "secret", "C:\\secret"])
def test_an_onnx_file_reads_no_other_file(tmp_path, place):
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/secret").write_bytes(bytes(64))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 2], raw_data=bytes(32))
    onnx.external_data_helper.set_external_data(tensor, place, 0, 32)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
    ]
    write_model(tmp_path / "in/m.onnx", nodes, [tensor])
    with pytest.raises(DataError, match="weights in another file"):
        open_onnx(tmp_path / "in/m.onnx")


def test_an_onnx_file_that_never_ends(tmp_path):
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["still"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, [])],
    )
    loop = helper.make_node("Loop", ["", "true"], [], body=body)
    inside = helper.make_graph([loop], "then", [], [])
    write_model(tmp_path / "m.onnx", [helper.make_node("If", ["true"], [], then_branch=inside)], [true])
    with pytest.raises(DataError, match=r"holds a loop \(Loop\)"):
        open_onnx(tmp_path / "m.onnx")


def test_a_worker_that_dies_is_an_error_and_ends_with_its_model(tmp_path, monkeypatch):
    from fmx.inference.export import onnx_model

    dying = tmp_path / "dying.py"
    dying.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    (tmp_path / "m.onnx").write_bytes(b"x")
    monkeypatch.setattr(onnx_model.onnx_worker, "__file__", str(dying))
    with pytest.raises(DataError, match=r"brings down the process that runs it \(-11\)"):
        open_onnx(tmp_path / "m.onnx")
    dying.write_text('import time; print(\'{"error": "x"}\', flush=True); time.sleep(1000)\n')
    worker = onnx_model._Worker(tmp_path / "m.onnx")
    assert json.loads(worker.process.stdout.readline()) == {"error": "x"}
    process = worker.process
    del worker
    assert process.poll() is not None


IN_PARTS = [
    "a: 1\nb:\n  c: [1, 2]\n  d: |\n    x\n     y\ne: null\n",
    "a: 1\na: 2\n",
    "hydra:\n  run:\n    dir: x\n  list:\n  - 1\n  - 2\n",
    "a: 'one\n\n  two'\nb: 1\n",
    'a: "x\nb: 1"\n',
    "a:\n- 1\n- 2\nb: 3\n",
    "? a\n: b\n",
    "a: b\n c\n",
    "# note\na: 1\n",
    "---\na: 1\n",
    "yes:\n  a: 1\n",
    "a: {b: 1,\nc: 2}\n",
    "a:\n  b: |2\n     x\n  c: 1\n",
    "a:\n  b: |\n    x\u2028  y\n",
    "a: 1\r\nb: 2\r\n",
    "a:\n\n  b: 1\n",
]


def test_a_configuration_that_is_read_in_parts_is_what_it_is_as_a_whole(tmp_path):
    """Runs of a sweep have most parts in common, which are parsed once; what does not split is parsed as a whole."""
    files = sorted(CONF_DIR.rglob("*.yaml"))
    assert len(files) > 20
    texts = [*IN_PARTS, *(path.read_text(encoding="utf-8") for path in files)]
    for text in texts:
        (tmp_path / "x.yaml").write_text(text, encoding="utf-8", newline="")
        try:
            whole = yaml.load(text, Loader=PlainLoader)
        except yaml.YAMLError:
            whole = None
        for _ in range(2):
            try:
                read = read_yaml(tmp_path / "x.yaml")
            except DataError:
                assert not isinstance(whole, dict), text
            else:
                assert repr(read) == repr(whole), text
                read.clear()  # nobody else has what was read


@pytest.mark.parametrize(
    "bad", ["a: &x 1\nb: *x\n", "a: !!binary x\n", 'a: "\\e[1m"\n', f"a: {'[' * 50}{']' * 50}\n", "a: 1\nb: [\n"]
)
def test_no_part_of_a_configuration_is_exempt_from_the_bounds(tmp_path, bad):
    (tmp_path / "x.yaml").write_text("first: 1\n" + bad)
    with pytest.raises(DataError, match=r"x\.yaml (cannot be read|holds)"):
        read_yaml(tmp_path / "x.yaml")
