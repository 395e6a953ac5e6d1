"""Two runs, or two groups of seeds: tests and intervals computed in another way, what differs, what is refused."""

import json
import shutil
from math import comb

import numpy as np
import pytest
from matplotlib import image as picture_file
from scipy import stats

from fmx.commands.compare import compare
from fmx.errors import ConfigError, DataError
from fmx.reporting.comparison import compare_accuracy, differences, read_side
from fmx.reporting.figures.changed_sides import changed_sides
from fmx.reporting.intervals import crossed, mcnemar, newcombe, share, student_t, wilson
from fmx.runs.predictions import read_predictions, verdicts
from pictures_drawn import pictures
from run_directories import NAMES, make_run, wrong_at


def run_pair(folder, wrong_a, wrong_b, **how):
    return make_run(folder / "a", said=wrong_at(wrong_a)), make_run(folder / "b", said=wrong_at(wrong_b), **how)


def compared(a, b, tmp_path, **how):
    """What --json says of two folders or globs."""
    file = tmp_path / "compared.json"
    compare(str(a), str(b), **({"grid": None, "json": file, "force": True, "allow": []} | how))
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (0, 7), (5, 5), (3, 11), (40, 22), (180, 260)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    total = only_a + only_b
    outcomes = [comb(total, k) for k in range(total + 1)]
    as_rare = sum(ways for ways in outcomes if ways <= outcomes[only_a])
    assert mcnemar(only_a, only_b) == pytest.approx(as_rare / 2**total, rel=1e-12)
    if total:
        assert mcnemar(only_a, only_b) == pytest.approx(stats.binomtest(only_a, total).pvalue, rel=1e-9)


def test_newcombes_interval_is_the_published_one():
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 2635, table II: method 10 for a, b, c, d = 36, 12, 2, 0.
    assert newcombe(both=36, only_a=2, only_b=12, neither=0) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    low, high = newcombe(both=36, only_a=12, only_b=2, neither=0)
    assert (-high, -low) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_newcombes_interval_covers_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    tables = rng.multinomial(360, [0.85, 0.04, 0.06, 0.05], size=2000)
    intervals = [newcombe(*map(int, table)) for table in tables]
    assert np.mean([low <= 0.02 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def answers(rng, shift, *, num_seeds, num_images, of_seeds, hard):
    """Whether each seed's model names each image right, where seeds, images and chance each have their part."""
    seeds = rng.normal(0, of_seeds, (num_seeds, 1))
    return seeds + hard + shift + rng.normal(0, 1, (num_seeds, num_images)) > 0


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("of_seeds", [0, 0.4])
@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_of_two_groups_covers_the_truth_nineteen_times_in_twenty(num_seeds, of_seeds, paired):
    """The difference that other seeds and other images would show on average is 0: B is hard where A is not."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        how = {"num_seeds": num_seeds, "num_images": 200, "of_seeds": of_seeds}
        a, b = (answers(rng, 3, hard=rng.normal(0, 2, 200), **how) for _ in range(2))
        found = crossed(a, b, paired=paired)
        covered.append(found.interval.low <= 0 <= found.interval.high)
        assert (found.p_value < 0.05) == (not covered[-1])
    assert np.mean(covered) > 0.93


def test_where_only_the_seeds_vary_it_is_students_t():
    """Images that all go right or wrong with the seed: neither difficulty nor chance has a part."""
    a = np.array([[1] * 300 + [0] * 100, [1] * 340 + [0] * 60, [1] * 320 + [0] * 80], bool)
    b = np.ones((3, 400), bool)
    spread = np.repeat(np.array([[0], [1], [1]], bool), 4000, axis=1)
    seeds = crossed(spread, ~spread, paired=False)
    theirs = stats.ttest_ind((~spread).mean(1), spread.mean(1), equal_var=False).confidence_interval()
    assert seeds.interval == pytest.approx((max(theirs.low, -1), min(theirs.high, 1)), rel=1e-2)
    assert crossed(a, b, paired=True).difference == pytest.approx(0.2)


def test_seeds_without_any_spread_leave_the_test_images_to_decide():
    sure = np.ones((2, 400), bool)
    for wrong in (1, 5, 6, 40):
        other = sure.copy()
        other[:, :wrong] = False
        for paired in (True, False):
            found = crossed(other, sure, paired=paired)
            assert found.seeds_agree
            assert (found.p_value < 0.05) == (mcnemar(0, wrong) < 0.05), wrong
            assert found.interval.low < found.difference < found.interval.high
    same = crossed(sure, sure, paired=False)
    assert (same.difference, same.p_value) == (0, 1)
    assert same.interval.low < 0 < same.interval.high
    lucky = np.array([[0] + [1] * 399, [1] * 399 + [0]], bool)  # equal accuracies of models that are not equal
    assert not crossed(lucky, sure, paired=True).seeds_agree
    assert crossed(lucky, sure, paired=True).p_value > 0.3


@pytest.mark.parametrize(
    ("values", "num_images"),
    [([0.37, 0.73], 360), ([0.0, 1.0], 10), ([0.95, 0.99], None), ([1.0, 0.999, 1.0], 10_000), ([0.01, 0.2], None)],
)
def test_intervals_of_shares_stay_among_the_shares(values, num_images):
    spread = share(values, num_images)
    assert 0 <= spread.interval.low < spread.mean < spread.interval.high <= 1
    assert spread.std == pytest.approx(np.std(values, ddof=1))


def test_an_interval_of_a_share_is_wilsons_where_seeds_agree_and_students_where_they_decide():
    for right, total in [(0, 10), (10, 10), (9, 10)]:
        theirs = tuple(stats.binomtest(right, total).proportion_ci(method="wilson"))
        assert wilson(right, total) == pytest.approx(theirs)
        for num_seeds in (1, 2, 3):
            assert share([right / total] * num_seeds, total).interval == pytest.approx(theirs)
    assert share([0.5, 0.5], None).interval is None  # undefined
    assert share([0.5], None).interval is None
    assert share([float("nan"), 0.5], 10).interval is None
    close = [0.50, 0.501, 0.502, 0.503, 0.504]
    theirs = stats.t.interval(0.95, 4, np.mean(close), stats.sem(close))
    assert share(close, None).interval == pytest.approx(theirs, rel=1e-4)
    assert student_t(close).interval == pytest.approx(theirs, rel=1e-9)


def test_two_runs_are_compared_image_by_image(tmp_path, capsys):
    a, b = run_pair(tmp_path, [0, 1, 2, 3, 4, 5, 29], [0, 7], model="large", seed=2)
    found = compared(a, b, tmp_path)
    right = [read_predictions(path).logits.argmax(1) == np.arange(30) % 3 for path in (a, b)]
    only_a, only_b = (np.flatnonzero(x & ~y).tolist() for x, y in ((right[0], right[1]), (right[1], right[0])))
    assert (
        found["changed_sides"] == {"only_a": only_a, "only_b": only_b} == {"only_a": [7], "only_b": [1, 2, 3, 4, 5, 29]}
    )
    assert found["images_right"] == {"both": 22, "only_a": 1, "only_b": 6, "neither": 1}
    accuracy = found["test_accuracy"]
    assert (accuracy["a"], accuracy["b"]) == (pytest.approx(23 / 30), pytest.approx(28 / 30))
    assert accuracy["difference"] == pytest.approx(5 / 30)
    assert accuracy["p_value"] == pytest.approx(2 * (1 + 7) / 2**7)
    assert accuracy["interval"] == list(newcombe(22, 1, 6, 1))
    by_class = {row["name"]: row for row in found["classes"]}
    assert by_class["owl"] == {"name": "owl", "images": 10, "right_a": 7, "right_b": 10, "only_a": 0, "only_b": 3}
    assert sum(row["only_a"] for row in found["classes"]) == 1
    out = capsys.readouterr().out
    assert "+16.67 points" in out
    assert "p = 0.125 (McNemar's exact test)" in out
    assert "No significant difference" in out
    assert "B alone is right on the test images: 1, 2, 3, 4, 5, 29" in out


def test_a_clear_difference_is_told_with_its_limits(tmp_path, capsys):
    a, b = run_pair(tmp_path, range(12), [20])
    compared(a, b, tmp_path)
    out = capsys.readouterr().out
    assert "B is better than A at the 5 % level. One run each: other seeds may say otherwise." in out


def test_a_model_against_itself_says_no_difference(tmp_path, capsys):
    a = make_run(tmp_path / "a", said=wrong_at([3, 4]))
    found = compared(a, a, tmp_path)
    assert found["test_accuracy"]["difference"] == 0
    assert found["test_accuracy"]["p_value"] == 1
    low, high = found["test_accuracy"]["interval"]
    assert low == -high
    assert found["changed_sides"] == {"only_a": [], "only_b": []}
    assert found["differences"] == {"configuration": {}, "environment": {}, "data": {}}
    out = capsys.readouterr().out
    assert "A and B are the same." in out
    assert "No difference: both predict the same class for every image." in out


def test_what_differs_is_named(tmp_path):
    versions = {"python": "3.12.1", "torch": "2.15.0", "numpy": "2.4"}
    a, b = run_pair(
        tmp_path, [], [], model="large", seed=2, settings={"optim.lr": 0.1}, versions=versions, host="other",
        git={"commit": "abc", "dirty": True}, device={"accelerator": "cuda", "precision": "bf16-mixed"},
    )  # fmt: skip
    found = differences(read_side(str(a)), read_side(str(b)))
    assert found["configuration"] == [
        ("model", "small", "large"),
        ("model.name", "small", "large"),
        ("model.net._target_", "fmx.models.mlp.MLP", "fmx.models.lenet.LeNet"),
        ("model.net.hidden_sizes", "[8]", "–"),
        ("model.net.widths", "–", "[6, 16]"),
        ("optim.lr", "0.001", "0.1"),
        ("seed", "1", "2"),
    ]
    assert {name: (of_a, of_b) for name, of_a, of_b in found["environment"]} == {
        "device.accelerator": ("cpu", "cuda"),
        "device.precision": ("32-true", "bf16-mixed"),
        "git": ("null", "–"),
        "git.commit": ("–", "abc"),
        "git.dirty": ("–", "true"),
        "host": ("elsewhere", "other"),
        "versions.numpy": ("–", "2.4"),
        "versions.python": ("3.11.7", "3.12.1"),
    }
    assert found["data"] == []


def group(folder, wrongs, seeds, **how):
    for seed, wrong in zip(seeds, wrongs, strict=True):
        make_run(folder / str(seed), said=wrong_at(wrong), seed=seed, **how)
    return folder


def test_groups_with_the_same_seeds_are_paired(tmp_path, capsys):
    a = group(tmp_path / "a", [[0, 1], [0, 2, 3], [0, 1, 2, 3]], [1, 2, 10])
    b = group(tmp_path / "b", [[9], [8], [9, 3]], [10, 1, 2], model="large")
    found = compared(a, f"{b}/*", tmp_path)
    assert found["a"]["seeds"] == found["b"]["seeds"] == ["1", "2", "10"]
    accuracy = found["test_accuracy"]
    assert accuracy["interval_method"] == "Student's t over pairs of the same seed and over the test images"
    assert accuracy["difference"] == pytest.approx(5 / 90)
    right = [np.stack([right_of(path / seed) for seed in ("1", "2", "10")]) for path in (a, b)]
    expected = crossed(*right, paired=True)
    assert accuracy["interval"] == list(expected.interval)
    assert accuracy["p_value"] == expected.p_value
    assert "3 seeds per side are few" in accuracy["cautions"][-1]
    # In most runs: A is wrong on 0 (3 of 3), and on 1, 2 and 3 (2 of 3); B on 9 (2 of 3), on 3 and 8 only once.
    assert found["changed_sides"] == {"only_a": [9], "only_b": [0, 1, 2, 3]}
    out = capsys.readouterr().out
    assert "in most of its runs" in out
    assert "3 seeds per side are few" in out


def right_of(path):
    stored = np.load(path / "predictions.npz")
    return stored["logits"].argmax(1) == stored["labels"]


def test_groups_with_other_seeds_are_not_paired(tmp_path):
    a = group(tmp_path / "a", [[0, 1], [0, 2, 3], [0, 1, 2, 3]], [1, 2, 3])
    b = group(tmp_path / "b", [[9], []], [1, 2], model="large")
    accuracy = compared(a, b, tmp_path)["test_accuracy"]
    right_a, right_b = (np.stack([right_of(each) for each in sorted(path.iterdir())]) for path in (a, b))
    expected = crossed(right_a, right_b, paired=False)
    assert "seeds, which are not the same" in accuracy["interval_method"]
    assert accuracy["interval"] == list(expected.interval)
    assert accuracy["p_value"] == expected.p_value
    assert "3 and 2 seeds" in accuracy["cautions"][-1]


def test_one_image_decides_nothing_however_much_the_seeds_agree(tmp_path, command):
    """Two seeds a side, each side without spread; then five, which are enough for no caution but that."""
    for num_seeds in (2, 5):
        seeds = range(num_seeds)
        group(tmp_path / f"a{num_seeds}", [[0]] * num_seeds, seeds)
        group(tmp_path / f"b{num_seeds}", [[]] * num_seeds, seeds, model="large")
        finished = command(
            f"a{num_seeds}", f"b{num_seeds}", "--json", "t.json", "--force", cwd=tmp_path, module="compare"
        )
        assert finished.returncode == 0, finished.stderr
        assert "is better" not in finished.stdout
        assert "No significant difference" in finished.stdout
        assert "undefined" in finished.stdout
        assert ("2 seeds per side are few" in finished.stdout) == (num_seeds == 2)
        found = json.loads((tmp_path / "t.json").read_text())["test_accuracy"]
        assert found["p_value"] > 0.3
        assert found["interval"][0] < 0 < found["difference"] < found["interval"][1]


def test_what_takes_away_from_a_verdict_is_said(tmp_path, capsys):
    a = group(tmp_path / "a", [[0], [1]], [1, 2])
    make_run(a / "3", said=wrong_at([2]), seed=3, git={"commit": "abc", "dirty": False})
    b = group(tmp_path / "b", [[], [], []], [1, 2, 3], model="large")
    stored = dict(np.load(b / "1" / "predictions.npz"))
    stored["logits"][:7] = np.nan
    np.savez(b / "1" / "predictions.npz", **stored)
    make_run(b / "9", seed=9, model="large", status="interrupted", error="pruned after epoch 1: val/accuracy 0.1",
             pruned={"epoch": 1, "metric": "val/accuracy", "value": 0.1})  # fmt: skip
    compared(a, b, tmp_path)
    out = capsys.readouterr().out
    assert "The runs of A differ in commit as well." in out
    assert "B has NaN logits for 7 test images (seed 1)" in out
    assert f"{b}/9: pruned after epoch 1" in out


def test_most_of_an_even_number_of_runs_is_more_than_half(tmp_path):
    folder = group(tmp_path / "a", [[0, 5], [0]], [1, 2])
    said = verdicts([read_predictions(path) for path in sorted(folder.iterdir())])
    assert np.flatnonzero(~said.right).tolist() == [0, 5]
    assert (said.said[0], said.said[5]) == (1, 0)
    assert np.array_equal(said.said[said.right], (np.arange(30) % 3)[said.right])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"fingerprint": "e" * 32}, "the data sets differ"),
        ({"fingerprint": None}, "the data sets differ"),
        ({"indices": np.arange(1, 31)}, "not the same images"),
        ({"labels": (np.arange(30) + 1) % 3}, "not the same labels"),
        ({"labels": np.arange(20) % 3}, "not the same images"),
    ],
)
def test_other_test_sets_are_refused_but_what_differs_is_said(tmp_path, capsys, how, words):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", model="large", **how)
    with pytest.raises(DataError, match=words):
        compared(a, b, tmp_path)
    assert "model.net._target_" in capsys.readouterr().out
    assert not (tmp_path / "compared.json").exists()


def test_data_of_unknown_contents_is_refused(tmp_path):
    a, b = (make_run(tmp_path / name, fingerprint=None) for name in "ab")
    with pytest.raises(DataError, match="unknown contents"):
        compared(a, b, tmp_path)


def test_it_refuses_politely(tmp_path, command):
    make_run(tmp_path / "a")
    make_run(tmp_path / "failed", status="failed", error="no luck")
    make_run(tmp_path / "running", status="running")
    group(tmp_path / "group", [[], []], [1, 2])
    make_run(tmp_path / "mixed" / "0")
    make_run(tmp_path / "mixed" / "1", model="large")
    (make_run(tmp_path / "cut") / "predictions.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "t.json").write_text("mine")
    for arguments, code, words in [
        (["a", "nowhere"], 1, "holds no run directory"),
        (["a", "failed"], 1, "status is failed: no luck"),
        (["running", "a"], 1, "status is running"),
        (["a", "group"], 1, "A has 1 and B has 2"),
        (["mixed", "a"], 1, "2 configurations, which differ in model"),
        (["a", "cut"], 1, "cannot be read as predictions"),
        (["a", "a", "--json", "t.json"], 2, "--force"),
        (["a", "a", "a"], 2, "put a glob in quotes"),
        (["a"], 2, "name two"),
        (["a", "a", "--alpha", "1"], 2, "--alpha"),
    ]:
        finished = command(*arguments, cwd=tmp_path, module="compare")
        assert finished.returncode == code, arguments
        assert words in finished.stderr
        assert "Traceback" not in finished.stderr
    assert (tmp_path / "t.json").read_text() == "mine"
    assert command("a", "a", "--json", "t.json", "--force", cwd=tmp_path, module="compare").returncode == 0


def test_a_grid_without_the_images_is_refused_with_the_reason(tmp_path):
    a, b = run_pair(tmp_path, [1, 2], [3])
    with pytest.raises(DataError, match="no grid was drawn"):
        compared(a, b, tmp_path, grid=tmp_path / "grid.png")
    assert not (tmp_path / "grid.png").exists()
    with pytest.raises(ConfigError, match="folder"):
        compared(a, b, tmp_path, grid=tmp_path)


def test_a_grid_of_other_images_or_foreign_code_is_refused(digits_run, tmp_path, command):
    for name in ("a", "b"):
        shutil.copytree(digits_run, tmp_path / name)
        record = tmp_path / name / "run.json"
        record.write_text(record.read_text().replace(json.loads(record.read_text())["data"]["fingerprint"], "0" * 32))
    stored = dict(np.load(tmp_path / "b" / "predictions.npz"))
    stored["logits"] = np.roll(stored["logits"], 1, axis=1)
    np.savez(tmp_path / "b" / "predictions.npz", **stored)
    finished = command("a", "b", "--grid", "g.png", cwd=tmp_path, module="compare")
    assert finished.returncode == 1
    assert "is not the one that the runs were tested on" in finished.stderr
    config = tmp_path / "a" / ".hydra" / "resolved.yaml"
    config.write_text(config.read_text().replace("fmx.data.digits.load_digits", "os.system", 1))
    finished = command("a", "b", "--grid", "g.png", cwd=tmp_path, module="compare")
    assert finished.returncode == 1
    assert "'os.system'" in finished.stderr
    assert not (tmp_path / "g.png").exists()


def test_the_grid_shows_the_images_that_changed_sides():
    labels = np.arange(60) % 3
    a, b = (verdicts([_predictions(labels, wrong)]) for wrong in ([5, 6, 7], [*range(20, 60), 7]))
    images = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
    figure = changed_sides(images, np.arange(60), labels, (a, b), NAMES)
    shown = [int(picture.pixels[0, 0, 0]) for picture in pictures(figure)]
    assert len(shown) == 32
    assert set(shown[:30]) <= set(range(20, 60))
    assert set(shown[30:]) == {5, 6}
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "the true name, and what A and B say: A alone is right on 40, B alone on 2" in texts
    first = NAMES[labels[shown[0]]]
    at = texts.index(first)
    assert texts[at : at + 3] == [first, f"A ✓ {first}", f"B ✗ {NAMES[(labels[shown[0]] + 1) % 3]}"]


def _predictions(labels, wrong):
    from fmx.runs.predictions import StoredPredictions

    said = wrong_at(wrong, num=len(labels))
    return StoredPredictions(labels, np.eye(3, dtype=np.float32)[said], np.arange(len(labels)))


def test_two_real_runs_with_their_grid(digits_run, command, tmp_path):
    trained = command(
        "data=digits", "model=mlp", "augment=none", "trainer.max_epochs=1", "hydra.run.dir=other", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    finished = command(
        str(digits_run), "other", "--grid", "grid.png", "--json", "t.json", cwd=tmp_path, module="compare"
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads((tmp_path / "t.json").read_text())
    stored = [np.load(path / "predictions.npz") for path in (digits_run, tmp_path / "other")]
    right = [each["logits"].argmax(1) == each["labels"] for each in stored]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert only_a + only_b > 0
    assert found["test_accuracy"]["p_value"] == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    assert found["test_accuracy"]["difference"] == pytest.approx(right[1].mean() - right[0].mean())
    assert found["changed_sides"]["only_b"] == np.flatnonzero(right[1] & ~right[0]).tolist()
    assert found["differences"]["configuration"]["model"] == {"a": "lenet", "b": "mlp"}
    assert found["differences"]["data"] == {}
    assert picture_file.imread(tmp_path / "grid.png").std() > 0.05


def test_a_single_side_reads_a_group_by_glob(tmp_path):
    group(tmp_path / "s", [[], [1], [2]], [1, 2, 3])
    assert len(read_side(f"{tmp_path}/s/[12]").runs) == 2
    one, two = read_side(f"{tmp_path}/s/1"), read_side(f"{tmp_path}/s/2")
    assert compare_accuracy(one, two).difference == pytest.approx(-1 / 30)
