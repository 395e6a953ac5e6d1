"""The leaderboard: every figure recomputed in another way, what is grouped, ranked, marked and left out."""

import csv
import fcntl
import io
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from conftest import module_of
from fmx.commands.report import report
from fmx.errors import ConfigError, DataError
from fmx.reporting import outcomes
from fmx.reporting.comparison import differences, read_side
from fmx.reporting.intervals import share, student_t
from fmx.reporting.leaderboard import leaderboard
from fmx.reporting.leaderboard_files import write_leaderboard
from fmx.reporting.leaderboard_terminal import MAX_ROWS
from fmx.reporting.leaderboard_text import to_csv, to_latex, to_markdown
from fmx.reporting.outcomes import KnownOutcomes
from fmx.runs.settings import read_settings
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
        for name, num_images in (("test_accuracy", 360), ("val_accuracy", 216)):
            interval = share(list(group[name]), num_images).interval
            assert row[f"{name}_low"] == pytest.approx(interval.low, rel=1e-9)
            assert row[f"{name}_high"] == pytest.approx(interval.high, rel=1e-9)
            alone = stats.binomtest(round(group[name].mean() * num_images), num_images).proportion_ci(method="wilson")
            assert row[f"{name}_high"] - row[f"{name}_low"] > 0.95 * (alone.high - alone.low)
        assert row["caution"] == "fewer than 5 seeds"
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
        "import sys, pathlib; from fmx.reporting.leaderboard_files import write_leaderboard;"
        "write_leaderboard(pathlib.Path('sweep'));"
        "print([name for name in ('torch', 'pandas', 'matplotlib', 'sklearn', 'scipy.stats') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"
    for verb in ("report", "compare"):
        program = (
            f"import sys, fmx.commands.{verb}; print([n for n in ('numpy', 'omegaconf', 'rich') if n in sys.modules])"
        )
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
        extra = (
            {"callbacks.ema._target_": "fmx.training.callbacks.EMA", "callbacks.ema.decay": 0.9} if name == "a" else {}
        )
        settings = {"optim._target_": f"torch.optim.{optimizer}", "optim.betas": [0.9, 0.99 if name == "a" else 0.999]}
        make_run(tmp_path / name, settings=settings | extra)
    board, rows = ranked(tmp_path)
    assert [tuple(column) for column in board.columns] == [
        ("callbacks.ema._target_", "ema"),
        ("optim._target_", "optim"),
    ]
    assert set(rows) == {"ema fmx.training.callbacks.EMA · optim torch.optim.NAdam", "ema – · optim torch.optim.Adam"}


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
    assert "a ranking of its own" in to_markdown(board)


def told_everywhere(folder, command):
    """What every format, and a terminal's pipe, says of the runs in a folder."""
    kinds = ("csv", "md", "latex", "html")
    files = [part for kind in kinds for part in (f"--{kind}", f"t.{kind}")]
    finished = command("runs", *files, "--force", cwd=folder, module="report")
    assert finished.returncode == 0, finished.stderr
    texts = {kind: (folder / f"t.{kind}").read_text(encoding="utf-8") for kind in kinds}
    return texts | {"html": texts["html"].partition('<script type="application/json"')[0], "out": finished.stdout}


@pytest.mark.parametrize(
    ("record", "names"),
    [
        ({"git": {"commit": "def", "dirty": False}}, ["commit"]),
        ({"git": {"commit": "abc", "dirty": True}}, ["uncommitted changes"]),
        ({"versions": {"python": "3.11.7", "torch": "2.14.0", "fmx": "0.1"}}, ["torch", "fmx"]),
        ({"device": {"accelerator": "cuda", "name": "H200", "precision": "bf16-mixed"}},
         ["accelerator", "device", "precision"]),
        ({"device": {"accelerator": "cpu", "precision": "32-true", "threads": 4}}, ["threads"]),
        ({"data": {"name": "pets", "sizes": {"val": 9}, "fingerprint": "f" * 32, "split_fingerprint": "b" * 32}},
         ["split"]),
    ],
)  # fmt: skip
def test_a_row_of_runs_that_are_not_alike_is_marked_in_every_format(tmp_path, command, record, names):
    git = {"git": {"commit": "abc", "dirty": False}}
    for seed in (1, 2):
        make_run(tmp_path / "runs" / f"alike{seed}", seed=seed, model="large", **git)
    make_run(tmp_path / "runs" / "one", seed=1, **git)
    make_run(tmp_path / "runs" / "other", seed=2, **git | record)
    texts = told_everywhere(tmp_path, command)
    rows = {row["model"]: row["mixed"] for row in table(texts["csv"])}
    assert rows["large"] == ""
    assert sorted(part.partition("=")[0] for part in rows["small"].split("; ")) == sorted(names)
    for kind in ("md", "latex", "html", "out"):
        assert "mixed: the runs of the row" in texts[kind], kind
        lines = [line for line in texts[kind].replace("</td>", " ").replace("<tr>\n", "").split("\n")
                 if all(name in line for name in names) and ("small" in line or kind == "html")]  # fmt: skip
        assert lines, kind
        assert not [line for line in lines if "large" in line]


def test_rows_of_one_commit_each_are_told_apart_and_like_runs_are_not_marked(tmp_path, command):
    for model, commit in (("small", "abc"), ("large", "def")):
        make_run(tmp_path / "runs" / model, model=model, git={"commit": commit, "dirty": False})
    texts = told_everywhere(tmp_path, command)
    assert all("The rows differ in commit as well" in texts[kind] for kind in ("md", "latex", "html", "out"))
    for run in (tmp_path / "runs").iterdir():
        make_run(run, model=run.name)
    texts = told_everywhere(tmp_path, command)
    assert not any("mixed:" in text or "as well" in text for text in texts.values())


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("trainer.limit_train_batches", [1, 1.0, 0.5]),
        ("trainer.limit_val_batches", [1.0, 1]),
        ("trainer.val_check_interval", [1.0, 1, 250]),
        ("data.validation", [0.1, 1, 1.0, 5000]),
    ],
)
def test_a_share_is_not_shown_as_a_count(tmp_path, command, key, values):
    for place, value in enumerate(values):
        make_run(tmp_path / "runs" / str(place), settings={key: value}, val=0.9 - place / 10)
    texts = told_everywhere(tmp_path, command)
    told = [str(value) for value in values]
    assert [row[key] for row in table(texts["csv"])] == told
    for kind in ("md", "latex", "html", "out"):  # between n, 1, and macro-F1, from the best down
        plain = re.sub(r"<[^>]*>|[|&\s]+", " ", texts[kind])
        assert re.findall(r" 1 ([\d.]+) 50\.00 ", re.sub(" +", " ", plain)) == told, kind
    found = differences(read_side(str(tmp_path / "runs" / "0")), read_side(str(tmp_path / "runs" / "1")))
    assert (key, *told[:2]) in found["configuration"]


def test_intervals_stay_within_a_hundred_percent_and_have_a_width(tmp_path, command):
    rates = {"small": [[], range(25)], "large": [[0], [1]]}
    for model, wrongs in rates.items():
        for seed, wrong in enumerate(wrongs):
            val = {"small": [0.1, 0.9], "large": [0.99, 0.99]}[model][seed]
            make_run(tmp_path / "runs" / f"{model}{seed}", said=wrong_at(wrong), seed=seed, model=model, val=val,
                     macro_f1=[0.05, 0.95][seed])  # fmt: skip
    texts = told_everywhere(tmp_path, command)
    for row in table(texts["csv"]):
        for name in REACHES:
            low, mean, high = (float(row[f"{name}_{part}"]) for part in ("low", "mean", "high"))
            assert 0 <= low < mean < high <= 1
        assert row["caution"] == "fewer than 5 seeds"
    for kind in ("md", "latex", "html", "out"):
        assert not re.search(r"[−-]\d+\.\d\d (–|--) ", texts[kind]), kind
        assert "within 0 and 100" in texts[kind]
        assert "deviation and interval are rough" in texts[kind]


def test_each_data_set_has_a_table_of_its_own_with_its_own_columns(tmp_path, command):
    for place, (name, model, rate) in enumerate([("pets", "small", 1), ("pets", "large", 1), ("cars", "small", 2)]):
        data = {"name": name, "sizes": {}, "fingerprint": name[0] * 32, "split_fingerprint": "a" * 32}
        make_run(tmp_path / "runs" / str(place), model=model, settings={"optim.lr": rate, "data.name": name}, data=data,
                 choices={"data": name})  # fmt: skip
    texts = told_everywhere(tmp_path, command)
    assert [(row["data"], row["rank"]) for row in table(texts["csv"])] == [("cars", "1"), ("pets", "1"), ("pets", "2")]
    for kind, marks in {"md": "## ", "latex": r"\textbf{", "html": '<h2 class="data">', "out": "\n"}.items():
        assert all(f"{marks}{name}" in texts[kind] for name in ("cars", "pets")), kind
    assert texts["html"].count('class="sortable"') == 2
    assert " lr" not in texts["out"]  # which differs between the data sets alone


def screen(folder, width, *arguments):
    """What `fmx report` shows on a terminal of so many columns."""
    process, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    child = subprocess.Popen([sys.executable, "-m", "fmx.commands.report", *arguments], cwd=folder, stdout=terminal,
                             stderr=terminal, stdin=terminal, env=environment | {"TERM": "xterm"})  # fmt: skip
    os.close(terminal)
    shown = b""
    while True:
        try:
            received = os.read(process, 65536)
        except OSError:  # the end of a pseudo-terminal
            break
        if not received:
            break
        shown += received
    os.close(process)
    assert child.wait() == 0, shown
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize("width", [80, 100])
def test_a_terminal_shows_whole_figures_beside_what_differs(tmp_path, width):
    for place, model in enumerate(["small", "large", "large"]):
        settings = {f"vars.knob{n}": n * place for n in range(6)} | {"trainer.limit_train_batches": 40}
        for seed in (1, 2):
            make_run(tmp_path / "runs" / f"{place}{seed}", model=model, seed=seed, settings=settings,
                     val=0.9 - place / 100 - seed / 1000)  # fmt: skip
    make_run(tmp_path / "runs" / "lost", model="large", status="failed", error="out of memory " * 12, seed=7)
    shown = screen(tmp_path, width, "runs")
    lines = [line.strip() for line in shown.splitlines()]
    assert max(map(len, lines[: lines.index("", 1)])) <= width
    for place in range(3):
        line = next(line for line in lines if line.startswith(f"{place + 1} "))
        assert f"{100 * (0.8985 - place / 100):.2f} ± 0.07" in line
        assert "100.00 ± 0.00" in line
    assert max(map(len, lines)) <= width
    words = " ".join(re.sub(r" {2,}", " ", shown).split())
    assert "Left out, for the width of the terminal" in words
    assert "knob5 10" in words
    assert "failed" in words
    assert words.count("out of memory") > 8  # folded, not cut


def test_long_tables_end_on_the_terminal_and_say_so_and_the_files_have_all(tmp_path, capsys):
    for number in range(MAX_ROWS + 7):
        folder = tmp_path / "runs" / str(number)
        make_run(folder, settings={"optim.lr": number / 1000}, val=0.5 + number / 1000, epochs=1)
        shutil.copytree(folder / ".hydra", tmp_path / "runs" / f"lost{number}" / ".hydra")
        (tmp_path / "runs" / f"lost{number}" / "run.json").write_text('{"status": "failed", "error": "out of memory"}')
    report([str(tmp_path / "runs")], {"csv": tmp_path / "all.csv", "md": tmp_path / "all.md"}, force=False)
    shown = capsys.readouterr().out
    assert len(re.findall(r"^ *\d+ .* 100\.00 ", shown, re.MULTILINE)) == MAX_ROWS
    assert f"the best {MAX_ROWS} of 107 configurations" in shown
    assert f"the first {MAX_ROWS} of 107 runs without metrics" in shown
    assert "Tables end after 100 rows here: --csv" in shown
    assert shown.count("out of memory") == MAX_ROWS
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["completed"] * 107 + ["failed"] * 107
    assert (tmp_path / "all.md").read_text().count("| failed |") == 107
    narrow = screen(tmp_path, 60, "runs")
    assert max(map(len, narrow.splitlines())) <= 60
    assert narrow.count("lr 0.") == narrow.count("out of memory") == MAX_ROWS


def test_a_pruned_trial_is_called_so_and_its_callback_is_no_setting(tmp_path, command):
    callback = {
        "callbacks.pruning._target_": "fmx.sweeps.search.pruning.Pruning",
        "callbacks.pruning.monitor": "val/loss",
    }
    watch = "+callbacks.pruning={_target_:fmx.sweeps.search.pruning.Pruning,monitor:val/loss}"
    make_run(tmp_path / "runs" / "trial", settings=callback, overrides=["model=small", watch])
    facts = {"epoch": 1, "metric": "val/loss", "value": 3}
    make_run(tmp_path / "runs" / "pruned", model="large", settings=callback, status="interrupted", pruned=facts,
             error="pruned after epoch 1: val/loss 3")  # fmt: skip
    make_run(tmp_path / "runs" / "by_hand", seed=2)
    make_run(tmp_path / "runs" / "stopped", seed=3, status="interrupted")
    texts = told_everywhere(tmp_path, command)
    rows = table(texts["csv"])
    assert {Path(row["runs"].partition(";")[0]).name: (row["status"], row["n"]) for row in rows} == {
        "trial": ("completed", "2"), "pruned": ("pruned", "0"), "stopped": ("interrupted", "0"),
    }  # fmt: skip
    assert "1 interrupted, 1 pruned" in texts["out"]
    assert not any("callbacks.pruning" in text.partition("All settings")[0] for text in texts.values())
    assert "<pre>python -m fmx.run model=small</pre>" in texts["html"]
    for verb in (["compare", "runs/pruned", "runs/trial"], ["evaluate", "runs/pruned"]):
        refused = command(*verb[1:], module=verb[0], cwd=tmp_path)
        assert refused.returncode == 1
        assert "a search ended it early: pruned after epoch 1" in refused.stderr


def test_a_repeated_seed_counts_once_and_the_newest_counts(tmp_path):
    make_run(tmp_path / "new", val=0.9, started="2026-02-01T00:00:00+0000")
    make_run(tmp_path / "old", val=0.1, started="2026-01-01T00:00:00+0000", git={"commit": "abc", "dirty": False})
    board, rows = ranked(tmp_path)
    assert rows["small"].val_accuracy == student_t([0.9])
    (left_out,) = board.unfinished
    assert (left_out.name, left_out.status) == (str(tmp_path / "old"), "repeated")
    assert left_out.error.endswith("but not the same commit")


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
    assert "no number" in rows["silly"]["error"]
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
    for name, file in (("empty", "x"), ("waits", "sweep.json"), ("searches", "study.journal")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    for arguments, code, words in [
        (["nowhere"], 1, "holds no run directory"),
        (["empty"], 1, "holds no run directory"),
        (["waits"], 1, "no job of waits has started yet: fmx status waits says more"),
        (["searches"], 1, "no job of searches has started yet: fmx status searches says more"),
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


def test_only_what_has_changed_is_read_anew(tmp_path, monkeypatch):
    names = [make_run(tmp_path / str(number), seed=number).name for number in range(4)]
    make_run(tmp_path / "4", seed=4, status="running")
    known, opened = KnownOutcomes(), []
    open_run = outcomes.open_run
    monkeypatch.setattr(outcomes, "open_run", lambda path, **how: opened.append(path.name) or open_run(path, **how))

    def read():
        """The folders that are opened, and the written tables, which equal those of a process that knows nothing."""
        write_leaderboard(tmp_path)
        files = [tmp_path / f"leaderboard.{kind}" for kind in ("csv", "md", "html")]
        anew = [file.read_bytes() for file in files]
        opened.clear()
        write_leaderboard(tmp_path, known)
        assert [file.read_bytes() for file in files] == anew
        return sorted(opened)

    assert read() == [*names, "4"]
    assert read() == ["4"], "it may end"
    edit_json(tmp_path / "1/metrics.json", lambda metrics: metrics["test"].update(accuracy=0.5))
    assert read() == ["1", "4"]
    edit_json(tmp_path / "2/run.json", lambda record: record.update(status="failed", error="no luck"))
    make_run(tmp_path / "4", seed=4)
    assert read() == ["2", "4"]
    assert read() == ["2"], "it may go on"
    (tmp_path / "3/.hydra/resolved.yaml").write_text((tmp_path / "3/.hydra/resolved.yaml").read_text() + "more: 1\n")
    shutil.rmtree(tmp_path / "0")
    assert read() == ["2", "3"]


def edit_json(path, change):
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


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
        [sys.executable, "-m", module_of(verb[0]), *verb[1:]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, b"")
