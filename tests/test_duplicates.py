"""Equal and similar images by `fmx data --duplicates`, and figures without them by `fmx report --without`."""

import csv
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fmx.data import near_duplicates
from fmx.data.arrays import ImageArrays
from fmx.data.near_duplicates import CHANGES, find_pairs
from fmx.data.paired_test_images import read_paired_test_images
from fmx.errors import DataError
from fmx.reporting.intervals import share
from run_directories import make_run, wrong_at
from terminal import Terminal

FINGERPRINT = "f" * 32
HEADER = "first_part,first_index,second_part,second_index,data_fingerprint"


def smooth(rng, number, shape=(1, 12, 12)):
    """Images of noise that neighbours share, so that a shift leaves some of it."""
    noise = rng.normal(size=(number, shape[0], shape[1] + 4, shape[2] + 4))
    for axis in (2, 3):
        noise = sum(np.roll(noise, step, axis) for step in range(3))
    noise = noise[:, :, 2:-2, 2:-2]
    low, high = noise.min((1, 2, 3), keepdims=True), noise.max((1, 2, 3), keepdims=True)
    return (20 + 150 * (noise - low) / (high - low)).astype(np.uint8)


def moved(image, down, right):
    """The image moved, with other content where it has left."""
    image = np.roll(image, (down, right), (1, 2)).copy()
    if down:
        image[:, 0 if down > 0 else -1] = 77
    if right:
        image[:, :, 0 if right > 0 else -1] = 130
    return image


def planted(rng, shape=(1, 12, 12)):
    """Training and test images with copies of one another: exact, changed, and so much that they are none."""
    train, test = smooth(rng, 40, shape), smooth(rng, 20, shape)
    test[0] = train[3]
    test[1] = (train[5] * 1.3 + 9).astype(np.uint8)
    test[2] = moved(train[7], 1, 0)
    test[3] = moved(train[8], -1, 1)
    test[4] = train[9][:, :, ::-1]
    test[5] = moved(train[10][:, :, ::-1], 0, -1)
    test[6] = np.clip(train[11] + rng.normal(0, 2, shape), 0, 255).astype(np.uint8)
    test[7] = np.clip(train[12] + rng.normal(0, 30, shape), 0, 255).astype(np.uint8)  # noisy: no longer near
    test[8] = moved(train[13], 3, 0)  # too far
    test[9] = 255 - train[14]  # the negative
    train[20] = train[21]
    test[11] = test[12][:, :, ::-1]
    return train, test


def naive(first, second, threshold):
    """All pairs by numpy's own correlation of whole sets: (i, j) to the largest one."""
    found = {}
    height, width = first.shape[2:]
    for down, right, mirrored in CHANGES:
        other = first if second is None else second
        other = other[:, :, :, ::-1] if mirrored else other
        of_a, of_b = ([slice(max(0, sign * d), n + min(0, sign * d)) for d, n in ((down, height), (right, width))]
                      for sign in (1, -1))  # fmt: skip
        a, b = (each[:, :, rows, columns].reshape(len(each), -1).astype(float)
                for each, (rows, columns) in ((first, of_a), (other, of_b)))  # fmt: skip
        with np.errstate(invalid="ignore", divide="ignore"):
            matrix = np.corrcoef(a, b)[: len(a), len(a) :]
        for i, j in zip(*np.nonzero(matrix >= threshold - 1e-9), strict=True):
            if np.ptp(a[i]) and np.ptp(b[j]) and (second is not None or i < j):
                found[i, j] = max(matrix[i, j], found.get((i, j), 0))
    return found


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 9, 11)])
@pytest.mark.parametrize("block", [7, 2048])
def test_blocks_find_what_a_naive_search_does(monkeypatch, shape, block):
    monkeypatch.setattr(near_duplicates, "BLOCK", block)
    monkeypatch.setattr(near_duplicates, "NUM_COMPONENTS", 8)
    rng = np.random.default_rng(0)
    train, test = planted(rng, shape)
    train[30], train[31], test[15] = 100, 100, 0  # a single value: equal or nothing
    kinds = [torch.from_numpy(each) for each in (train, test)]
    as_floats = [each.float() / 255 for each in kinds]
    for threshold, (first, second), dense in ((0.9, kinds, 0.01), (0.6, kinds, 0.0), (0.95, as_floats, 0.01)):
        monkeypatch.setattr(near_duplicates, "DENSE", dense)
        for a, b in ((first, second), (first, None), (second, None)):
            pairs = find_pairs(*(each if each is None else ImageArrays(each, torch.zeros(len(each)).long())
                                 for each in (a, b)), threshold=threshold)  # fmt: skip
            wanted = naive(a.numpy(), None if b is None else b.numpy(), threshold)
            found = dict(zip(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True),
                             pairs.correlation.tolist(), strict=True))  # fmt: skip
            flat = {(30, 31)} if a is first and b is None else set()
            assert found.keys() - flat == wanted.keys()
            assert flat <= found.keys()
            assert found == pytest.approx(wanted | dict.fromkeys(flat, 1), abs=1e-6 if a.is_floating_point() else 1e-9)
            assert len(found) == len(pairs)
            order = pairs.correlation - 0.5 * ~pairs.equal
            assert (order.diff() <= 0).all()


def test_more_pairs_than_can_be_listed_are_refused(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 50)
    images = torch.from_numpy(smooth(np.random.default_rng(0), 60))
    labels = torch.zeros(60).long()
    with pytest.raises(DataError, match=r"more than 50 pairs .* 0\.01; choose a --threshold closer to 1"):
        find_pairs(ImageArrays(images, labels), None, threshold=0.01)
    with pytest.raises(DataError, match=r"1,770 pairs of equal images"):
        find_pairs(ImageArrays(images[:1].expand(60, -1, -1, -1), labels), None, threshold=0.9)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pairs_of(rows, one, other):
    return {
        (int(row["first_index"]), int(row["second_index"])): row
        for row in rows
        if (row["first_part"], row["second_part"]) == (one, other)
    }


@pytest.fixture(scope="module")
def arrays_file(tmp_path_factory):
    """A data set as an .npz file, with planted copies of which one has another label."""
    train, test = planted(np.random.default_rng(1))
    y_train, y_test = np.arange(40) % 2, np.arange(20) % 2
    y_test[:7] = y_train[[3, 5, 7, 8, 9, 10, 11]]
    y_test[1] = 1 - y_test[1]
    folder = tmp_path_factory.mktemp("arrays")
    np.savez(folder / "set.npz", x_train=train[:, 0], y_train=y_train, x_test=test[:, 0], y_test=y_test)
    return folder / "set.npz"


COPIES = {(3, 0), (5, 1), (7, 2), (8, 3), (9, 4), (10, 5), (11, 6)}


def test_words_stay_whole_on_a_narrow_terminal(tmp_path):
    shown = Terminal([sys.executable, "-m", "fmx", "data", "digits", "--duplicates"], cwd=tmp_path, columns=70)
    assert shown.read() == 0, shown.text
    table = shown.text.partition("exact pairs")[2].partition("the nearest")[0]
    assert {*table.split()} > {"within", "training", "test", "and"}, shown.text
    assert not {"with", "trai", "ning"} & {*table.split()}, shown.text


def test_planted_copies_are_found_counted_listed_written_and_drawn(command, arrays_file, tmp_path):
    of_set = ["npz", f"data.file={arrays_file}", "--root", str(tmp_path), "--duplicates"]
    done = command(*of_set, "--csv", "pairs.csv", "--grid", "pairs.png", module="data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "within training 1 0 1 2 training" in lines
    assert "within test 0 1 1 2 test" in lines
    assert "training and test 1 6 1 7 training, 7 test" in lines
    assert "3 1 0 1 1.0000 equal" in lines
    assert any(line.startswith("8 0 3 0 1.0000 moved 1 down and 1 left") for line in lines)
    assert any(line.startswith("10 0 5 0 1.0000 mirrored, moved 1 left") for line in lines)
    rows = rows_of(tmp_path / "pairs.csv")
    found = pairs_of(rows, "training", "test")
    assert found.keys() == COPIES
    assert {row["kind"] for row in rows} == {"exact", "near"}
    assert found[3, 0]["kind"] == "exact"
    assert pairs_of(rows, "training", "training").keys() == {(20, 21)}
    assert pairs_of(rows, "test", "test").keys() == {(11, 12)}
    (fingerprint,) = {row["data_fingerprint"] for row in rows}
    assert f"fingerprint {fingerprint}" in lines
    assert (tmp_path / "pairs.png").stat().st_size > 10_000
    kept = (tmp_path / "pairs.csv").read_bytes()
    again = command(*of_set, "--csv", "pairs.csv", module="data", cwd=tmp_path)
    assert (again.returncode, "--force" in again.stderr) == (2, True)
    assert (tmp_path / "pairs.csv").read_bytes() == kept
    wide = command(*of_set, "--threshold", "0.6", "--csv", "pairs.csv", "--force", module="data", cwd=tmp_path)
    assert wide.returncode == 0, wide.stderr
    found = pairs_of(rows_of(tmp_path / "pairs.csv"), "training", "test")
    assert found.keys() > COPIES | {(12, 7)}
    assert (14, 9) not in found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--csv", "pairs.csv"], "--csv is for --duplicates"),
        (["--threshold", "0.9"], "--threshold is for --duplicates"),
        (["--duplicates", "--threshold", "1.5"], "'1.5' is no correlation above 0 and up to 1"),
        (["--duplicates", "--threshold", "near"], "'near' is no correlation"),
        (["--duplicates", "--csv-to-idx", "x"], "leave out --duplicates"),
        (["--duplicates", "--csv", "none/pairs.csv"], "there is no folder none"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_any_work(command, tmp_path, options, said):
    done = command("digits", *options, module="data", cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert (done.stdout, list(tmp_path.iterdir())) == ("", [])


def test_pictures_are_compared_as_training_reads_them_and_named_by_their_files(command, tmp_path):
    rng = np.random.default_rng(2)
    train, test, val = smooth(rng, 6, (3, 24, 24)), smooth(rng, 4, (3, 24, 24)), smooth(rng, 2, (3, 24, 24))
    test[0], val[1] = train[1], train[2]
    for part, images in (("train", train), ("test", test), ("val", val)):
        for number, image in enumerate(images):
            folder = tmp_path / "set" / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(image.transpose(1, 2, 0))
            size = (48, 48) if (part, number) == ("test", 0) else (24, 24)  # the copy is twice as large
            picture.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    of_set = ["image_folder", "data.image_size=24", "--root", "set", "--duplicates", "--threshold", "0.95"]
    done = command(*of_set, "--csv", "pairs.csv", module="data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "comparing all images as training reads them, 3 × 24 × 24" in done.stdout
    rows = rows_of(tmp_path / "pairs.csv")
    assert {(row["first_part"], row["first_file"], row["second_part"], row["second_file"]) for row in rows} == {
        ("training", "b/1.png", "test", "a/0.png"),
        ("training", "a/2.png", "validation", "b/1.png"),
    }
    assert "b/1.png b a/0.png a" in " ".join(done.stdout.split())
    large = command(*of_set, "data.image_size=9000", module="data", cwd=tmp_path)
    assert (large.returncode, "choose a smaller data.image_size" in large.stderr) == (1, True), large.stderr


def write_list(path, *pairs, header=HEADER):
    path.write_text("\n".join([header, *pairs]) + "\n", encoding="utf-8")
    return path


def test_figures_without_duplicates_are_those_of_the_other_test_images(command, tmp_path):
    wrong = [[0, 1, 5, 9], [0, 2, 20], [1, 5, 28, 29, 7]]
    for seed, places in enumerate(wrong, start=1):
        make_run(tmp_path / "runs" / str(seed), said=wrong_at(places), seed=seed)
    make_run(tmp_path / "other", said=wrong_at([3]), model="large", fingerprint="e" * 32)
    left_out = [0, 5, 6, 7, 29]
    pairs = [f"training,{9 + index},test,{index},{FINGERPRINT}" for index in left_out]
    pairs += [f"test,1,test,2,{FINGERPRINT}", f"training,3,training,4,{FINGERPRINT}", pairs[0]]
    write_list(tmp_path / "pairs.csv", *pairs)
    done = command("runs", "other", "--without", "pairs.csv", "--csv", "t.csv", "--md", "t.md", "--html", "t.html",
                   "--latex", "t.tex", module="report", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = [index for index in range(30) if index not in left_out]
    wanted = share([np.mean([index not in places for index in kept]) for places in wrong], len(kept))
    rows = {row["runs"]: row for row in rows_of(tmp_path / "t.csv")}
    row = rows["runs/1;runs/2;runs/3"]
    name = "test_accuracy_without_duplicates"
    found = [float(row[f"{name}_{part}"]) for part in ("mean", "std", "low", "high")]
    assert found == pytest.approx([wanted.mean, wanted.std, *wanted.interval])
    assert float(row["test_accuracy_mean"]) == pytest.approx(1 - np.mean([len(each) for each in wrong]) / 30)
    assert rows["other"][f"{name}_mean"] == ""
    shown = f"{100 * wanted.mean:.2f} ± {100 * wanted.std:.2f}"
    for text in (done.stdout, *((tmp_path / f"t.{kind}").read_text(encoding="utf-8") for kind in ("md", "html"))):
        assert shown in text
        assert "without the 5 test images that pairs.csv pairs" in text
    one = command("runs/1", "--without", "pairs.csv", "--csv", "one.csv", module="report", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    (row,) = rows_of(tmp_path / "one.csv")
    wilson = share([np.mean([index not in wrong[0] for index in kept])], len(kept))
    assert [float(row[f"{name}_{part}"]) for part in ("mean", "low", "high")] == pytest.approx(
        [wilson.mean, *wilson.interval]
    )
    refused = command("other", "--without", "pairs.csv", module="report", cwd=tmp_path)
    assert (refused.returncode, "is of a data set with the fingerprint ffff" in refused.stderr) == (1, True)


def test_a_list_of_pairs_fits_the_runs_that_were_tested_on_them(command, arrays_file, tmp_path):
    done = command("npz", f"data.file={arrays_file}", "--root", str(tmp_path), "--duplicates", "--csv", "pairs.csv",
                   module="data", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = command("data=npz", f"data.file={arrays_file}", "data.validation=4", "data.batch_size=8", "model=mlp",
                   "trainer=smoke", "logger=none", "hydra.run.dir=run", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = command("run", "--without", "pairs.csv", "--csv", "t.csv", module="report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = rows_of(tmp_path / "t.csv")
    with np.load(tmp_path / "run/predictions.npz") as stored:
        right = stored["logits"].argmax(1) == stored["labels"]
    assert float(row["test_accuracy_without_duplicates_mean"]) == pytest.approx(right[7:].mean())


def test_lists_of_pairs_that_are_none_are_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    of_one = f"training,1,test,2,{FINGERPRINT}"
    for lines, said in (
        ([], "lists no pairs"),
        ([f"training,1,test,-2,{FINGERPRINT}"], "line 2: '-2' is no index"),
        ([of_one, f"training,1,test,{10**9},{FINGERPRINT}"], "line 3: '1000000000' is no index"),
        ([f"training,1,test,²,{FINGERPRINT}"], "is no index"),
        (["training,1,test"], "is no index"),
        ([of_one, "training,1,test,3," + "e" * 32], "line 3: pairs of another data set"),
        (['training,1,test,"2'], "cannot be read"),
        (["training,1,test," + "9" * 200_000], "cannot be read"),
    ):
        with pytest.raises(DataError, match=said):
            read_paired_test_images(write_list(path, *lines))
    with pytest.raises(DataError, match="has no column data_fingerprint"):
        read_paired_test_images(write_list(path, of_one, header=HEADER.rpartition(",")[0]))
    path.write_bytes(b"\xff\xfe\x00" + os.urandom(100))
    with pytest.raises(DataError, match=r"cannot be read|has no column"):
        read_paired_test_images(path)
    os.truncate(path, 2**33)  # sparse
    with pytest.raises(DataError, match="larger than the limit"):
        read_paired_test_images(path)
    for other in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_paired_test_images(other)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no plain file"):
        read_paired_test_images(tmp_path / "pipe")
