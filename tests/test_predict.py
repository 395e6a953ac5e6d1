"""`fmx predict`: what becomes of pictures of any kind, and what a run says of them."""

import csv
import json
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from fmx.data.digits import load_digits
from fmx.data.folder import ImageFolder
from fmx.data.idx import load_idx
from fmx.data.in_memory import in_memory
from fmx.errors import ConfigError, DataError
from fmx.inference.export.signature import Signature
from fmx.inference.images import find_pictures, prepare

SIDE = 28
SIGNATURE = {
    "model": "net", "data": "clothes", "class_names": ["a", "b"], "english_names": None, "in_channels": 1,
    "image_size": SIDE, "mean": [0.3], "std": [0.3], "normalize": "inside", "fit": "pad", "light_on_dark": True,
}  # fmt: skip


def signature(**changes):
    return Signature(**SIGNATURE | changes)


def grey(seed=0, shape=(SIDE, SIDE)):
    """A grey picture with a black border."""
    pixels = np.zeros(shape, np.uint8)
    pixels[2:-2, 2:-2] = np.random.default_rng(seed).integers(0, 256, (shape[0] - 4, shape[1] - 4), np.uint8)
    return pixels


def cross(width, height, *, ground, ink, mode="RGB"):
    """A picture of a plus sign in the middle, half as large as the picture."""
    picture = Image.new(mode, (width, height), ground)
    for w, h in [(width // 2, height // 6), (width // 6, height // 2)]:
        picture.paste(ink, ((width - w) // 2, (height - h) // 2, (width + w) // 2, (height + h) // 2))
    return picture


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


def seen(path, *, invert="auto", **changes):
    """How a model sees the picture: uint8 (C, S, S)."""
    picture = prepare(path, signature(**changes), invert)
    pixels = picture.pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (changes.get("in_channels", 1), SIDE, SIDE)
    return pixels


def test_a_grey_picture_of_the_models_size_passes_unchanged(tmp_path):
    for seed in range(5):
        pixels = grey(seed)
        for suffix in ("png", "bmp", "tiff", "pgm"):
            path = saved(Image.fromarray(pixels), tmp_path / f"{seed}.{suffix}")
            assert np.array_equal(seen(path)[0], pixels)
        assert np.array_equal(seen(path, in_channels=3), np.stack([pixels] * 3))


def test_any_mode_becomes_the_same_picture(tmp_path):
    pixels = grey()
    picture = Image.fromarray(pixels)
    opaque = Image.merge("RGBA", [*[picture] * 3, Image.new("L", picture.size, 255)])
    for name, other in {
        "rgb": picture.convert("RGB"),
        "rgba": opaque,
        "la": opaque.convert("LA"),
        "palette": picture.convert("P"),
        "cmyk": picture.convert("RGB").convert("CMYK"),
        "sixteen": Image.fromarray(pixels.astype(np.uint16) * 257),
    }.items():
        assert np.array_equal(
            seen(saved(other, tmp_path / f"{name}.{'tiff' if name == 'cmyk' else 'png'}"))[0], pixels
        ), name
    frames = [Image.fromarray(grey(seed)) for seed in (0, 1)]
    path = saved(frames[0], tmp_path / "frames.gif", save_all=True, append_images=frames[1:])
    assert np.array_equal(seen(path)[0], pixels)


def test_light_grounds_are_inverted_where_the_model_knows_dark_ones(tmp_path):
    on_white = saved(cross(600, 600, ground="white", ink="navy"), tmp_path / "white.jpg", quality=95)
    on_black = saved(cross(600, 600, ground="black", ink="silver"), tmp_path / "black.png")
    assert seen(on_white)[0, 0, 0] < 5
    assert seen(on_white)[0, 14, 14] > 200
    assert prepare(on_white, signature(), "auto").inverted
    assert np.array_equal(seen(on_white, invert="no"), 255 - seen(on_white))
    assert seen(on_black)[0, 0, 0] == 0
    assert not prepare(on_black, signature(), "auto").inverted
    assert np.array_equal(seen(on_black, invert="yes"), 255 - seen(on_black))
    for changes in ({"light_on_dark": False}, {"in_channels": 3, "light_on_dark": False}):
        assert seen(on_white, **changes)[0, 0, 0] > 250
    half = np.full((SIDE, SIDE), 40, np.uint8)
    half[:14] = 250  # half of the border is bright: not mostly
    assert np.array_equal(seen(saved(Image.fromarray(half), tmp_path / "half.png"))[0], half)
    half[:25] = 250
    assert np.array_equal(seen(saved(Image.fromarray(half), tmp_path / "most.png"))[0], 255 - half)


def test_transparent_pictures_stand_out_from_a_dark_ground(tmp_path):
    clear = (0, 0, 0, 0)
    for name, ink, auto in [("dark", (20, 20, 60, 255), "inverted"), ("light", (230, 230, 200, 255), "as it is")]:
        path = saved(cross(300, 300, ground=clear, ink=ink, mode="RGBA"), tmp_path / f"{name}.png")
        assert seen(path)[0, 0, 0] == 0
        assert seen(path)[0, 14, 14] > 200
        assert prepare(path, signature(), "auto").inverted == (auto == "inverted")
        assert seen(path, invert="no")[0, 0, 0] == 0
        assert seen(path, invert="yes")[0, 0, 0] == 0


def test_other_shapes_are_centred_on_the_colour_of_their_border(tmp_path):
    wide = seen(saved(cross(1200, 600, ground=(30, 30, 30), ink="white"), tmp_path / "wide.png"))[0]
    assert (wide[:7] == 30).all()
    assert (wide[-7:] == 30).all()
    assert wide[14, 14] == 255
    assert np.array_equal(wide, wide[::-1])
    tall = saved(cross(600, 1200, ground="white", ink="black"), tmp_path / "tall.png")
    assert (seen(tall)[0, :, :7] == 0).all()
    assert (seen(tall, light_on_dark=False)[0, :, :7] == 255).all()
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turned clockwise
    path = saved(cross(600, 1200, ground="white", ink="black"), tmp_path / "t.jpg", exif=turned, quality=95)
    assert (seen(path)[0, :6] < 5).all()
    for shape in [(1, 1), (1, 9), (3000, 2), (5, 28), (14, 14)]:
        seen(saved(Image.fromarray(np.full(shape, 9, np.uint8)), tmp_path / "small.png"))


def test_where_training_stretched_pictures_they_are_stretched_as_it_did(tmp_path):
    (tmp_path / "cat").mkdir()
    for name, picture in {
        "a.jpg": cross(900, 300, ground="white", ink="teal"),
        "b.png": cross(90, 300, ground=(0, 0, 0, 0), ink=(9, 9, 9, 255), mode="RGBA"),
    }.items():
        picture.save(tmp_path / "cat" / name)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turned clockwise
    saved(cross(300, 900, ground="navy", ink="red"), tmp_path / "cat" / "c.jpg", exif=turned)
    saved(Image.fromarray(grey(shape=(40, 60)).astype(np.uint16) << 8), tmp_path / "cat" / "d.png")
    folder = ImageFolder(folder=str(tmp_path), class_names=["cat"], image_size=SIDE, in_channels=3)
    pairs = [(Image.open(tmp_path / file), 0) for file in folder.files]
    assert len(pairs) == 4
    assert torch.equal(
        in_memory(dataset=pairs, in_channels=3, image_size=SIDE).images, torch.stack([x for x, _ in folder])
    )
    for k, name in enumerate(["a.jpg", "b.png", "c.jpg", "d.png"]):
        pixels = seen(tmp_path / "cat" / name, in_channels=3, fit="stretch", light_on_dark=False)
        assert np.array_equal(pixels, folder[k][0].numpy())


def test_what_cannot_be_a_picture_is_an_error_with_its_name(tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def bomb(side):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")

    whole = saved(Image.fromarray(grey()), tmp_path / "whole.png").read_bytes()
    for name, contents, said in [
        ("wide.png", bomb(9_000), "9000 x 9000 pixels are more than 64,000,000"),
        ("wider.png", bomb(60_000), "3600000000 pixels"),
        ("cut.png", whole[:120], "cannot be read as an image"),
        ("text.png", b"not a picture", "no image of a known kind"),
        ("empty.png", b"", "no image of a known kind"),
        ("program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known kind"),
    ]:
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(DataError, match=said) as refused:
            prepare(tmp_path / name, signature(), "auto")
        assert str(refused.value).startswith(f"{tmp_path / name}: ")
    with pytest.raises(DataError, match="not a file"):
        prepare(tmp_path, signature(), "auto")
    with pytest.raises(ConfigError, match="the model takes 4 channels"):
        prepare(tmp_path / "whole.png", signature(in_channels=4), "auto")


def test_files_folders_and_globs_are_found_once_and_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("p/b.png", "p/a.JPG", "p/deep/c.png", "p/.hidden.png", "p/.git/d.png", "p/note.txt", "x[1].png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("empty").mkdir()
    Path("p/loop").symlink_to(tmp_path / "p")
    files, problems, notes = find_pictures(
        ["x[1].png", str(tmp_path / "x[1].png"), "p", "p/*.png", "p/note.txt", "empty", "none.png", "*.gif", "p/*/c.*"]
    )
    assert [str(file) for file in files] == ["x[1].png", "p/a.JPG", "p/b.png", "p/deep/c.png", "p/note.txt"]
    assert problems == [
        "empty: no pictures in this folder",
        "none.png: there is no such file",
        "*.gif: there is no such file",
    ]
    assert notes == [
        "p/loop: a link to a folder is not followed; name the folder itself",
        "p: 1 file that is no picture by its name (1 .txt), 2 hidden",
    ]


def album(folder):
    """A folder as people have them: pictures of all kinds, and what lies beside them."""
    (folder / "deeper" / ".cache").mkdir(parents=True)
    picture = Image.fromarray(grey())
    saved(picture, folder / "a.PNG")
    saved(picture, folder / "deeper" / "b.Jpg")
    saved(picture, folder / "frames.gif", save_all=True, append_images=[Image.fromarray(grey(1))])
    saved(picture, folder / "pages.tiff", save_all=True, append_images=[Image.fromarray(grey(1))])
    saved(Image.fromarray(grey().astype(np.uint16) * 257), folder / "sixteen.png")
    saved(picture.convert("CMYK"), folder / "print.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    saved(picture, folder / "turned.jpg", exif=turned)
    for name in (
        "IMG_1.HEIC",
        "IMG_2.heic",
        "deeper/c.avif",
        "notes.txt",
        "Makefile",
        ".DS_Store",
        "deeper/.cache/x.png",
    ):
        (folder / name).write_bytes(b"...")
    return folder


def test_what_a_folder_holds_beside_pictures_is_counted(digits_run, command, tmp_path):
    folder = album(tmp_path / "album")
    done = command(str(digits_run), "album", "--csv", "said.csv", module="predict", cwd=tmp_path)
    read = [row["image"] for row in csv.DictReader((tmp_path / "said.csv").read_text().splitlines())]
    assert sorted(Path(name).name for name in read) == [
        "a.PNG", "b.Jpg", "frames.gif", "pages.tiff", "print.jpg", "sixteen.png", "turned.jpg"
    ]  # fmt: skip
    assert done.returncode == 1  # HEIC and AVIF are pictures, and cannot be read
    others, unread = done.stderr.splitlines()
    assert others == ("left out: album: 2 files that are no picture by their name (1 without suffix, 1 .txt), 2 hidden")
    assert unread.startswith("left out: album: 2 .heic, 1 .avif: pictures of kinds that are not read; save them as")
    for name in ("IMG_1.HEIC", "IMG_2.heic", "deeper/c.avif"):
        (folder / name).unlink()
    assert command(str(digits_run), "album", module="predict", cwd=tmp_path).returncode == 0
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    done = command(str(digits_run), "album", module="predict", cwd=tmp_path)
    assert done.returncode == 1
    assert "album/link: a link to a folder is not followed" in done.stderr
    assert "broken.png" in done.stderr


def test_a_run_says_of_pictures_what_it_said_of_its_test_set(digits_run, command, tmp_path):
    test = load_digits(part="test", num_test=360, test_seed=0, image_size=SIDE)
    (tmp_path / "cut").mkdir()
    for k in range(20):
        Image.fromarray(test.images[k, 0].numpy()).save(tmp_path / "cut" / f"{k:02d}.png")
    inverted = Image.fromarray(255 - test.images[3, 0].numpy()).resize((1120, 1120), Image.Resampling.NEAREST)
    inverted.convert("RGB").save(tmp_path / "cut" / "[red]\x1b[31m.jpg", quality=95)
    (tmp_path / "cut" / "broken.png").write_bytes(b"nothing")
    said = command(
        str(digits_run), "cut", "none.png", "--top", "2", "--csv", "said.csv", "--grid", "said.png",
        module="predict", cwd=tmp_path,
    )  # fmt: skip
    assert said.returncode == 1
    assert said.stderr.splitlines() == [
        "left out: none.png: there is no such file",
        "left out: cut/broken.png: no image of a known kind",
    ]
    logits = np.load(digits_run / "predictions.npz")["logits"][:20]
    with (tmp_path / "said.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "inverted", "class_1", "probability_1", "class_2", "probability_2"]
    assert [row[0] for row in rows[:20]] == [f"cut/{k:02d}.png" for k in range(20)]
    probs = softmax(logits.astype(np.float64), axis=1)
    order = np.argsort(-probs, axis=1)
    for row, prob, best in zip(rows, probs, order, strict=False):
        assert row[1:3] == ["no", str(best[0])]
        assert row[4] == str(best[1])
        assert [float(row[3]), float(row[5])] == pytest.approx(prob[best[:2]], abs=1e-5)
    assert rows[20][1:3] == ["yes", rows[3][2]]
    first, *lines = said.stdout.splitlines()
    assert first.split() == ["image", "class", "1", "class", "2", "inverted"]
    assert lines[0].startswith("cut/00.png ")
    assert f"{100 * probs[0].max():.1f} % {order[0, 0]}" in lines[0]
    assert lines[20].startswith(r"cut/[red]\x1b[31m.jpg")
    assert "\x1b" not in said.stdout
    with Image.open(tmp_path / "said.png") as grid:
        assert grid.format == "PNG"
        assert grid.height > 500


def main(monkeypatch, *arguments):
    """The exit code of `fmx predict ARGUMENTS` in this process."""
    from fmx.commands import predict

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["fmx predict", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        predict.main()
    return ended.value.code


def test_no_data_set_is_needed_and_options_may_stand_anywhere(digits_run, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(digits_run, tmp_path / "run")
    path = run / ".hydra" / "resolved.yaml"
    text = path.read_text(encoding="utf-8").replace("fmx.data.digits.load_digits", "fmx.data.idx.load_idx")
    path.write_text(text, encoding="utf-8")
    one, two = (saved(Image.fromarray(grey(seed)), tmp_path / f"{seed}.png") for seed in (1, 2))
    assert main(monkeypatch, run, one, "--top", "99", two, "--checkpoint", "last") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert [line.split()[0] for line in captured.out.splitlines()[1:]] == [str(one), str(two)]
    assert "class 10" in captured.out


def test_refusals_say_what_would_be_right(digits_run, tmp_path, monkeypatch, capsys):
    picture = saved(Image.fromarray(grey()), tmp_path / "a.png")
    failed = shutil.copytree(digits_run, tmp_path / "failed")
    record = json.loads((failed / "run.json").read_text(encoding="utf-8")) | {"status": "failed", "error": "no luck"}
    (failed / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "there.csv").write_text("mine", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for job in ("10", "9"):
        shutil.copytree(digits_run, tmp_path / "sweep" / job)
    for code, arguments, said in [
        (1, [tmp_path, picture], "is not a run directory: it has no run.json"),
        (1, [tmp_path / "none", picture], "is not a run directory: it does not exist"),
        (1, [tmp_path / "sweep", picture], f"is a sweep, not one run: name one of its 2, such as {tmp_path}/sweep/9"),
        (1, [failed, picture], "is not finished: its status is failed: no luck"),
        (1, [digits_run, tmp_path / "empty"], "no pictures in this folder"),
        (1, [digits_run, tmp_path / "*.gif"], "there are no pictures to predict"),
        (1, [digits_run, picture, "--checkpoint", "second"], "has best, last"),
        (1, [tmp_path / "none.onnx", picture], "there is no file"),
        (2, [tmp_path / "none.onnx", picture, "--checkpoint", "best"], "holds one set of weights"),
        (2, [digits_run, picture, "--csv", tmp_path / "there.csv"], "exists; replace it with --force"),
        (2, [digits_run, picture, "--grid", tmp_path / "grid.jpg"], "--grid writes PNG"),
        (2, [digits_run, picture, "--top", "0"], "'0' is no whole number from 1"),
        (2, [digits_run], "IMAGE"),
    ]:
        assert main(monkeypatch, *arguments) == code, arguments
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.out == ""
        assert "Traceback" not in captured.err
    assert (tmp_path / "there.csv").read_text(encoding="utf-8") == "mine"
    assert main(monkeypatch, digits_run, picture, "--csv", tmp_path / "there.csv", "--force") == 0
    assert (tmp_path / "there.csv").read_text(encoding="utf-8").startswith("image,")


@pytest.mark.data
def test_twenty_pictures_cut_from_the_real_test_set_are_named_as_the_run_did(command, tmp_path):
    trained = command(
        "model=lenet", "trainer.max_epochs=1", "trainer.limit_train_batches=100", "logger=none",
        "data.class_names=zh", "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(tmp_path / "run" / ".hydra" / "resolved.yaml").data)
    images = load_idx(**{k: v for k, v in config["test"].items() if k != "_target_"}).images[:, 0].numpy()
    names = config["translations"]["zh"]
    classes = np.load(tmp_path / "run" / "predictions.npz")["logits"].argmax(1)
    (tmp_path / "cut").mkdir()
    (tmp_path / "photos").mkdir()
    chosen = np.linspace(0, 9999, 20).astype(int)
    for k in chosen:
        Image.fromarray(images[k]).save(tmp_path / "cut" / f"{k:05d}.png")
        # Like a photograph of a thing that was cropped: large, in colour, on white.
        photo = Image.fromarray(255 - images[k]).resize((1120, 1120), Image.Resampling.BICUBIC)
        photo.convert("RGB").save(tmp_path / "photos" / f"{k:05d}.jpg", quality=92)
    said = {}
    for folder in ("cut", "photos"):
        shown = command("run", folder, "--csv", f"{folder}.csv", module="predict", cwd=tmp_path)
        assert (shown.returncode, shown.stderr) == (0, "")
        with (tmp_path / f"{folder}.csv").open(encoding="utf-8", newline="") as file:
            said[folder] = list(csv.DictReader(file))
    assert [row["class_1"] for row in said["cut"]] == [names[classes[k]] for k in chosen]
    assert {row["inverted"] for row in said["cut"]} == {"no"}
    assert {row["inverted"] for row in said["photos"]} == {"yes"}
    agree = [a["class_1"] == b["class_1"] for a, b in zip(said["cut"], said["photos"], strict=True)]
    assert sum(agree) >= 12  # of 20, by a model that is hardly trained
    for k in chosen:  # the same things, a little blurred on the way there and back
        pixels = prepare(tmp_path / "photos" / f"{k:05d}.jpg", signature(), "auto").pixels
        assert np.corrcoef(pixels.ravel(), images[k].ravel())[0, 1] > 0.97
