"""k folds: every training image is held out once, a sweep over folds is one row, and comparisons pair by fold."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import fmx
from fmx.commands.compare import compare
from fmx.data.digits import load_digits
from fmx.data.split import split_fold
from fmx.errors import ConfigError, DataError
from fmx.reporting.comparison import compare_accuracy, read_side
from fmx.reporting.intervals import corrected_t, crossed, share
from fmx.reporting.leaderboard import leaderboard
from fmx.reporting.leaderboard_text import notes, to_csv, to_markdown, unfinished_table
from fmx.runs.composition import compose_config
from fmx.sweeps.checkpoints import check_can_rank
from run_directories import make_run, wrong_at

pytestmark = pytest.mark.usefixtures("no_figures")

FAST = ["data=digits", "model=mlp", "model.net.hidden_sizes=[16]", "logger=none", "trainer.max_epochs=1"]
LABELS = torch.tensor([0] * 61 + [1] * 23 + [2] * 7)[torch.randperm(91, generator=torch.Generator().manual_seed(0))]


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory):
    """Five folds of the digits, of one configuration."""
    folder = tmp_path_factory.mktemp("folds")
    done = command("-m", *FAST, "data.folds=5", "data.fold=0,1,2,3,4", "hydra.sweep.dir=sweep", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 folds" in done.stdout
    return folder / "sweep"


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("folds", [2, 3, 5, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_are_disjoint_complete_and_stratified(folds, seed):
    parts = [split_fold(LABELS, folds=folds, fold=fold, seed=seed) for fold in range(folds)]
    for train, val in parts:
        assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(91))
        assert torch.equal(val, val.sort().values)
        assert torch.equal(train, train.sort().values)
    assert torch.equal(torch.cat([val for _, val in parts]).sort().values, torch.arange(91))
    counts = torch.stack([torch.bincount(LABELS[val], minlength=3) for _, val in parts])
    assert (counts.max(0).values - counts.min(0).values).max() <= 1
    assert counts.sum(1).max() - counts.sum(1).min() <= 1
    other = split_fold(LABELS, folds=folds, fold=0, seed=seed + 2)[1]
    assert not torch.equal(other, parts[0][1])


def test_the_row_is_the_mean_over_the_folds_and_every_image_is_held_out_once(sweep):
    metrics = [read(sweep / str(job) / "metrics.json") for job in range(5)]
    (row,) = csv.DictReader((sweep / "leaderboard.csv").read_text().splitlines())
    for part in ("val", "test"):
        values = [each[part]["accuracy"] for each in metrics]
        assert float(row[f"{part}_accuracy_mean"]) == pytest.approx(sum(values) / 5, abs=1e-15)
        assert float(row[f"{part}_accuracy_std"]) == pytest.approx(np.std(values, ddof=1))
    values = [each["val"]["accuracy"] for each in metrics]
    assert (row["n"], row["folds"], row["caution"], row["mixed"]) == ("5", "0;1;2;3;4", "", "")
    half = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    width = float(row["val_accuracy_high"]) - float(row["val_accuracy_low"])
    assert width == pytest.approx(2 * half, rel=0.25)  # kept within 0..1 by Wilson's form
    assert " 5 folds |" in (sweep / "leaderboard.md").read_text()
    assert "5 folds" in (sweep / "leaderboard.html").read_text()

    training = load_digits(part="train", num_test=360, test_seed=0, image_size=8).labels
    runs = fmx.open_runs(sweep)
    assert sorted(runs["fold"]) == [0, 1, 2, 3, 4]
    assert list(runs.leaderboard()["folds"]) == ["0;1;2;3;4"]
    held_out = [fmx.open_run(path).held_out for path in runs["path"]]
    indices = np.concatenate([each.indices for each in held_out])
    assert sorted(indices) == list(range(len(training)))
    for each, path in zip(held_out, runs["path"], strict=True):
        assert np.array_equal(each.labels, training[each.indices])
        assert each.right.mean() == pytest.approx(read(Path(path) / "metrics.json")["val"]["accuracy"], rel=1e-6)
        record = read(Path(path) / "run.json")["data"]
        assert (record["folds"], len(each.labels)) == (5, record["sizes"]["val"])
        assert read(Path(path) / "metrics.json")["validation"] == f"fold {record['fold']} of 5"
        assert np.array_equal(each.indices, split_fold(training, folds=5, fold=record["fold"], seed=0)[1])
        assert len(fmx.open_run(path).predictions.labels) == 360  # the test set is that of every run


def test_a_run_of_a_fold_is_evaluated_and_reproduced_and_others_have_none(command, sweep, tmp_path):
    done = command("3", module="evaluate", cwd=sweep)
    assert "identical to metrics.json" in done.stdout, done.stdout + done.stderr
    done = command("3", "--dir", "again", module="reproduce", cwd=sweep)
    assert "identical: " in done.stdout, done.stdout + done.stderr
    shutil.rmtree(sweep / "again")
    with pytest.raises(DataError, match=r"only a run with data\.folds"):
        _ = fmx.open_run(make_run(tmp_path / "plain")).held_out


def test_missing_folds_are_said_and_seeds_are_nested_in_folds(tmp_path):
    vals = {(0, 1): 0.9, (0, 2): 0.8, (1, 1): 0.7, (1, 2): 0.7, (3, 1): 0.6, (3, 2): 0.4}
    for (fold, seed), val in vals.items():
        make_run(tmp_path / f"{fold}{seed}", val=val, seed=seed, settings={"data.folds": 5, "data.fold": fold})
    for seed in (1, 2, 3):
        make_run(tmp_path / f"plain{seed}", val=0.5, seed=seed, settings={"data.folds": None, "data.fold": None})
    board = leaderboard(sorted(tmp_path.iterdir()))
    folds, plain = board.rows
    assert (folds.count, folds.folds, folds.missing_folds) == ("3 of 5 folds × 2 seeds", [0, 1, 3], [2, 4])
    assert folds.val_accuracy.values == pytest.approx([0.85, 0.7, 0.5])
    assert folds.val_accuracy.std == pytest.approx(np.std([0.85, 0.7, 0.5], ddof=1))
    assert (plain.count, plain.folds, plain.val_accuracy.method) == ("3", [], "wilson-t")
    said = " ".join(notes(board))
    assert "3 of 5 folds × 2 seeds, without folds 2, 4: the mean is of the images of the other folds alone" in said
    assert "fewer than 5 seeds or folds" in said
    assert "without folds 2, 4" in to_markdown(board)
    rows = list(csv.DictReader(to_csv(board).splitlines()))
    assert [row["caution"] for row in rows] == ["fewer than 5 folds; without folds 2, 4 of 5", "fewer than 5 seeds"]
    assert [row["folds"] for row in rows] == ["0;1;3;0;1;3", ""]
    failed = make_run(tmp_path / "failed", status="failed", settings={"data.folds": 5, "data.fold": 2})
    assert unfinished_table(leaderboard([failed]))[1][0][-2] == "1, fold 2"
    fixed = leaderboard([tmp_path / "01", tmp_path / "02"]).rows[0]
    assert (fixed.count, fixed.val_accuracy.method) == ("1 of 5 folds × 2 seeds", "wilson-t")
    again = make_run(tmp_path / "again", val=0.1, settings={"data.folds": 5, "data.fold": 0})
    (repeated,) = leaderboard([tmp_path / "01", again]).unfinished
    assert "the same configuration and seed and fold" in repeated.error


def test_intervals_of_folds_count_their_common_training_images():
    values = [0.9, 0.91, 0.93, 0.92, 0.9]
    spread = share(values, None, folds=5)
    half = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    assert spread.interval == pytest.approx((spread.mean - half, spread.mean + half), abs=5e-3)
    assert share([0.9] * 5, 100, folds=5).interval == pytest.approx(tuple(share([0.9], 100).interval))
    found = corrected_t(values, 5)
    assert found.interval == pytest.approx((spread.mean - half, spread.mean + half))
    t = spread.mean / (half / stats.t.ppf(0.975, 4))
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, 4))
    assert corrected_t([0.0] * 3, 3).p_value == 1


def folds_of(folder, wrong, val, folds=range(5), seeds=(1,), **settings):
    for fold in folds:
        for seed in seeds:
            said = wrong_at([place + fold for place in wrong], num=60)
            how = {"data.folds": 5, "data.fold": fold} | settings
            labels = np.arange(60) % 3
            make_run(folder / f"{fold}_{seed}", said=said, labels=labels, val=val + fold / 100, seed=seed, settings=how)
    return folder


def test_compare_pairs_by_fold(tmp_path, capsys):
    a = folds_of(tmp_path / "a", [0, 9, 20, 31, 40], 0.80)
    b = folds_of(tmp_path / "b", [9], 0.85, folds=[4, 2, 0, 1], seeds=(7, 8), **{"optim.lr": 0.1})
    file = tmp_path / "compared.json"
    compare(str(a), str(b), grid=None, json=file, force=True, allow=[])
    said, found = capsys.readouterr().out, read(file)
    assert "folds 0, 1, 2, 3, 4 of 5, seed 1)" in said
    assert "folds 0, 1, 2, 4 of 5, seeds 7, 8)" in said
    assert "B lacks fold 3, which the other side has: left out" in said
    assert [row["fold"] for row in found["folds"]] == [0, 1, 2, 4]
    assert [row["b"] - row["a"] for row in found["folds"]] == pytest.approx([0.05] * 4)
    assert "validation accuracy, B − A: +5.00 points" in said
    assert found["test_accuracy"]["interval_method"].startswith("Student's t over pairs of the same fold")
    assert found["test_accuracy"]["difference"] == pytest.approx(4 / 60)
    sides = [read_side(str(side)) for side in (a, a)]
    whole = compare_accuracy(*sides)
    assert (whole.difference, whole.p_value) == (0, 1)
    assert not whole.cautions

    right_a = np.stack([each.right for each in sides[0].predictions])
    right_b = np.roll(right_a, 1, axis=1)
    plain, corrected = (crossed(right_a, right_b, paired=True, folds=folds) for folds in (0, 5))
    assert np.diff(corrected.interval)[0] >= np.diff(plain.interval)[0]

    other = folds_of(tmp_path / "other", [9], 0.85, **{"data.split_seed": 3})
    compare(str(a), str(other), grid=None, json=None, force=True, allow=[])
    assert "The folds of A and B are not the same images, so they are not paired." in capsys.readouterr().out
    compare(str(a / "0_1"), str(a / "1_1"), grid=None, json=None, force=True, allow=[])
    said = capsys.readouterr().out
    assert "A held out fold 0 and B fold 1: they were trained on different images." in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.fold=0"], "data.fold=0 needs the number of folds: data.folds=5 data.fold=0"),
        (
            ["data.folds=5"],
            "data.folds=5 needs the fold that is held out: data.fold=0, or all in turn: -m data.fold=0,1",
        ),
        (["data.folds=5", "data.fold=5"], "data.fold=5 is none of the 5 folds, which are 0 to 4"),
        (["data.folds=1", "data.fold=0"], "data.folds must be a whole number of at least 2, or null"),
        (["data.folds=5", "data.fold=0", "data.validation=0.2"], "data.validation=0.2 would be without effect"),
        (["data.folds=5", "data.fold=0", "data.split=tail"], "data.split=tail would be without effect"),
        (["kfold=5"], "did you mean 'data.folds'"),
    ],
)
def test_what_does_not_go_with_folds_is_refused(command, tmp_path, overrides, said):
    done = command(*FAST, *overrides, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not list(tmp_path.iterdir())


def test_more_folds_than_images_of_a_class(command, tmp_path):
    done = command(*FAST, "data.folds=200", "data.fold=0", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert "is more than the training images of class '8' (label 8), which are 139" in done.stderr
    assert "use data.folds=139 or fewer" in done.stderr
    with pytest.raises(ValueError, match=r"leave it out, or use data\.validation"):
        split_fold(torch.tensor([0, 0, 1]), folds=2, fold=0, seed=0)
    with pytest.raises(ValueError, match="is none of"):
        split_fold(LABELS, folds=2, fold=2, seed=0)


def test_folds_replace_what_a_recipe_validates_on():
    config = compose_config(["data=digits", "data.validation=none", "data.folds=3", "data.fold=0"])
    check_can_rank(2, [{"data": dict(config.data), "sweep": {"keep_checkpoints": 2}}])
    config.data.folds = None
    with pytest.raises(ConfigError, match=r"data\.validation=none leaves none"):
        check_can_rank(2, [{"data": dict(config.data), "sweep": {"keep_checkpoints": 2}}])
