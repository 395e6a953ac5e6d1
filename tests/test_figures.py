"""The pictures of a run: what they show, that it is right, and that nothing overlaps or is cut off."""

import io
import logging
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, same_color
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from fmx.reporting.figures import fonts
from fmx.reporting.figures.augmented import augmented
from fmx.reporting.figures.confusion import confusion_matrix
from fmx.reporting.figures.learning_curves import learning_curves
from fmx.reporting.figures.lettering import Lettering
from fmx.reporting.figures.page import page
from fmx.reporting.figures.palette import VERMILION
from fmx.reporting.figures.png import png
from fmx.reporting.figures.predictions import mistakes, predictions
from fmx.reporting.figures.samples import samples
from fmx.reporting.figures.sharp_image import sharp_image
from pictures_drawn import pictures

ENGLISH = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
CHINESE = ["T恤", "裤子", "毛衣", "裙子", "外套", "凉鞋", "衬衫", "运动鞋", "包", "短靴"]
LONG = [f"{k:03d}.long-billed_$river$ kingfisher"[:30] for k in range(100)]
WIDE = ["W" * 30, "W" * 70, "m m" * 10, "a" * 255, *ENGLISH[4:]]
UNKNOWN = "\U000f0000"  # for private use: no font should have it


def data(num_classes, num=600, shape=(1, 8, 8), seed=0):
    """Images whose pixels all say the label, labels, and logits that are right nine times in ten."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num) % num_classes)
    images = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (num, *shape)).copy()
    logits = rng.normal(size=(num, num_classes)).astype(np.float32)
    said = np.where(rng.random(num) < 0.9, labels, (labels + 1) % num_classes)
    logits[np.arange(num), said] += 6
    return images, labels, logits


def history(epochs=10, per_epoch=1):
    num = epochs * per_epoch
    loss = 0.3 + np.exp(-np.arange(num) / (3 * per_epoch))
    return pd.DataFrame({
        "epoch": np.repeat(np.arange(1, epochs + 1), per_epoch),
        "step": 100 * np.arange(1, num + 1),
        "lr": 1e-3,
        "train/loss": loss,
        "train/accuracy": 1 - loss / 4,
        "val/loss": loss + 0.05,
        "val/accuracy": 0.95 - loss / 4,
        "seconds": 1.0,
    })  # fmt: skip


def texts(figure):
    """All texts that are drawn."""
    found = [*figure.texts]
    for legend in figure.legends:
        found += legend.get_texts()
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes._left_title, axes._right_title]
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                inside = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                found += [axis.label, *(t for tick in inside for t in (tick.label1, tick.label2))]
    return [text for text in found if text.get_text().strip() and text.get_visible()]


def words(figure):
    return [text.get_text() for text in texts(figure)]


def draw(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def check_layout(figure):
    """Nothing is empty, outside the page, or on top of something else (by more than a pixel's rounding)."""
    drawn = draw(figure)
    assert drawn.std() > 1
    found = [(text, text.get_window_extent()) for text in texts(figure)]
    for text, box in found:
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= drawn.shape[1], text
        assert box.y1 <= drawn.shape[0], text
    # The boxes of slanted texts overlap where the texts do not.
    found = [(text, box) for text, box in found if text.get_rotation() % 90 == 0]
    found += [(image, image.get_window_extent()) for image in pictures(figure)]
    low, high = np.array([box.min for _, box in found]), np.array([box.max for _, box in found])
    shared = np.minimum(high, high[:, None]) - np.maximum(low, low[:, None])  # (N, N, 2) pixels
    pairs = np.argwhere(np.triu(shared.min(axis=2) > 1.5, k=1))
    assert not [(found[a][0], found[b][0]) for a, b in pairs]


# Layout

CASES = {
    "digits": (10, [str(k) for k in range(10)], (1, 8, 8)),
    "fashion": (10, ENGLISH, (1, 28, 28)),
    "wide": (10, WIDE, (3, 40, 20)),
    "two": (2, ["no", "yes"], (3, 256, 256)),
    "one": (1, ["all"], (1, 9, 17)),
    "narrow": (2, ["no", "yes"], (1, 300, 1)),
    "twenty": (20, LONG[:20], (3, 32, 32)),
    "thirty": (30, LONG[:30], (3, 64, 64)),
    "hundred": (100, LONG, (1, 16, 16)),
    "many": (250, [f"class {k}" for k in range(250)], (1, 8, 8)),
}


@pytest.mark.parametrize("case", CASES)
def test_confusion_matrices_do_not_overlap_or_get_cut_off(case):
    num_classes, names, _ = CASES[case]
    _, labels, logits = data(num_classes)
    check_layout(confusion_matrix(labels, logits.argmax(axis=1), names))


@pytest.mark.parametrize("case", ["wide", "one", "narrow", "hundred"])
@pytest.mark.parametrize("draws", ["samples", "augmented", "mixed", "predictions", "mistakes"])
def test_grids_do_not_overlap_or_get_cut_off(case, draws):
    num_classes, names, shape = CASES[case]
    images, labels, logits = data(num_classes, shape=shape)
    figures = {
        "samples": lambda: samples(images, labels, names),
        "augmented": lambda: augmented(images[:32], labels[:32], names),
        "mixed": lambda: augmented(images[:32], np.eye(num_classes)[labels[:32]] * 0.4 + 0.6 / num_classes, names),
        "predictions": lambda: predictions(images, labels, logits, names),
        "mistakes": lambda: mistakes(images, labels, logits, names),
    }
    check_layout(figures[draws]())


@pytest.mark.parametrize(("epochs", "per_epoch"), [(1, 1), (2, 1), (10, 1), (300, 1), (1, 7), (5, 8), (40, 1000)])
def test_curves_do_not_overlap_or_get_cut_off(epochs, per_epoch):
    rows = history(epochs, per_epoch)
    check_layout(learning_curves(rows, rows["step"].iloc[len(rows) // 2]))


# Samples


def test_samples_have_a_row_of_its_images_for_each_of_ten_classes():
    images, labels, _ = data(10)
    figure = samples(images, labels, ENGLISH)
    shown = pictures(figure)
    assert len(shown) == 10 * 8
    heights = {text.get_text(): text.get_position()[1] for text in texts(figure)}
    for label, name in enumerate(ENGLISH):
        row = [image for image in shown if image.extent[3] < heights[name] < image.extent[2]]
        assert [np.unique(image.pixels).tolist() for image in row] == [[label]] * 8


def test_samples_of_a_hundred_classes_show_a_readable_part_with_the_right_names():
    images, labels, _ = data(100)
    figure = samples(images, labels, [f"n{k}" for k in range(100)])
    shown = [f"n{int(image.pixels[0, 0, 0])}" for image in pictures(figure)]
    assert len(shown) == len(set(shown)) == 48
    assert [word for word in words(figure) if word.startswith("n")] == shown
    assert {"n0", "n99"} < set(shown)
    assert any("48 of 100 classes" in word for word in words(figure))


def test_samples_name_a_class_without_images():
    images, labels, _ = data(9)
    assert words(samples(images, labels, ENGLISH)).count("no images") == 1


def test_samples_are_the_same_each_time_and_from_tensors():
    images, labels, _ = data(10)
    first = draw(samples(images, labels, ENGLISH))
    again = draw(samples(torch.from_numpy(images), torch.from_numpy(labels), ENGLISH))
    assert np.array_equal(first, again)


def test_images_that_are_read_one_by_one_are_read_only_when_shown():
    class Reader:
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return images[index]

    images, labels, logits = data(10)
    reader = Reader()
    samples(reader, labels, ENGLISH)
    assert reader.reads == 80
    predictions(reader, labels, logits, ENGLISH)
    assert reader.reads == 80 + 32


def test_colours_are_kept_and_other_channels_become_grey():
    colour = np.zeros((1, 3, 8, 8), dtype=np.uint8)
    colour[:, 0] = 200
    (image,) = pictures(predictions(colour, [0], [[1.0]], ["red"]))
    assert image.pixels[4, 4].tolist() == [200, 0, 0]
    two = np.full((1, 2, 8, 8), 90, dtype=np.uint8)
    (image,) = pictures(predictions(two, [0], [[1.0]], ["grey"]))
    assert image.pixels[4, 4].tolist() == [90, 90, 90]


# Learning curves


def curves(axes):
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_curves_by_epoch_mark_the_chosen_checkpoint_on_both_panels():
    rows = history()
    figure = learning_curves(rows, 700)
    loss, accuracy = figure.axes
    assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}
    assert np.allclose(curves(loss)["training"], rows[["epoch", "train/loss"]])
    assert np.allclose(curves(accuracy)["validation"], rows[["epoch", "val/accuracy"]])
    assert np.allclose(curves(loss)["chosen checkpoint"], [[7, rows["val/loss"][6]]])
    assert np.allclose(curves(accuracy)["chosen checkpoint"], [[7, rows["val/accuracy"][6]]])
    assert f"{rows['val/loss'][6]:.4f} at epoch 7" in words(figure)
    assert f"{100 * rows['val/accuracy'][6]:.2f} % at epoch 7" in words(figure)


def test_curves_by_step_where_an_epoch_has_several_validations():
    figure = learning_curves(history(per_epoch=3), 1400)
    assert {axes.get_xlabel() for axes in figure.axes} == {"step"}
    assert curves(figure.axes[0])["chosen checkpoint"][0, 0] == 1400
    assert any(word.endswith("at step 1,400") for word in words(figure))


def test_curves_without_validation_mark_the_training_curve():
    rows = history().assign(**{"val/loss": np.nan, "val/accuracy": np.nan})
    loss, _ = learning_curves(rows, 300).axes
    assert set(curves(loss)) == {"training", "chosen checkpoint"}
    assert np.allclose(curves(loss)["chosen checkpoint"], [[3, rows["train/loss"][2]]])


@pytest.mark.parametrize("chosen", [None, 12345])
def test_curves_mark_nothing_where_there_is_no_such_row(chosen):
    figure = learning_curves(history(), chosen)
    assert "chosen checkpoint" not in words(figure)
    assert set(curves(figure.axes[0])) == {"training", "validation"}


def test_curves_from_the_file_itself_of_a_resumed_run():
    rows = history()
    file = io.StringIO()
    cut_off = rows[5:6].assign(**{"train/loss": 9.0})
    pd.concat([rows[:5], cut_off, rows[5:]]).to_csv(file, index=False)
    file.seek(0)
    figure = learning_curves(pd.read_csv(file), 600)
    assert np.allclose(curves(figure.axes[0])["training"], rows[["epoch", "train/loss"]])


def test_curves_leave_out_what_is_not_finite_and_say_when_that_is_all():
    rows = history()
    rows.loc[3, "train/loss"] = np.inf
    rows.loc[4:, ["val/loss", "val/accuracy"]] = np.nan
    figure = learning_curves(rows, 400)
    assert np.allclose(curves(figure.axes[0])["training"], rows.drop(3)[["epoch", "train/loss"]])
    assert len(curves(figure.axes[1])["validation"]) == 4
    check_layout(figure)
    nothing = rows.assign(**{name: np.nan for name in rows if "/" in name})
    figure = learning_curves(nothing, 400)
    assert words(figure).count("no values") == 2
    check_layout(figure)


# Confusion matrix


def test_confusion_matrix_has_the_counts_and_percentages_of_scikit_learn():
    _, labels, logits = data(10, num=2000)
    predicted = logits.argmax(axis=1)
    figure = confusion_matrix(labels, predicted, ENGLISH)
    axes = next(axes for axes in figure.axes if axes.images)
    assert np.allclose(axes.images[0].get_array(), sklearn_confusion_matrix(labels, predicted, normalize="true"))
    cells = {}
    for text in axes.texts:
        cells.setdefault(text.get_position(), []).append(text.get_text())
    counts = sklearn_confusion_matrix(labels, predicted)
    for (row, column), count in np.ndenumerate(counts):
        share = f"{100 * count / counts[row].sum():.1f} %"
        assert cells[column, row] == ([f"{count:,}", share] if count else ["0"])
    assert {"true", "predicted"} < set(words(figure))
    assert all(words(figure).count(name) == 2 for name in ENGLISH)


def test_confusion_matrix_drops_the_numbers_beyond_twenty_classes_and_names_beyond_a_hundred():
    for num_classes, numbered, named in [
        (20, True, 20),
        (21, False, 21),
        (100, False, 100),
        (250, False, 84),
    ]:
        _, labels, logits = data(num_classes)
        names = [f"n{k}" for k in range(num_classes)]
        said = words(confusion_matrix(labels, logits.argmax(axis=1), names))
        assert ("0" in said) == numbered
        assert sum(word in names for word in said) == 2 * named


@pytest.mark.parametrize("num_classes", [10, 30])
def test_confusion_matrix_has_the_names_next_to_their_rows_and_columns(num_classes):
    _, labels, logits = data(num_classes)
    names = [f"the name of {k}" for k in range(num_classes)]
    figure = confusion_matrix(labels, logits.argmax(axis=1), names)
    draw(figure)
    axes = next(axes for axes in figure.axes if axes.images)
    place = axes.transData.inverted()
    for label, name in enumerate(names):
        at_row, at_column = (text for text in axes.texts if text.get_text() == name)
        box = at_row.get_window_extent()
        left, row = place.transform((box.x1, (box.y0 + box.y1) / 2))
        assert -1 < left < -0.5
        assert row == pytest.approx(label, abs=0.2)
        box = at_column.get_window_extent()
        column, _ = place.transform(((box.x0 + box.x1) / 2 if num_classes > 20 else box.x1, box.y1))
        assert column == pytest.approx(label, abs=0.2)
    first, last = (place.inverted().transform((0, row))[1] for row in (0, num_classes - 1))
    assert first > last  # pixels count from below


def test_confusion_matrix_with_a_class_without_images_and_small_integers():
    labels = np.array([0, 0, 200, 200], dtype=np.uint8)
    figure = confusion_matrix(labels, labels, [f"n{k}" for k in range(201)])
    shares = next(axes for axes in figure.axes if axes.images).images[0].get_array()
    assert shares[0, 0] == shares[200, 200] == 1
    assert shares.sum() == 2


# Predictions and mistakes


def test_predictions_tell_right_from_wrong_by_sign_and_frame():
    images, labels, logits = data(10, num=320)
    predicted = logits.argmax(axis=1)
    figure = predictions(images, labels, logits, ENGLISH)
    chosen = np.linspace(0, 319, 32).astype(int)
    captions = [word for word in words(figure) if word in ENGLISH or word[2:] in ENGLISH]
    expected = []
    for index, image in zip(chosen, pictures(figure), strict=True):
        right = labels[index] == predicted[index]
        expected += [ENGLISH[labels[index]], f"{'✓' if right else '✗'} {ENGLISH[predicted[index]]}"]
        assert np.unique(image.pixels) == labels[index]
        assert same_color(image.frame, VERMILION) != right
    assert captions == expected
    assert any(word.startswith("✗") for word in captions)


def test_mistakes_show_the_most_certain_first_with_both_probabilities():
    images, labels, logits = data(10)
    probs = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    predicted = probs.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-probs[wrong, predicted[wrong]])][:32]
    figure = mistakes(images, labels, logits, [f"n{k}" for k in range(10)])
    captions = [word for word in words(figure) if "%" in word]
    expected = []
    for index in worst:
        true, said = labels[index], predicted[index]
        expected += [(f"n{true}", probs[index, true]), (f"✗ n{said}", probs[index, said])]
    for caption, (name, probability) in zip(captions, expected, strict=True):
        number = caption.removeprefix(f"{name}: ").removesuffix("\N{NO-BREAK SPACE}%")
        assert float(number.strip("<>")) == pytest.approx(100 * probability, abs=0.1)
    assert any(f"the worst 32 of {len(wrong)}" in word for word in words(figure))


def test_a_mistake_is_never_quite_certain():
    images = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    said = words(mistakes(images, [0], [[0.0, 90.0]], ["a", "b"]))
    assert said[2:] == ["a: <0.1\N{NO-BREAK SPACE}%", "✗ b: >99.9\N{NO-BREAK SPACE}%"]


def test_no_mistakes_is_said():
    images, labels, _ = data(10, num=1234)
    figure = mistakes(images, labels, np.eye(10)[labels], ENGLISH)
    assert words(figure) == ["No mistakes: all 1,234 test images are named right"]
    check_layout(figure)


def test_a_model_that_diverged_still_gets_its_pictures():
    images, labels, logits = data(10, num=40)
    logits[::2] = np.nan
    logits[1] = np.inf
    check_layout(mistakes(images, labels, logits, ENGLISH))
    check_layout(predictions(images, labels, logits, ENGLISH))


# Names and fonts


@pytest.fixture
def few_fonts(monkeypatch):
    """As if DejaVu Sans were the only font."""
    only = [entry for entry in font_manager.fontManager.ttflist if entry.name == fonts.BASE_FAMILY]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", only)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    fonts._search.cache_clear()
    yield
    fonts._search.cache_clear()


@pytest.fixture
def installed_font(monkeypatch, tmp_path):
    """A font with the Chinese names as boxes, installed after matplotlib made its list."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in [(100, 800), (900, 800), (900, 0)]:
        pen.lineTo(point)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "box"])
    font.setupCharacterMap({ord(c): "box" for c in "".join(CHINESE) if not c.isascii()})
    font.setupGlyf({".notdef": pen.glyph(), "box": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 100), "box": (1000, 100)})
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    path = tmp_path / "boxes.ttf"
    font.save(path)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path)])


@pytest.mark.usefixtures("few_fonts")
def test_names_without_a_font_are_drawn_in_english_with_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert fonts.drawable(CHINESE, ENGLISH) == ENGLISH
    (record,) = caplog.records
    assert "fonts-noto-cjk" in record.getMessage()
    assert "T-shirt/top" in record.getMessage()


@pytest.mark.usefixtures("few_fonts")
def test_names_without_a_font_and_without_english_are_numbered(caplog):
    assert fonts.drawable([UNKNOWN, "b"], None) == ["class 0", "class 1"]
    assert "fonts-noto-core" in caplog.text


@pytest.mark.usefixtures("few_fonts", "installed_font")
def test_a_font_that_was_installed_later_is_found_and_drawn_with(caplog):
    assert fonts.drawable(CHINESE, ENGLISH) == CHINESE
    assert not caplog.records
    images, labels, logits = data(10)
    figure = predictions(images, labels, logits, CHINESE)
    assert texts(figure)[-1].get_fontfamily() == [fonts.BASE_FAMILY, "Boxes"]
    check_layout(figure)
    check_layout(samples(images, labels, CHINESE))
    check_layout(confusion_matrix(labels, logits.argmax(axis=1), CHINESE))


def test_ascii_and_latin_names_need_no_search(monkeypatch):
    def scan():
        raise AssertionError("fonts were searched")

    monkeypatch.setattr(font_manager, "findSystemFonts", scan)
    names = [*ENGLISH, "naïve café", "Ελληνικά", "a\u00a0b\u200b"]
    assert fonts.drawable(names, None) == names


@pytest.mark.usefixtures("few_fonts")
def test_names_that_were_not_checked_are_drawn_as_far_as_possible():
    names = [
        "毛衣 ok",
        "two\nlines\tand\x00",
        "un\udcffdecodable",
        f"a{UNKNOWN}",
        "",
        "a\u200db",
        "$x_1$",
        r"\alpha",
    ]
    shown = ["�� ok", "two lines and", "un�decodable", "a�", "", "ab", "$x_1$", r"\alpha"]
    assert Lettering(names).names == shown
    _, labels, logits = data(8)
    figure = confusion_matrix(labels, logits.argmax(axis=1), names)
    assert not any(text.get_parse_math() for text in texts(figure) if text.get_text() in shown)
    check_layout(figure)


def test_long_names_break_at_words_and_are_shortened_in_the_middle():
    lettering = Lettering([])
    assert lettering.wrapped("Ankle boot", width=0.5, size=8, max_lines=3) == ["Ankle", "boot"]
    assert lettering.wrapped("Ankle boot", width=2, size=8, max_lines=3) == ["Ankle boot"]
    lines = lettering.wrapped("hummingbird" * 3, width=0.7, size=8, max_lines=5)
    assert len(lines) > 2
    assert "".join(lines) == "hummingbird" * 3
    short = lettering.shortened("first" * 50 + "last", width=1, size=8)
    assert short.startswith("first")
    assert short.endswith("last")
    assert "…" in short
    assert 0.8 < lettering.width(short, size=8) <= 1


def test_figures_need_neither_a_screen_nor_pyplot_nor_torch(tmp_path):
    script = (
        "import sys; from fmx.reporting.figures.confusion import confusion_matrix;"
        "from fmx.reporting.figures import augmented, fonts, learning_curves, predictions, samples;"
        "confusion_matrix([0, 1], [0, 1], ['a', 'b']).savefig(sys.argv[1]);"
        "print(sorted({'matplotlib.pyplot', 'torch', 'sklearn'} & set(sys.modules)))"
    )
    file = tmp_path / "confusion.png"
    env = {name: value for name, value in os.environ.items() if name != "DISPLAY"} | {"MPLBACKEND": "tkagg"}
    command = [sys.executable, "-W", "error", "-c", script, str(file)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert file.read_bytes().startswith(b"\x89PNG")


# Drawing, which is faster than matplotlib's own


def test_the_file_has_the_pixels_of_the_canvas():
    _, labels, logits = data(10)
    figure = confusion_matrix(labels, logits.argmax(axis=1), ENGLISH)
    encoded = png(figure)
    decoded = Image.open(io.BytesIO(encoded))
    decoded.load()  # checks every checksum
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), draw(figure)[..., :3])


@pytest.mark.parametrize("text", ["Ankle boot", "✗ 8: >99.9\N{NO-BREAK SPACE}%", "g", "1,234"])
@pytest.mark.parametrize("ha", ["left", "center", "right"])
@pytest.mark.parametrize("va", ["baseline", "bottom", "top", "center"])
def test_a_line_of_text_is_where_matplotlib_draws_it(text, ha, va):
    ink = []
    for is_matplotlibs in (False, True):
        figure, axes = page(2.4, 1, Lettering([]), title="", subtitle="")
        Lettering([]).write(axes, 1.2, 0.5, text, size=10.5, ha=ha, va=va)
        if is_matplotlibs:
            ours = axes.texts[-1]
            axes.text(*ours.get_position(), text, fontproperties=ours.get_fontproperties(), ha=ha, va=va)
            ours.remove()
        dark = np.argwhere(draw(figure)[..., :3].min(axis=2) < 160)
        ink.append((*dark.min(axis=0), *dark.max(axis=0)))
    assert np.abs(np.subtract(*ink)).max() <= 2, ink


def test_an_image_is_drawn_pixel_by_pixel_and_scaled_to_the_nearest_without_smoothing():
    figure = Figure(figsize=(1, 1), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    values = np.array([[0.0, 1.0], [1.0, 0.0]])
    sharp_image(axes, values, (-0.5, 1.5, 1.5, -0.5), cmap="gray", norm=Normalize(0, 1))
    assert np.array_equal(draw(figure)[..., 0], np.kron(values, np.full((55, 55), 255)))
    exact = np.random.default_rng(0).integers(0, 256, (110, 110, 4), np.uint8)
    exact[..., 3] = 255
    sharp_image(axes, exact, (0, 1, 1, 0))
    assert np.array_equal(draw(figure), exact)
