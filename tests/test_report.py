"""The leaderboard: every figure recomputed in another way, what is grouped, ranked, marked and left out."""

import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from fmx.errors import ConfigError, DataError
from fmx.report import report
from fmx.reporting.comparison import differences, read_side
from fmx.reporting.intervals import student_t
from fmx.reporting.leaderboard import leaderboard, write_leaderboard
from fmx.reporting.leaderboard_text import to_csv, to_latex, to_markdown
from fmx.reporting.settings import read_settings
from run_directories import make_run, wrong_at

REACHES = {
    "val_accuracy": ("val", "accuracy"),
    "test_accuracy": ("test", "accuracy"),
    "test_macro_f1": ("test", "macro_f1"),
}
HOSTILE = '"><script>alert(1)</script>|$x_y$ `z` \\input{q} %'


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def ranked(folder):
    """The leaderboard's rows by what sets them apart."""
    board = leaderboard(sorted(record.parent for record in folder.rglob("run.json")))
    return board, {row.label: row for row in board.rows}


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory):
    """Three configurations with three seeds each, really trained."""
    folder = tmp_path_factory.mktemp("sweep")
    finished = command(
        "-m", "data=digits", "model=mlp", "augment=none", "logger=none", "optim=adam,sgd,rmsprop", "seed=1,2,3",
        "trainer.max_epochs=1", "hydra.sweep.dir=sweep", cwd=folder, timeout_s=550,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "sweep"


def test_every_figure_of_a_real_sweep_is_recomputed(sweep, command, tmp_path):
    finished = command("sweep", "--csv", str(tmp_path / "t.csv"), "--html", str(tmp_path / "t.html"), cwd=sweep.parent,
                       module="report")  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    shown = pd.read_csv(tmp_path / "t.csv").set_index("optim")
    runs = []
    for folder in sweep.glob("[0-9]*/"):
        record, metrics = (json.loads((folder / f"{name}.json").read_text()) for name in ("run", "metrics"))
        told = dict(override.split("=") for override in record["overrides"])
        stored = np.load(folder / "predictions.npz")
        accuracy = np.mean(stored["logits"].argmax(1) == stored["labels"])
        assert metrics["test"]["accuracy"] == pytest.approx(accuracy, abs=1e-7)
        figures = {name: metrics[part][key] for name, (part, key) in REACHES.items()}
        runs.append(
            {"optim": told["optim"], "params": record["params"], "train_seconds": record["timing"]["fit_s"]} | figures
        )
    groups = pd.DataFrame(runs).groupby("optim")
    assert groups.size().to_dict() == shown["n"].to_dict() == dict.fromkeys(("adam", "sgd", "rmsprop"), 3)
    assert list(shown.index) == list(groups["val_accuracy"].mean().sort_values(ascending=False).index)
    assert list(shown["rank"]) == [1, 2, 3]
    for optim, group in groups:
        row = shown.loc[optim]
        assert row["params"] == 266_610
        for name in [*REACHES, "train_seconds"]:
            values = group[name]
            assert row[f"{name}_mean"] == pytest.approx(values.mean(), rel=1e-12)
            assert row[f"{name}_std"] == pytest.approx(values.std(ddof=1), rel=1e-9)
        for name in REACHES:
            half = stats.t.ppf(0.975, 2) * stats.sem(group[name])  # 0 where three seeds happen to agree
            assert row[f"{name}_low"] == pytest.approx(group[name].mean() - half, rel=1e-9)
            assert row[f"{name}_high"] == pytest.approx(group[name].mean() + half, rel=1e-9)
        mean, std = 100 * row["test_accuracy_mean"], 100 * row["test_accuracy_std"]
        line = next(line for line in finished.stdout.splitlines() if f" {optim} " in line)
        assert f"{mean:.2f} ± {std:.2f}" in line


def test_the_sweeps_own_leaderboard_says_the_same(sweep, tmp_path):
    copy = shutil.copytree(sweep, tmp_path / "copy")
    write_leaderboard(copy)
    written = {path.name: path.read_bytes() for path in copy.glob("*leaderboard*")}
    assert sorted(written) == ["leaderboard.csv", "leaderboard.html", "leaderboard.md"]
    rows = table(written["leaderboard.csv"].decode())
    assert [row["optim"] for row in rows] == [row.settings["optim"] for row in leaderboard(sweep.glob("[0-9]*/")).rows]
    assert sorted(";".join(row["runs"] for row in rows).split(";")) == [str(job) for job in range(9)]
    write_leaderboard(copy)
    assert {path.name: path.read_bytes() for path in copy.glob("*leaderboard*")} == written


def test_a_leaderboard_costs_no_torch_and_no_plotting(tmp_path):
    make_run(tmp_path / "sweep" / "0")
    program = (
        "import sys, pathlib; from fmx.reporting.leaderboard import write_leaderboard;"
        "write_leaderboard(pathlib.Path('sweep'));"
        "print([name for name in ('torch', 'pandas', 'matplotlib', 'sklearn', 'scipy.stats') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"
    for verb in ("report", "compare"):
        program = f"import sys, fmx.{verb}; print([n for n in ('numpy', 'omegaconf', 'rich') if n in sys.modules])"
        finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert finished.stdout == "[]\n"


def test_a_single_seed_has_wilsons_interval_of_the_test_set_alone(tmp_path):
    make_run(tmp_path / "a", said=wrong_at([1, 5, 6, 20]))
    board = leaderboard([tmp_path / "a"])
    (row,) = table(to_csv(board))
    interval = stats.binomtest(26, 30).proportion_ci(0.95, method="wilson")
    assert float(row["test_accuracy_low"]) == pytest.approx(interval.low, rel=1e-12)
    assert float(row["test_accuracy_high"]) == pytest.approx(interval.high, rel=1e-12)
    assert row["test_accuracy_interval"] == "wilson"
    assert [row[f"val_accuracy_{part}"] for part in ("std", "low", "high")] == ["", "", ""]
    assert "Wilson" in to_markdown(board)
    assert "Student" not in to_markdown(board)


def test_validation_ranks_and_the_test_set_does_not(tmp_path):
    make_run(tmp_path / "a", said=wrong_at([]), val=0.80, model="small")
    make_run(tmp_path / "b", said=wrong_at(range(10)), val=0.85, model="large")
    board, rows = ranked(tmp_path)
    assert [row.label for row in board.rows] == ["large", "small"]
    assert (rows["large"].rank, rows["small"].rank) == (1, 2)
    assert "ranks nothing" in to_markdown(board)


def test_runs_that_validated_on_the_test_set_are_marked_in_every_table(tmp_path, capsys):
    make_run(tmp_path / "honest", val=0.70)
    make_run(tmp_path / "flattered", val=0.99, model="large", validation="test", selected_on="test")
    files = {kind: tmp_path / f"t.{kind}" for kind in ("csv", "md", "latex", "html")}
    report([str(tmp_path)], files, force=False)
    texts = {kind: file.read_text(encoding="utf-8") for kind, file in files.items()} | {"out": capsys.readouterr().out}
    assert [(row["model"], row["validated_on_test"]) for row in table(texts["csv"])] == [
        ("small", "no"),
        ("large", "yes"),
    ]
    for kind, mark in {"md": "99.00†", "latex": r"99.00\dag{}", "html": "99.00†", "out": "99.00†"}.items():
        assert texts[kind].count(mark) == 1, kind
        assert "70.00†" not in texts[kind]
        assert "Validated on the test set" in texts[kind]


def test_configurations_without_validation_have_no_rank(tmp_path):
    make_run(tmp_path / "a", val=None, selected_on="last", validation="none", model="large")
    make_run(tmp_path / "b", val=0.1)
    board, _ = ranked(tmp_path)
    assert [(row.label, row.rank) for row in board.rows] == [("small", 1), ("large", None)]
    assert "no rank" in to_markdown(board)


def test_seed_and_places_make_no_other_configuration(tmp_path):
    for seed in (1, 2, 10):
        make_run(tmp_path / f"run{seed}", seed=seed, settings={"logger.save_dir": str(tmp_path / f"run{seed}")})
        config = tmp_path / f"run{seed}" / ".hydra" / "config.yaml"
        config.write_text(config.read_text().replace(str(tmp_path / f"run{seed}"), "${run_dir}"))
    (row,) = leaderboard(sorted(tmp_path.iterdir())).rows
    assert [run.seed for run in row.runs] == ["1", "2", "10"]
    assert row.label == "small"


def test_values_by_different_references_are_different_configurations(tmp_path):
    """optim.lr=${vars.small} and optim.lr=${vars.large}, with the same vars."""
    for seed, (name, rate) in enumerate([("small", 0.1), ("large", 0.2), ("small", 0.1)]):
        settings = {"optim.lr": rate, "vars.small": 0.1, "vars.large": 0.2, "vars.shuffle": seed}
        path = make_run(tmp_path / str(seed), seed=seed, settings=settings)
        config = path / ".hydra" / "config.yaml"
        text = config.read_text().replace(f"lr: {rate}", f"lr: ${{vars.{name}}}")
        config.write_text(text.replace(f"shuffle: {seed}", "shuffle: ${seed}"))
    board, _ = ranked(tmp_path)
    assert [column.key for column in board.columns] == ["optim.lr"]
    assert sorted((row.label, len(row.runs)) for row in board.rows) == [("lr 0.1", 2), ("lr 0.2", 1)]
    told = differences(read_side(str(tmp_path / "0")), read_side(str(tmp_path / "1")))["configuration"]
    assert [row[0] for row in told] == ["optim.lr", "seed"]


def test_what_is_of_one_run_makes_no_other_configuration(tmp_path):
    """Time, place and seed in any value; but a folder's name that is also a word is that word elsewhere."""
    texts = {"store": "file:${run_dir}/x", "version": "${now:%H}", "seeds": ["${seed}", 7], "files": ["${data.root}/a"]}
    for seed in (1, 2):
        values = {"vars.store": f"file:{seed}/x", "vars.version": str(seed), "vars.seeds": [seed, 7],
                  "vars.files": [f"root{seed}/a"], "data.root": f"root{seed}", "data.folder": f"root{seed}/pets",
                  "vars.word": "root1"}  # fmt: skip
        path = make_run(tmp_path / str(seed), seed=seed, settings=values)
        config = path / ".hydra" / "config.yaml"
        written = yaml.safe_load(config.read_text())
        written["vars"] |= texts
        config.write_text(yaml.safe_dump(written))
    (row,) = leaderboard(sorted(tmp_path.iterdir())).rows
    assert [run.seed for run in row.runs] == ["1", "2"]


def test_references_to_references_are_each_looked_at_once(tmp_path):
    """Two to a level would otherwise be 2 ** 60 of them, and a nested list is no setting of its own."""
    knots = {f"k{n}": 1 for n in range(60)}
    parts = {"parts": [{"seed": 1, "size": 8}]}
    path = make_run(tmp_path / "a", settings={"vars": knots | parts | {"top": 1}})
    config = path / ".hydra" / "config.yaml"
    written = yaml.safe_load(config.read_text())
    written["vars"] = {f"k{n}": f"${{vars.k{n + 1}}} ${{vars.k{n + 1}x}}" for n in range(60)}
    written["vars"] |= {f"k{n}x": f"${{vars.k{n + 1}}} ${{vars.k{n + 1}x}}" for n in range(60)}
    written["vars"] |= {"top": "${vars.k0}", "parts": [{"seed": "${seed}", "size": 8}]}
    config.write_text(yaml.safe_dump(written))
    fingerprint, values = (getattr(read_settings(path), name) for name in ("fingerprint", "values"))
    assert len(fingerprint) == 32
    assert values["vars.top"] == 1
    assert {key for key in values if key.startswith("vars.parts")} == {"vars.parts.0.size"}


def test_a_key_that_only_one_has_is_a_column_though_it_follows_from_another(tmp_path):
    make_run(tmp_path / "a", settings={"optim.lr": 0.1})
    path = make_run(tmp_path / "b", settings={"optim.lr": 0.1, "optim.top": 0.1})
    config = path / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("top: 0.1", "top: ${optim.lr}"))
    assert [column.key for column in ranked(tmp_path)[0].columns] == ["optim.top"]


def test_a_value_that_follows_from_another_is_no_column_of_its_own(tmp_path):
    for rate in (0.1, 0.2):
        path = make_run(tmp_path / str(rate), settings={"optim.lr": rate, "schedule.max_lr": rate})
        config = path / ".hydra" / "config.yaml"
        config.write_text(config.read_text().replace(f"max_lr: {rate}", "max_lr: ${optim.lr}"))
    assert [column.key for column in ranked(tmp_path)[0].columns] == ["optim.lr"]


def test_a_value_from_the_environment_counts_as_told(tmp_path):
    for rate in (0.1, 0.2):
        path = make_run(tmp_path / str(rate), settings={"optim.lr": rate})
        config = path / ".hydra" / "config.yaml"
        config.write_text(config.read_text().replace(f"lr: {rate}", "lr: ${oc.env:RATE}"))
    assert [column.key for column in ranked(tmp_path)[0].columns] == ["optim.lr"]


def test_a_group_stands_for_the_keys_that_follow_from_it(tmp_path):
    for model in ("small", "large"):
        for rate in (0.001, 0.01):
            optim = {"optim": "adam" if model == "small" else "sgd"}
            settings = {"optim.lr": rate, "optim.momentum": 0.9 if model == "large" else 0}
            make_run(tmp_path / f"{model}{rate}", model=model, settings=settings, choices=optim)
    board, _ = ranked(tmp_path)
    assert [tuple(column) for column in board.columns] == [("model", "model"), ("optim", "optim"), ("optim.lr", "lr")]
    assert {row.label for row in board.rows} >= {"small · adam · lr 0.001", "large · sgd · lr 0.01"}


def test_an_objects_values_follow_from_its_target(tmp_path):
    for name, optimizer in (("a", "NAdam"), ("b", "Adam")):
        extra = {"callbacks.ema._target_": "fmx.callbacks.EMA", "callbacks.ema.decay": 0.9} if name == "a" else {}
        settings = {"optim._target_": f"torch.optim.{optimizer}", "optim.betas": [0.9, 0.99 if name == "a" else 0.999]}
        make_run(tmp_path / name, settings=settings | extra)
    board, rows = ranked(tmp_path)
    assert [tuple(column) for column in board.columns] == [
        ("callbacks.ema._target_", "ema"),
        ("optim._target_", "optim"),
    ]
    assert set(rows) == {"ema fmx.callbacks.EMA · optim torch.optim.NAdam", "ema – · optim torch.optim.Adam"}


def test_columns_with_the_same_last_part_keep_their_whole_key(tmp_path):
    for value, digits in ((1, 0.1234568), (2, 0.1234569)):
        make_run(tmp_path / str(value), settings={"optim.size": value, "vars.size": value, "vars.digits": digits})
    board, _ = ranked(tmp_path)
    assert [column.name for column in board.columns] == ["optim.size", "digits", "vars.size"]
    assert [row.settings["vars.digits"] for row in board.rows] == ["0.1234568", "0.1234569"]


def test_data_sets_are_told_apart_and_ranked_for_themselves(tmp_path):
    for place, (fingerprint, val) in enumerate([("a" * 32, 0.7), ("b" * 32, 0.9), ("a" * 32, 0.8)]):
        make_run(tmp_path / str(place), fingerprint=fingerprint, val=val, model="large" if place == 2 else "small")
    board, _ = ranked(tmp_path)
    shown = [(row.settings["data fingerprint"], row.settings["model"], row.rank) for row in board.rows]
    assert shown == [("aaaaaaaa", "large", 1), ("aaaaaaaa", "small", 2), ("bbbbbbbb", "small", 1)]
    assert "ranked for itself" in to_markdown(board)


def test_a_repeated_seed_counts_once_and_the_newest_counts(tmp_path):
    make_run(tmp_path / "new", val=0.9, started="2026-02-01T00:00:00+0000")
    make_run(tmp_path / "old", val=0.1, started="2026-01-01T00:00:00+0000")
    board, rows = ranked(tmp_path)
    assert rows["small"].val_accuracy == student_t([0.9])
    (left_out,) = board.unfinished
    assert (left_out.name, left_out.status) == (str(tmp_path / "old"), "repeated")


def test_runs_without_figures_are_listed_truthfully(tmp_path, capsys):
    make_run(tmp_path / "good", val=0.5)
    make_run(tmp_path / "failed", status="failed", error="TrainingError: loss is nan\nat step 7", model="large")
    make_run(tmp_path / "stopped", status="interrupted", seed=4)
    make_run(tmp_path / "afar", status="running")
    make_run(tmp_path / "gone", status="running", host=socket.gethostname(), pid=2**22 + 1)
    make_run(tmp_path / "here", status="running", host=socket.gethostname(), pid=os.getpid())
    (make_run(tmp_path / "lost") / "metrics.json").unlink()
    (make_run(tmp_path / "cut") / "run.json").write_text('{"status": "compl')
    make_run(tmp_path / "silly", params=True)
    shutil.rmtree(make_run(tmp_path / "early", status="failed", error="no data") / ".hydra")
    report([str(tmp_path)], {"csv": tmp_path / "t.csv"}, force=False)
    out = capsys.readouterr().out
    rows = {Path(row["runs"]).name: row for row in table((tmp_path / "t.csv").read_text())}
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {
        "good": "completed", "failed": "failed", "stopped": "interrupted", "afar": "running", "gone": "interrupted",
        "here": "running", "lost": "unreadable", "cut": "unreadable", "silly": "unreadable", "early": "failed",
    }  # fmt: skip
    assert rows["failed"]["error"] == r"TrainingError: loss is nan\nat step 7"
    assert rows["failed"]["model"] == "large"
    assert rows["failed"]["n"] == "0"
    assert "metrics.json" in rows["lost"]["error"]
    assert "no figure" in rows["silly"]["error"]
    for name, row in rows.items():
        if name != "good":
            assert re.search(rf"{name} +{row['status']}", out)
    assert "2 failed, 2 interrupted, 2 running, 3 unreadable" in out


@pytest.mark.parametrize(
    "figures",
    ['{"accuracy": "<b>"}', '{"accuracy": 7}', '{"accuracy": null}', "[]", '{"accuracy": 0.5, "macro_f1": 1e400}'],
)
def test_a_figure_that_is_none_is_no_row(tmp_path, figures):
    make_run(tmp_path / "a")
    (tmp_path / "a" / "metrics.json").write_text(f'{{"test": {figures}, "val": null, "selected_on": "val"}}')
    board, _ = ranked(tmp_path)
    assert not board.rows
    assert [other.status for other in board.unfinished] == ["unreadable"]


def test_a_model_that_diverged_comes_last(tmp_path):
    make_run(tmp_path / "a", val=float("nan"), model="large", macro_f1=float("nan"))
    make_run(tmp_path / "b", val=0.1)
    board, _rows = ranked(tmp_path)
    assert [row.label for row in board.rows] == ["small", "large"]
    assert "nan" in to_csv(board)


def test_names_are_no_markup_in_any_format(tmp_path, capsys):
    make_run(tmp_path / "a\x1b[31m\nb", status="failed", error=HOSTILE + "\x1b]0;x\x07")
    make_run(tmp_path / "plain", settings={"vars.name": HOSTILE})
    make_run(tmp_path / "other", settings={"vars.name": "x"}, val=0.1)
    report([str(tmp_path)], {}, force=False)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", capsys.readouterr().out)
    board, _ = ranked(tmp_path)
    latex, markdown = to_latex(board), to_markdown(board)
    row = next(line for line in latex.splitlines() if "script" in line)
    assert r"\textbar{}\$x\_y\$" in row
    assert r"\textbackslash{}input\{q\} \%" in row
    assert row.count(" & ") == 9
    assert all(line.startswith("%") for line in latex.splitlines() if line.count("\\input"))
    line = next(line for line in markdown.splitlines() if line.startswith("| 1 |"))
    assert "<script" not in markdown
    assert r"\|\$x_y\$ \`z\` \\input{q} %" in line
    assert len(re.findall(r"(?<!\\)\|", line)) == 11
    assert table(to_csv(board))[0]["vars.name"] == HOSTILE


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 100_000, "a: &a [1]\nb: *a", "a: !!python/object:os.system {}", "3"]
)
def test_a_configuration_that_is_none_is_refused(tmp_path, text):
    make_run(tmp_path / "a")
    (tmp_path / "a" / ".hydra" / "resolved.yaml").write_text(text)
    with pytest.raises(DataError, match=r"resolved\.yaml"):
        read_settings(tmp_path / "a")


def test_it_refuses_politely(tmp_path, command):
    make_run(tmp_path / "good")
    make_run(tmp_path / "bad" / "0", status="failed", error="no luck")
    (tmp_path / "t.csv").write_text("mine")
    (tmp_path / "empty").mkdir()
    for arguments, code, words in [
        (["nowhere"], 1, "holds no run directory"),
        (["empty"], 1, "holds no run directory"),
        (["bad"], 1, "none of these runs has completed"),
        (["good", "--csv", "t.csv"], 2, "--force"),
        (["good", "--csv", "empty"], 2, "is a folder"),
        (["good", "--html", "no/t.html"], 2, "no folder"),
        (["good", "--tsv", "t"], 2, "--tsv"),
        ([], 2, "DIR"),
    ]:
        finished = command(*arguments, cwd=tmp_path, module="report")
        assert finished.returncode == code, arguments
        assert words in finished.stderr
        assert "Traceback" not in finished.stderr
    assert (tmp_path / "t.csv").read_text() == "mine"
    assert command("good", "--csv", "t.csv", "--force", cwd=tmp_path, module="report").returncode == 0
    assert table((tmp_path / "t.csv").read_text())[0]["runs"] == "good"


def test_an_unfinished_sweep_has_a_leaderboard_too(tmp_path):
    make_run(tmp_path / "10", status="failed", error="a")
    make_run(tmp_path / "9", status="running")
    write_leaderboard(tmp_path)
    rows = table((tmp_path / "leaderboard.csv").read_text())
    assert [(row["runs"], row["status"]) for row in rows] == [("9", "running"), ("10", "failed")]
    assert "No run has completed" in (tmp_path / "leaderboard.html").read_text()


def test_refusals_are_the_projects_own_errors(tmp_path):
    (tmp_path / "t").write_text("")
    with pytest.raises(ConfigError):
        report([str(tmp_path)], {"csv": tmp_path / "t"}, force=False)
    with pytest.raises(DataError):
        report([str(tmp_path)], {}, force=False)


@pytest.mark.parametrize("verb", [["report", "run"], ["run", "--version"], ["predict", "--help"]], ids=lambda v: v[0])
def test_a_reader_that_has_seen_enough(tmp_path, verb):
    """As with `fmx report … | head -1`: no traceback, and nothing went wrong."""
    make_run(tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-m", f"fmx.{verb[0]}", *verb[1:]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, b"")
