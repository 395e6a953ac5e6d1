"""fmx data: what is in a set, and IDX to CSV and back."""

import filecmp
from pathlib import Path

import pytest
from PIL import Image

from fmx.errors import ConfigError
from fmx.runs.new_file import new_file


def test_digits_are_summed_up_and_drawn(command, tmp_path):
    done = command("digits", "--grid", "digits.png", module="data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "digits: 1,437 training and 360 test images of 1 × 28 × 28, 10 classes" in done.stdout
    assert "images that occur more than once: 0 in training, 0 in test, 0 in both" in done.stdout
    assert (tmp_path / "digits.png").stat().st_size > 10_000
    again = command("digits", "--grid", "digits.png", module="data", cwd=tmp_path)
    assert (again.returncode, "--force" in again.stderr) == (2, True)


def test_an_unknown_set_is_answered_with_the_nearest(command, tmp_path):
    done = command("digit", module="data", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'digits'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_converted_leaves_nothing(command, tmp_path):
    for part, label in [(p, c) for p in ("train", "test") for c in "ab"]:
        (tmp_path / "set" / part / label).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "set" / part / label / "1.png")
    done = command("image_folder", "--root", "set", "--idx-to-csv", "new/csv", module="data", cwd=tmp_path)
    assert (done.returncode, "not held in memory" in done.stderr) == (1, True)
    assert not (tmp_path / "new").exists()


def test_a_small_folder_of_images_is_looked_at_and_what_is_left_out_is_said(command, tmp_path):
    for part, label, number in [(p, c, n) for p in ("train", "test") for c in "ab" for n in range(3)]:
        (tmp_path / "set" / part / label).mkdir(parents=True, exist_ok=True)
        shade = 10 * number + 100 * (label == "b") + 50 * (part == "test" and number > 0)
        Image.new("L", (8, 8), shade).save(tmp_path / "set" / part / label / f"{number}.png")
    for name in ("train/a/IMG.HEIC", "train/b/IMG.heic", "test/a/notes.txt", "train/a/.DS_Store"):
        (tmp_path / "set" / name).write_bytes(b"...")
    (tmp_path / "set/train/a/deeper").mkdir()
    done = command("image_folder", "--root", "set", module="data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "too large" not in done.stdout
    assert "images that occur more than once: 0 in training, 0 in test, 2 in both" in done.stdout
    mean = sum(10 * n + 100 * b for n in range(3) for b in (0, 1)) / 6 / 255
    assert f"mean [{mean:.6f}" in done.stdout
    said = done.stdout + done.stderr
    assert said.count("2 .heic: pictures of kinds that are not read") == 1
    assert "1 hidden, 1 folder within" in said
    assert "1 file that is no picture by its name (1 .txt)" in said


def test_a_file_that_comes_meanwhile_is_left_alone(tmp_path):
    mine, theirs = tmp_path / "table.csv", "somebody else's"

    def write():
        with new_file(mine, force=False) as temporary:
            temporary.write_text("mine")
            mine.write_text(theirs)

    with pytest.raises(ConfigError, match=r"table\.csv exists"):
        write()
    assert [path.read_text() for path in tmp_path.iterdir()] == [theirs]


def test_other_csv_files_come_with_what_a_run_of_them_needs(command, tmp_path):
    (tmp_path / "csv").mkdir()
    rows = [",".join(["label", *(f"pixel{n}" for n in range(1, 785))])]
    rows += [",".join(map(str, [label, *range(label, 28), *[0] * (784 - 28 + label)])) for label in range(10)] * 4
    for part in ("train", "test"):
        (tmp_path / "csv" / f"fashion-mnist_{part}.csv").write_text("\n".join(rows) + "\n")
    done = command("--csv-to-idx", "csv", "--root", "idx", module="data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    needed = done.stdout.splitlines()[-1].split()
    assert len(needed) == 4
    options = ["data.root=idx", "data.validation=10", "model=mlp", "trainer=smoke"]
    refused = command(*options, "hydra.run.dir=refused", cwd=tmp_path)
    assert (refused.returncode, "another file" in refused.stderr) == (1, True)
    done = command(*options, *needed, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.data
def test_real_files_to_csv_and_back_are_the_same_bytes(command, tmp_path):
    import gzip
    import os

    done = command("fashion_mnist", "--idx-to-csv", "csv", module="data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "60,000 training and 10,000 test" in done.stdout
    assert "mean [0.286041], standard deviation [0.353024]" in done.stdout
    done = command("--csv-to-idx", "csv", "--root", "idx", module="data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = sorted((tmp_path / "idx" / "FashionMNIST" / "raw").iterdir())
    assert len(written) == 4
    assert "not the official files" not in done.stdout
    for path in written:
        official = Path(os.environ["FMX_DATA_ROOT"]) / "FashionMNIST" / "raw" / f"{path.name}.gz"
        (tmp_path / "official").write_bytes(gzip.decompress(official.read_bytes()))
        assert filecmp.cmp(path, tmp_path / "official", shallow=False)
