"""Every data source with files on disk: right arrays from good ones, a clear DataError from each bad one."""

import functools
import gzip
import hashlib
import http.server
import os
import pickle
import re
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from fmx.data.arrays import ImageArrays
from fmx.data.csv_images import load_csv
from fmx.data.digits import load_digits
from fmx.data.folder import ImageFolder
from fmx.data.idx import load_idx
from fmx.errors import ConfigError, DataError

CONF = Path(__file__).resolve().parents[1] / "conf" / "data"
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (100, 4, 4), dtype=np.uint8)
LABELS = np.arange(100, dtype=np.uint8) % 3


def configured(name, **changes):
    """The sources and figures of a member of conf/data."""
    config = OmegaConf.merge(
        OmegaConf.load(CONF.parent / "_loader.yaml"), OmegaConf.load(CONF / f"{name}.yaml"), changes
    )
    return OmegaConf.create({"data": config}).data


def load(config, part):
    return instantiate(config[part], _convert_="all")


def mean_and_std(images):
    values = images.double() / 255
    return [round(values.mean().item(), 6)], [round(values.std(correction=0).item(), 6)]


# ---------------------------------------------------------------------------------------------- arrays


def test_fingerprint_depends_on_shapes_pixels_and_labels_alone():
    images, labels = torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 1])
    base = ImageArrays(images, labels).fingerprint()
    strided = torch.zeros(2, 3, 3, 1, dtype=torch.uint8).permute(0, 3, 1, 2)
    assert base == ImageArrays(strided, labels.clone()).fingerprint()
    assert base != ImageArrays(images.view(2, 1, 9, 1), labels).fingerprint()
    assert base != ImageArrays(images + 1, labels).fingerprint()
    assert base != ImageArrays(images, labels.flip(0)).fingerprint()


# ------------------------------------------------------------------------------------------------- IDX


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


IDX_PIXELS, IDX_LABELS = idx(PIXELS), idx(LABELS)


def read_idx(folder, *, sums=(None, None), gz_sums=(None, None), mirrors=(), **changes):
    keys = {"image_size": 4, "num_classes": 3, "instead": ["data=digits"]} | changes
    images, labels = (
        {"name": name, "md5": md5, "gz_md5": gz_md5}
        for name, md5, gz_md5 in zip(("img", "lab"), sums, gz_sums, strict=True)
    )
    return load_idx(folder=str(folder), images=images, labels=labels, mirrors=mirrors, **keys)


def write_idx(folder, images=IDX_PIXELS, labels=IDX_LABELS, suffix=""):
    for name, content in (("img", images), ("lab", labels)):
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    return [hashlib.md5((folder / (name + suffix)).read_bytes()).hexdigest() for name in ("img", "lab")]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_gives_the_arrays_and_leaves_the_folder_alone(tmp_path, suffix):
    sums = write_idx(tmp_path, suffix=suffix)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir())
    tmp_path.chmod(0o555)
    arrays = read_idx(tmp_path, sums=sums, gz_sums=sums)
    assert np.array_equal(arrays.images.numpy(), PIXELS[:, None])
    assert np.array_equal(arrays.labels.numpy(), LABELS)
    assert (arrays.images.dtype, arrays.labels.dtype, len(arrays)) == (torch.uint8, torch.int64, 100)
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir())


def test_extracted_idx_is_preferred(tmp_path):
    write_idx(tmp_path, suffix=".gz", images=idx(PIXELS[::-1]))
    write_idx(tmp_path)
    assert np.array_equal(read_idx(tmp_path).images.numpy(), PIXELS[:, None])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_with_a_wrong_sum(tmp_path, suffix):
    good = write_idx(tmp_path, suffix=suffix)
    path = tmp_path / f"img{suffix}"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=rf"{re.escape(str(path))} is damaged .* not {good[0]};\ndelete it"):
        read_idx(tmp_path, sums=good, gz_sums=good)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", IDX_LABELS, r"img(.gz)? is no IDX file of bytes in 3 dimensions: it starts with ''"),
        (IDX_LABELS, IDX_LABELS, r"img(.gz)? is no IDX file .* it starts with '00000801"),
        (IDX_PIXELS[:10], IDX_LABELS, r"img(.gz)? is no IDX file"),
        (
            idx(PIXELS.astype(np.int8))[:2] + b"\x09" + IDX_PIXELS[3:],
            IDX_LABELS,
            r"img(.gz)? is no IDX file",
        ),
        (IDX_PIXELS[:-1], IDX_LABELS, r"img(.gz)? is shorter|header says 100 items"),
        (IDX_PIXELS + b"\0", IDX_LABELS, r"img(.gz)? is longer than the 100 items"),
        (IDX_PIXELS, idx(LABELS[:0]), r"lab(.gz)?: the header says 0 items"),
        (idx(PIXELS[:99]), IDX_LABELS, r"img(.gz)? holds 99 images, but lab(.gz)? 100 labels"),
        (idx(PIXELS[:, :3]), IDX_LABELS, r"img(.gz)? holds images of 3 x 4 pixels, but data.image_size"),
        (IDX_PIXELS, idx(LABELS + 1), r"lab(.gz)?: label 3 at position 2 is outside 0..2; check"),
        (
            b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 4, 4),
            IDX_LABELS,
            r"header says 4,294,967,295 items",
        ),
        (IDX_PIXELS + bytes(10**8), IDX_LABELS, r"img(.gz)? is longer than the 100 items"),
    ],
)
def test_bad_idx(tmp_path, images, labels, message, suffix):
    write_idx(tmp_path, images, labels, suffix)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-20],
        lambda content: content[:8],
        lambda content: content[:40] + bytes([content[40] ^ 255]) + content[41:],
        lambda content: content[:-8] + bytes(8),
        lambda content: b"not gzip" + content,
    ],
)
def test_damaged_gzip_without_a_sum(tmp_path, damage):
    write_idx(tmp_path, suffix=".gz")
    path = tmp_path / "img.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_idx(tmp_path)


def test_idx_that_is_a_folder(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "img").unlink()
    (tmp_path / "img").mkdir()
    with pytest.raises(DataError, match="img cannot be read"):
        read_idx(tmp_path)


# ------------------------------------------------------------------------------------------- fetching


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder and the address under which this machine serves it."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_missing_idx_is_fetched_from_the_first_good_mirror(tmp_path, mirror):
    served, address = mirror
    (served / "bad").mkdir()
    write_idx(served / "bad", suffix=".gz", images=idx(PIXELS[:50]))
    sums = write_idx(served, suffix=".gz")
    target = tmp_path / "root" / "raw"
    arrays = read_idx(target, gz_sums=sums, mirrors=[f"{address}none", f"{address}bad/", address])
    assert np.array_equal(arrays.images.numpy(), PIXELS[:, None])
    assert sorted(path.name for path in target.iterdir()) == ["img.gz", "lab.gz"]


def test_mirrors_with_the_wrong_file_leave_nothing(tmp_path, mirror):
    served, address = mirror
    write_idx(served, suffix=".gz")
    with pytest.raises(DataError, match=r"lab.gz is missing and .* with another MD5 sum"):
        read_idx(tmp_path / "raw", gz_sums=["0" * 32] * 2, mirrors=[address])
    assert list((tmp_path / "raw").iterdir()) == []


def test_without_a_network_the_ways_out_come_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    start = time.perf_counter()
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path / "raw", mirrors=["http://127.0.0.1:1/", "http://fmx.invalid/"])
    assert time.perf_counter() - start < 2
    for part in ("raw/lab.gz is missing", "127.0.0.1:1: ", "fmx.invalid: ", "data.root=DIR", "data=digits"):
        assert part in str(caught.value)
    assert not (tmp_path / "raw").exists()


# ------------------------------------------------------------------------------------------------- CSV

NAMES = ["label", *(f"pixel{i}" for i in range(1, 17))]
TABLE = np.concatenate([LABELS[:, None], PIXELS.reshape(100, 16)], axis=1)
LINES = [",".join(NAMES), *(",".join(map(str, row)) for row in TABLE)]


def read_csv(path, lines, end="\n"):
    path.write_text("".join(line + end for line in lines), encoding="utf-8")
    return load_csv(file=str(path), image_size=4, num_classes=3, instead=["data=digits"])


def changed(line, column, value):
    """The good lines with one field replaced; lines count from 1, the header's."""
    lines = [text.split(",") for text in LINES]
    lines[line - 1][NAMES.index(column)] = value
    return [",".join(fields) for fields in lines]


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        (LINES, "\n"),
        (LINES, "\r\n"),
        (["\ufeff" + LINES[0], *LINES[1:]], "\n"),
        ([",".join(f'"{field}"' for field in line.split(",")) for line in LINES], "\n"),
        ([line.replace(",", ", ") for line in LINES], "\n"),
        ([*LINES[:40], "", *LINES[40:], "", ""], "\n"),
        ([",".join(reversed(line.split(","))) for line in LINES], "\n"),
        (changed(3, "pixel2", "0" * 99 + str(TABLE[1, 2])), "\n"),
    ],
    ids=["plain", "crlf", "bom", "quotes", "spaces", "empty lines", "columns reversed", "leading zeros"],
)
def test_csv_gives_the_arrays(tmp_path, lines, end):
    arrays = read_csv(tmp_path / "a.csv", lines, end)
    assert np.array_equal(arrays.images.numpy(), PIXELS[:, None])
    assert np.array_equal(arrays.labels.numpy(), LABELS)
    assert (arrays.images.dtype, arrays.labels.dtype) == (torch.uint8, torch.int64)


def test_csv_without_a_final_line_end(tmp_path):
    (tmp_path / "a.csv").write_text("\n".join(LINES))
    assert len(load_csv(file=str(tmp_path / "a.csv"), image_size=4, num_classes=3, instead=[])) == 100


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: the header lacks the column 'label' and 16 more; it must name label,pixel1..pixel16"),
        (LINES[:1], "has no rows below its header"),
        ([*LINES[:1], "", ""], "has no rows below its header"),
        (LINES[1:], "line 1 holds numbers where the header must be"),
        ([LINES[0].removeprefix("label,"), *LINES[1:]], "line 1: the header lacks the column 'label'"),
        ([LINES[0].replace("pixel7,", ""), *LINES[1:]], "line 1: the header lacks the column 'pixel7'; "),
        ([LINES[0] + ",id", *LINES[1:]], "line 1: the header has the unknown column 'id'"),
        ([LINES[0] + ",pixel3", *LINES[1:]], "line 1: the header repeats the column 'pixel3'"),
        (changed(2, "pixel1", "x"), "line 2, column pixel1: 'x' is not a whole number from 0 to 255"),
        (changed(70, "pixel16", ""), "line 70, column pixel16: '' is not a whole number"),
        (changed(70, "pixel3", "1.5"), "line 70, column pixel3: '1.5' is not a whole number"),
        (changed(70, "pixel3", "-1"), "line 70, column pixel3: '-1' is not a whole number"),
        (changed(101, "pixel16", "300"), "line 101, column pixel16: 300 is outside 0..255"),
        (changed(3, "pixel2", "9" * 100), "line 3, column pixel2: 9999"),
        (changed(33, "label", "12"), "line 33, column label: 12 is outside 0..2"),
        ([*LINES[:50], LINES[50] + ",1", *LINES[51:]], "line 51: 18 fields, but 17 columns"),
        ([*LINES[:50], "1,2,3"], "line 51: 3 fields, but 17 columns"),
        ([*LINES[:50], "1" * 10**6], "line 51: 1 fields, but 17 columns"),
        ([*LINES[:50], "\0\xff"], "line 51: 1 fields, but 17 columns"),
    ],
)
def test_bad_csv(tmp_path, lines, message):
    with pytest.raises(DataError) as caught:
        read_csv(tmp_path / "a.csv", lines)
    assert str(tmp_path / "a.csv") in str(caught.value)
    assert message in str(caught.value)


def test_missing_csv_names_the_ways_out(tmp_path):
    with pytest.raises(DataError, match=r"a.csv is missing.\nWays out: data.root=DIR .* data=digits"):
        load_csv(file=str(tmp_path / "a.csv"), image_size=4, num_classes=3, instead=["data=digits"])
    with pytest.raises(DataError, match="cannot be read"):
        load_csv(file=str(tmp_path), image_size=4, num_classes=3, instead=[])


# -------------------------------------------------------------------------------------------- folders


def folder(path, **changes):
    return ImageFolder(folder=str(path), **{"class_names": ["a", "b"], "image_size": 4, "in_channels": 3} | changes)


@pytest.fixture
def images(tmp_path):
    """Two classes with an image each."""
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (6, 8), colour).save(tmp_path / name / f"{name}.png")
    return tmp_path


def test_folder_lists_sorted_images_and_knows_their_labels(images):
    Image.new("L", (3, 3)).save(images / "a" / "Z.JPG")
    (images / "a" / "notes.txt").write_text("x")
    (images / "a" / ".hidden.png").write_text("x")
    (images / "a" / "deeper").mkdir()
    dataset = folder(images)
    assert dataset.files == ["a/Z.JPG", "a/a.png", "b/b.png"]
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.class_names == ["a", "b"]
    image, label = pickle.loads(pickle.dumps(dataset))[2]
    assert (image.dtype, image.shape, label) == (torch.uint8, (3, 4, 4), 1)
    assert image[:, 0, 0].tolist() == [0, 0, 255]
    assert folder(images, class_names=["b", "a"]).labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("L", 200, "png", {1: (200,), 3: (200, 200, 200)}),
        ("1", 1, "png", {1: (255,), 3: (255, 255, 255)}),
        ("RGB", (255, 0, 0), "png", {1: (76,), 3: (255, 0, 0)}),
        ("RGB", (255, 255, 255), "jpg", {1: (255,), 3: (255, 255, 255)}),
        ("RGBA", (200, 200, 200, 255), "png", {1: (200,), 3: (200, 200, 200)}),
        ("RGBA", (255, 255, 255, 0), "png", {1: (0,), 3: (0, 0, 0)}),
        ("LA", (200, 255), "png", {1: (200,), 3: (200, 200, 200)}),
        ("P", 3, "png", {1: (100,), 3: (100, 100, 100)}),
        ("P", 3, "gif", {1: (100,), 3: (100, 100, 100)}),
        ("I;16", 200 * 256 + 7, "png", {1: (200,), 3: (200, 200, 200)}),
        ("I", 70_000, "tif", {1: (255,), 3: (255, 255, 255)}),
        ("CMYK", (0, 0, 0, 0), "tif", {1: (255,), 3: (255, 255, 255)}),
        ("RGB", (9, 9, 9), "webp", {1: (9,), 3: (9, 9, 9)}),
    ],
)
def test_every_mode_and_size_becomes_grey_or_rgb(tmp_path, mode, colour, suffix, expected):
    image = Image.new(mode, (50, 20), colour)
    if mode == "P":
        image.putpalette([0] * 9 + [100] * 3)
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / f"x.{suffix}")
    for in_channels, pixel in expected.items():
        pixels, _ = folder(tmp_path, class_names=["a"], in_channels=in_channels, image_size=5)[0]
        assert pixels.shape == (in_channels, 5, 5)
        assert pixels.is_contiguous()
        assert pixels.flatten(1).unique(dim=1).squeeze(1).tolist() == list(pixel)


def test_rows_stay_rows_and_the_camera_orientation_is_applied(tmp_path):
    (tmp_path / "a").mkdir()
    image = Image.fromarray(np.array([[0, 255], [0, 255]], dtype=np.uint8))
    image.save(tmp_path / "a" / "1.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "a" / "2.jpg", exif=exif, quality=100)
    dataset = folder(tmp_path, class_names=["a"], image_size=2, in_channels=1)
    assert dataset[0][0].tolist() == [[[0, 255], [0, 255]]]
    assert (dataset[1][0] > 127).tolist() == [[[False, False], [True, True]]]


def png_claiming(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image of a known kind"),
        (png_claiming(100, 100), "truncated"),
        (png_claiming(8_001, 8_000), r"8001 x 8000 pixels are more than 64,000,000"),
        (png_claiming(60_000, 60_000), "3600000000 pixels"),
    ],
)
def test_unreadable_image_is_named_when_it_is_read(images, content, message):
    path = images / "a" / "broken.png"
    path.write_bytes(content)
    dataset = folder(images)
    with pytest.raises(DataError, match=rf"{re.escape(str(path))} .*{message}.*; replace or remove it"):
        dataset[1]
    assert dataset[0][0].shape == (3, 4, 4)


def test_floating_point_images_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("F", (4, 4), 0.5).save(tmp_path / "a" / "x.tif")
    with pytest.raises(DataError, match=r"x.tif cannot be read as an image: floating-point pixels"):
        folder(tmp_path, class_names=["a"])[0]


def test_bad_folders(images, tmp_path_factory):
    with pytest.raises(
        DataError,
        match=r"no image folder at .*none \(No such file.*\): the folders of pictures in .* \('a', 'b'\) belong",
    ):
        folder(images / "none")
    with pytest.raises(DataError, match=r"lacks a folder for 'c', 'd'; train and test need"):
        folder(images, class_names=["a", "b", "c", "d"])
    with pytest.raises(DataError, match=r"has folders that are no class of the train folder .*: 'b'"):
        folder(images, class_names=["a"])
    with pytest.raises(ConfigError, match=r"data.in_channels must be 1 \(grey\) or 3 \(RGB\) for pictures, got 4"):
        folder(images, in_channels=4)
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    Image.new("L", (2, 2)).save(outside)
    (images / "b" / "link.png").symlink_to(outside)
    with pytest.raises(DataError, match=r"link.png leads outside .*; put a copy"):
        folder(images)
    (images / "b" / "link.png").unlink()
    (images / "b" / "b.png").unlink()
    with pytest.raises(DataError, match=rf"{re.escape(str(images / 'b'))} holds no images \(.*\); add some"):
        folder(images)
    (images / "b").rename(images / "b\n\x1b[31m")
    with pytest.raises(DataError, match=r"unprintable names: 'b\\n\\x1b\[31m'"):
        folder(images, class_names=["a", "b\n\x1b[31m"])


def test_folder_fingerprint_follows_classes_names_contents_and_shape(images):
    def seen() -> str:
        return folder(images).fingerprint()

    a, b = images / "a" / "a.png", images / "b" / "b.png"
    base = seen()
    assert folder(images, image_size=8).fingerprint() != base
    os.utime(a)
    assert seen() == base, "a file that was touched is the same"
    contents = a.read_bytes()
    a.write_bytes(contents[:40] + bytes([contents[40] ^ 1]) + contents[41:])
    assert seen() != base, "edited in the middle, of the same size"
    earlier = folder(images).earlier_fingerprint()
    a.write_bytes(contents)
    assert folder(images).earlier_fingerprint() == earlier, "it told sizes alone"
    assert seen() == base
    size = max(a.stat().st_size, b.stat().st_size)
    for path in (a, b):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    padded, pair = seen(), (a.read_bytes(), b.read_bytes())
    a.write_bytes(pair[1])
    b.write_bytes(pair[0])
    assert seen() != padded, "two files of one size have changed places"
    a.rename(a.with_name("c.png"))
    renamed = seen()
    assert renamed != padded
    a.symlink_to("c.png")
    assert seen() != renamed, "one image more"
    (images / "c").mkdir()
    a.rename(images / "c" / "a.png")
    (images / "c" / "a.png").unlink()
    Image.new("L", (4, 4)).save(images / "c" / "a.png")
    assert folder(images, class_names=["a", "b", "c"]).fingerprint() != renamed


# --------------------------------------------------------------------------------------------- digits


def test_digits_are_two_fixed_stratified_parts_of_any_size():
    config = configured("digits")
    train, test = load(config, "train"), load(config, "test")
    assert (train.images.shape, test.images.shape) == ((1437, 1, 28, 28), (360, 1, 28, 28))
    assert (int(train.images.min()), int(train.images.max()), train.images.dtype) == (0, 255, torch.uint8)
    total = torch.bincount(torch.cat([train.labels, test.labels]))
    assert torch.all((torch.bincount(test.labels) - total * 360 / 1797).abs() < 1)
    assert train.fingerprint() == "9d50ca5358dc281ac5ede69e773d3b2c"
    assert test.fingerprint() == "6731b6747b912355cc4b272e07f1e110"
    assert mean_and_std(train.images) == (config.mean, config.std)
    small = load(configured("digits", image_size=8), "test")
    assert small.images.shape == (360, 1, 8, 8)
    assert set(small.images.unique().tolist()) == {round(v * 255 / 16 + 1e-9) for v in range(17)}
    with pytest.raises(ConfigError, match="part must be train or test"):
        load_digits(part="val", num_test=360, test_seed=0, image_size=8)


# ------------------------------------------------------------------------------------------ real data

FINGERPRINTS = {
    "fashion_mnist": ("15e01102bcf6fc29cf87f9c3e8e955ca", "f025a0d112f48647ae08b1e34ad78254"),
    "mnist": ("28950fea914472ffffffa6d4cae38e06", "9dc7afadaecbd89433b1742322e7f59e"),
}


@pytest.mark.data
@pytest.mark.parametrize("name", FINGERPRINTS)
def test_official_files(name):
    config = configured(name, root=os.environ["FMX_DATA_ROOT"])
    train, test = load(config, "train"), load(config, "test")
    assert (train.images.shape, test.images.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert (train.fingerprint(), test.fingerprint()) == FINGERPRINTS[name]
    assert mean_and_std(train.images) == (config.mean, config.std)
    if name == "fashion_mnist":
        assert torch.bincount(train.labels).tolist() == [6000] * 10
        assert torch.bincount(test.labels).tolist() == [1000] * 10


@pytest.mark.data
def test_extracted_official_files_have_the_sums_in_the_configuration(tmp_path):
    official = Path(os.environ["FMX_DATA_ROOT"])
    for name, folder_name in (("fashion_mnist", "FashionMNIST"), ("mnist", "MNIST")):
        raw = tmp_path / folder_name / "raw"
        raw.mkdir(parents=True)
        for path in (official / folder_name / "raw").glob("t10k*.gz"):
            (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        assert load(configured(name, root=str(tmp_path)), "test").fingerprint() == FINGERPRINTS[name][1]


@pytest.mark.data
def test_csv_made_of_the_official_files_gives_the_same_arrays(tmp_path):
    official = load(configured("fashion_mnist", root=os.environ["FMX_DATA_ROOT"]), "test")
    table = torch.cat([official.labels[:, None], official.images.flatten(1)], dim=1)
    header = ",".join(["label", *(f"pixel{i}" for i in range(1, 785))])
    rows = (",".join(map(str, row)) for row in table.tolist())
    (tmp_path / "fashion-mnist_test.csv").write_text("\n".join([header, *rows, ""]))
    from_csv = load(configured("fashion_mnist_csv", root=str(tmp_path)), "test")
    assert from_csv.fingerprint() == official.fingerprint()
