"""hydra/sweeper=search: what it draws, what it refuses, and that no trial is lost, repeated or shared by mistake."""

import base64
import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from chromium import chromium_page
from fmx.process.lock import lock_folder
from fmx.sweeps.search import heartbeat
from fmx.sweeps.search.heartbeat import Searcher
from fmx.sweeps.search.html_page import html_page
from fmx.sweeps.search.options import Objective, Options
from fmx.sweeps.search.space import Parameter, Space
from fmx.sweeps.search.study import RunningTrial, SharedStudy
from fmx.sweeps.search.summary import summarize

pytestmark = pytest.mark.usefixtures("no_figures")

# A run of a second on real digits.
RUN = [
    "-m",
    "hydra/sweeper=search",
    "hydra.sweep.dir=search",
    "data=digits",
    "model=mlp",
    "augment=none",
    "logger=none",
    "trainer=cpu",
    "hydra.launcher.workers=1",
    "hydra.launcher.threads=1",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=4",
]
LR = "optim.lr=tag(log,interval(1e-4,1e-1))"

REFUSED = {
    # settings
    "hydra.sweeper.sampler=tep": ["hydra.sweeper.sampler", "'tep'", "did you mean 'tpe'?", "random, grid, cmaes"],
    "hydra.sweeper.pruning=ahsa": ["hydra.sweeper.pruning", "did you mean 'asha'?", "hyperband, none"],
    "hydra.sweeper.metric=test/accuracy": ["test/accuracy", "chosen by the test set", "use val/accuracy"],
    "hydra.sweeper.metric=[val/loss,test/loss]": ["test/loss", "use val/loss"],
    "hydra.sweeper.metric=val/per_class": ["no metric 'val/per_class'"],
    "hydra.sweeper.metric=val/acuracy": ["no metric 'val/acuracy'", "did you mean 'val/accuracy'?", "params, seconds"],
    "hydra.sweeper.direction=up": ["must be maximize, minimize or auto, got 'up'"],
    "hydra.sweeper.direction=[maximize,minimize]": ["one entry for each of the 1 metrics, got 2"],
    "trainer.devices=[0]": ["is for a single run"],
    "hydra.sweeper.n_trials=0": ["hydra.sweeper.n_trials must be a whole number of at least 1 or null, got 0"],
    "hydra.sweeper.n_trials=null": ["would never end", "hydra.sweeper.timeout_s=SECONDS"],
    "hydra.sweeper.timeout_s=-1": ["hydra.sweeper.timeout_s must be a number greater than 0 or null, got -1"],
    "hydra.sweeper.n_trails=3": ["n_trails", "did you mean 'n_trials'?"],
    "+hydra.sweeper.n_trails=3": ["no key 'n_trails'", "did you mean 'n_trials'?"],
    "hydra.sweeper.metric=[val/loss,params] hydra.sweeper.pruning=asha": ["names 2", "pruning=none"],
    "hydra.sweeper.metric=params hydra.sweeper.pruning=asha": ["follows a metric of the validations"],
    "hydra.sweeper.sampler=grid": ["cannot count the values of optim.lr", "choice(A,B,C)"],
    "data.validation=test": ["data.validation=test makes val/accuracy a metric of the test set"],
    "data.validation=none": ["leaves no val/accuracy"],
    "trainer.num_nodes=2": ["only SLURM starts the jobs of a sweep on several machines", "hydra/launcher=slurm"],
    "hydra.launcher.workers=0": ["hydra.launcher.workers must be"],
    # distributions
    "optim.lr=1e-3": ["a search needs a distribution", "tag(log,interval(1e-4,1e-1))", "hydra.sweeper.params"],
    "optim.lr=tag(lgo,interval(1e-4,1e-1))": ["there is no tag 'lgo'", "did you mean 'log'?"],
    "optim.lr=tag(log,interval(0,1e-1))": ["needs a lower end above 0, got 0"],
    "optim.lr=interval(0.1,0.01)": ["the lower end comes first"],
    "optim.lr=tag(log,choice(1,2))": ["choices have no order"],
    "seed=range(3,3)": ["the range is empty"],
    # what the distributions reach
    "model=mlp,lenett": ["no model 'lenett'", "did you mean 'lenet'?"],
    "optim.lrr=interval(0.1,0.2)": ["optim.lrr", "did you mean 'lr'?"],
    "data.batch_size=64,0": ["data.batch_size must be a whole number of at least 1, got 0"],
    "loss.label_smoothing=interval(0.1,1.5)": ["loss.label_smoothing must be", "got 1.5"],
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_wrong_is_said_before_the_first_trial(command, tmp_path, line):
    done = command(*RUN, LR, *line.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert [part for part in REFUSED[line] if part not in done.stderr] == [], done.stderr
    assert list(tmp_path.iterdir()) == []


def searched(folder: Path) -> dict:
    return json.loads((folder / "search" / "search.json").read_text())


def records(folder: Path) -> dict[int, dict]:
    return {int(path.parent.name): json.loads(path.read_text()) for path in folder.glob("search/*/run.json")}


def counted(folder: Path) -> dict[str, int]:
    return {state: number for state, number in searched(folder)["trials"].items() if number and state != "wanted"}


EXPERIMENT = """# @package _global_
defaults:
  - override /hydra/sweeper: search
hydra:
  sweeper:
    n_trials: 3
    params:
      optim.lr: tag(log,interval(1e-4,1e-1))
      model.net.hidden_sizes: [[16], [16, 16]]
      data.batch_size: interval(16,64)
      data.num_workers: range(0,1)
      optim.weight_decay: interval(0,1)
      loss.label_smoothing: 0.1
"""


def test_tpe_draws_by_an_experiment_file_and_names_the_best_as_a_command(command, tmp_path):
    (tmp_path / "my/experiment").mkdir(parents=True)
    (tmp_path / "my/experiment/mine.yaml").write_text(EXPERIMENT)
    run = [each for each in RUN if each not in {"-m", "hydra/sweeper=search"}]  # the file says that it is a search
    done = command("--config-dir=my", "experiment=mine", *run, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = searched(tmp_path)
    assert counted(tmp_path) == {"begun": 3, "completed": 3}
    for trial in found["history"]:
        drawn = trial["params"]
        assert 1e-4 <= drawn["optim.lr"] <= 1e-1
        assert drawn["model.net.hidden_sizes"] in {"[16]", "[16,16]"}
        assert isinstance(drawn["data.batch_size"], int)
        assert drawn["data.num_workers"] == 0
        assert isinstance(drawn["optim.weight_decay"], float)  # where the configuration has a decimal, so are the draws
        metrics = json.loads((tmp_path / "search" / str(trial["trial"]) / "metrics.json").read_text())
        assert trial["values"] == {"val/accuracy": metrics["val"]["accuracy"]}
    best = max(found["history"], key=lambda trial: trial["values"]["val/accuracy"])
    assert found["best"][0]["values"] == best["values"]
    line = found["best"][0]["command"]
    assert line in done.stdout
    assert line in (tmp_path / "search/search.md").read_text()

    again = command(*shlex.split(line)[3:], "hydra.run.dir=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    metrics = json.loads((tmp_path / "again/metrics.json").read_text())
    assert metrics["val"]["accuracy"] == best["values"]["val/accuracy"]


def test_grid_finds_the_pareto_front_and_says_which_trial_failed(command, tmp_path):
    space = ["model=mlp,lenet", "data.image_size=28,8", "hydra.launcher.workers=2"]  # lenet takes no images of 8 pixels
    goals = ["hydra.sweeper.metric=[val/accuracy,params]", "hydra.sweeper.sampler=grid", "hydra.sweeper.n_trials=null"]
    done = command(*RUN, *space, *goals, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    found = searched(tmp_path)
    assert found["direction"] == ["maximize", "minimize"]
    assert counted(tmp_path) == {"begun": 4, "completed": 3, "failed": 1}
    assert len({tuple(trial["params"].values()) for trial in found["history"]}) == 4
    (failed,) = (trial for trial in found["history"] if trial["state"] == "failed")
    assert failed["params"] == {"model": "lenet", "data.image_size": "8"}
    assert "image_size must be at least" in failed["error"]
    assert f"#{failed['trial']}" in done.stderr
    points = {tuple(trial["values"].values()) for trial in found["history"] if trial["values"]}
    front = {p for p in points if not any(q[0] >= p[0] and q[1] <= p[1] and q != p for q in points)}
    assert {tuple(each["values"].values()) for each in found["best"]} == front
    page = (tmp_path / "search/search.html").read_text()
    assert "Pareto front" in page
    assert "; drawn by grid.</p>" in page
    assert "Content-Security-Policy\" content=\"default-src 'none'" in page


def test_asha_prunes(command, tmp_path):
    space = ["optim.lr=tag(log,interval(1e-7,1e-2))", "trainer.max_epochs=4", "hydra.sweeper.sampler=random"]
    prune = ["hydra.sweeper.pruning=asha", "hydra.sweeper.reduction=2", "hydra.sweeper.n_trials=5"]
    done = command(*RUN, *space, *prune, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found, runs = searched(tmp_path), records(tmp_path)
    pruned = [trial["trial"] for trial in found["history"] if trial["state"] == "pruned"]
    completed = [trial["trial"] for trial in found["history"] if trial["state"] == "completed"]
    assert len(pruned) + len(completed) == 5
    assert len(pruned) >= 2
    for number in pruned:
        run_dir, said = tmp_path / "search" / str(number), runs[number]
        assert said["status"] == "interrupted"
        reports = found["history"][number]["reports"]
        last = max(reports, key=int)
        assert said["error"] == f"pruned after epoch {last}: val/accuracy {reports[last]:.4g}"
        assert len((run_dir / "history.csv").read_text().splitlines()) == 1 + len(reports)
        assert not (run_dir / "metrics.json").exists()  # the test set stays sealed
        assert f"#{number} " in done.stdout
    assert done.stdout.count(": pruned after epoch ") == len(pruned)
    assert "interrupted" not in done.stdout
    for name in ("leaderboard.md", "leaderboard.csv", "leaderboard.html", "search.md", "search.html"):
        text = (tmp_path / "search" / name).read_text()
        text = text.partition("<script")[0]  # plotly.js knows many words
        assert "pruned" in text, name
        assert "interrupted" not in text, name
    for number in completed:
        assert list(found["history"][number]["reports"]) == ["1", "2", "3", "4"]
    assert "Reports" in (tmp_path / "search/search.html").read_text()

    scored = command("search", "--json", "scored.json", cwd=tmp_path, module="evaluate")
    assert scored.returncode == 0, scored.stderr
    assert f"left out: {len(pruned)} of 5 runs, which a search pruned" in scored.stderr
    assert len(json.loads((tmp_path / "scored.json").read_text())) == len(completed)
    shown = command("search", cwd=tmp_path, module="report")
    assert shown.returncode == 0, shown.stderr
    assert f"Not in the table: {len(pruned)} pruned." in shown.stdout
    both = [f"search/{number}" for number in (*pruned, completed[0])]
    compared = command(f"search/[{pruned[0]}{completed[0]}]", both[-1], cwd=tmp_path, module="compare")
    assert compared.returncode == 0, compared.stderr
    assert f"search/{pruned[0]}: pruned after epoch" in compared.stdout
    refused = command(both[0], cwd=tmp_path, module="evaluate")
    assert refused.returncode == 1
    assert "a search ended it early: pruned after epoch" in refused.stderr


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a command in a process of its own that can be killed."""
    processes = []

    def start(folder: Path, *arguments: str) -> subprocess.Popen:
        with (folder / f"log{len(processes)}").open("w") as log:
            command = [sys.executable, "-m", "fmx.run", *arguments]
            processes.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def wait_until(holds, timeout_s: float = 100) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def status_of(folder: Path, number: int) -> str | None:
    path = folder / f"search/{number}/run.json"
    return json.loads(path.read_text())["status"] if path.exists() else None


def test_killed_and_resumed_it_repeats_no_trial(command, started, tmp_path):
    (tmp_path / "my/optim").mkdir(parents=True)
    mine = tmp_path / "my/optim/mine.yaml"
    mine.write_text("defaults: [adam]\nweight_decay: 0.125\n")
    arguments = ["--config-dir=my", *RUN, "optim=mine", LR, "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=4"]
    search = started(tmp_path, *arguments)
    wait_until(lambda: search.poll() is not None or status_of(tmp_path, 1) == "running")
    search.kill()
    search.wait()
    before = (tmp_path / "search/0/run.json").read_text()
    mine.write_text("defaults: [adam]\nweight_decay: 0.25\n")
    with (tmp_path / "search/study.journal").open("ab") as journal:
        journal.write(b'{"op_code": 5, "worker')  # as a power cut leaves it

    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "have changed since this search began" in done.stdout
    assert counted(tmp_path) == {"begun": 4, "completed": 4}
    rates = [trial["params"]["optim.lr"] for trial in searched(tmp_path)["history"]]
    assert len(set(rates)) == 4
    assert (tmp_path / "search/0/run.json").read_text() == before
    assert {record["status"] for record in records(tmp_path).values()} == {"completed"}
    for number in range(4):
        assert "weight_decay: 0.125" in (tmp_path / f"search/{number}/.hydra/resolved.yaml").read_text()

    # With nothing left to do it does nothing, and it refuses to become another search.
    again = command(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [trial["params"]["optim.lr"] for trial in searched(tmp_path)["history"]] == rates
    other = command(*arguments, "trainer.max_epochs=3", cwd=tmp_path)
    assert other.returncode == 2
    assert "trainer.max_epochs was trainer.max_epochs=2 and is trainer.max_epochs=3 now" in other.stderr
    assert "hydra.sweep.dir=DIR" in other.stderr


SETTLING = """
import os
import signal
import time
from pathlib import Path

import fmx.run
import fmx.sweeps.search.report

write_summary = fmx.sweeps.search.report.write_summary


def interrupted(*arguments):
    write_summary(*arguments)
    if not Path("sent").exists() and Path("search/0/metrics.json").exists():
        Path("sent").touch()
        while not Path("search/1/history.csv").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)


fmx.sweeps.search.report.write_summary = interrupted
fmx.run.main()
"""


def test_ctrl_c_while_an_ended_trial_is_written_down(tmp_path):
    grid = ["hydra.sweeper.sampler=grid", "trainer.max_epochs=2,2000", "hydra.launcher.workers=2"]
    done = subprocess.run(
        [sys.executable, "-c", SETTLING, *RUN, *grid],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 130, done.stdout + done.stderr
    assert "the running trials save their states" in done.stdout + done.stderr
    assert json.loads((tmp_path / "search/1/run.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "search/1/checkpoints/last.ckpt").is_file()
    assert "interrupted" in (tmp_path / "search/leaderboard.md").read_text()


def test_two_commands_with_two_workers_each_share_the_study(started, tmp_path):
    arguments = [*RUN, LR, "optim.weight_decay=interval(0.0,0.1)", "hydra.sweeper.sampler=cmaes"]
    arguments += ["hydra.sweeper.startup=2", "hydra.sweeper.n_trials=8", "hydra.launcher.workers=2"]
    searches = [started(tmp_path, *arguments) for _ in range(2)]
    codes = [search.wait(timeout=300) for search in searches]
    assert codes == [0, 0], [path.read_text() for path in tmp_path.glob("log*")]
    assert counted(tmp_path) == {"begun": 8, "completed": 8}
    assert sorted(records(tmp_path)) == list(range(8))
    assert len({tuple(trial["params"].values()) for trial in searched(tmp_path)["history"]}) == 8


OPTIONS = {
    "objectives": (Objective("val/accuracy", "maximize"),),
    "sampler": "tpe",
    "pruning": "none",
    "n_trials": 9,
    "timeout_s": None,
    "seed": 1,
    "startup": 3,
    "warmup": 1,
    "reduction": 2,
}
SPACE = Space(
    (
        Parameter("optim.lr", FloatDistribution(0.0, 1.0, step=0.25)),
        Parameter("data.batch_size", IntDistribution(1, 3)),
        Parameter("model", CategoricalDistribution(["mlp", "lenet"])),
    )
)


def draw(folder: Path, count: int, **options) -> list[dict]:
    """What the next trials of a study are; each is worth its learning rate."""
    folder.mkdir(exist_ok=True)
    drawn = []
    with Searcher(folder) as searcher:
        study = SharedStudy(folder, Options(**(OPTIONS | options)), SPACE, searcher, fixed={})
        while len(drawn) < count and (claim := study.claim()):
            drawn.append(claim.values)
            study.complete(claim.number, [claim.values["optim.lr"]])
    return drawn


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "cmaes"])
def test_a_study_in_parts_draws_what_it_draws_in_one_go(tmp_path, sampler):
    whole = draw(tmp_path / "whole", 99, sampler=sampler)
    parts = [*draw(tmp_path / "parts", 4, sampler=sampler), *draw(tmp_path / "parts", 99, sampler=sampler)]
    assert parts == whole
    assert len(whole) == OPTIONS["n_trials"]
    assert len({tuple(values.items()) for values in whole}) > 5
    assert draw(tmp_path / "other", 99, sampler=sampler, seed=2) != whole


def test_a_grid_is_drawn_to_its_end_and_no_further(tmp_path):
    drawn = draw(tmp_path, 99, sampler="grid", n_trials=None)
    assert len({tuple(values.items()) for values in drawn}) == len(drawn) == 5 * 3 * 2


@pytest.mark.parametrize("pruning", ["median", "asha", "hyperband", "none"])
def test_a_poor_trial_is_told_to_stop(tmp_path, pruning):
    options = Options(**(OPTIONS | {"pruning": pruning, "startup": 2}))
    with Searcher(tmp_path) as searcher:
        study = SharedStudy(tmp_path, options, SPACE, searcher, fixed={})
        stops = []
        for value in [0.9, 0.8, 0.7, 0.6, 0.1, 0.1, 0.1, 0.1]:
            number = study.claim().number
            trial = RunningTrial.of_run(tmp_path / str(number))
            told = [trial.report(step, value) for step in range(1, 9)]
            stops.append(any(told))
            study.complete(number, [value])
        assert RunningTrial.of_run(tmp_path / str(number)) is None  # it has ended
    assert not stops[0]
    assert any(stops[4:]) == (pruning != "none")


def test_the_trial_of_a_command_that_is_gone_is_continued_once(tmp_path):
    options = Options(**OPTIONS)
    with Searcher(tmp_path) as gone:
        lost = SharedStudy(tmp_path, options, SPACE, gone, fixed={}).claim()
    with Searcher(tmp_path) as searcher:
        study = SharedStudy(tmp_path, options, SPACE, searcher, fixed={})
        claims = [study.claim(), study.claim()]
    assert [(claim.number, claim.begun) for claim in claims] == [(0, True), (1, False)]
    assert claims[0].values == lost.values


def test_half_a_line_of_a_full_disk_is_no_harm(tmp_path):
    options = Options(**OPTIONS)
    with Searcher(tmp_path) as searcher:
        study = SharedStudy(tmp_path, options, SPACE, searcher, fixed={})
        number = study.claim().number
        for tell in (
            lambda: RunningTrial.of_run(tmp_path / str(number)).report(1, 0.5),
            lambda: study.fail(number, "x"),
        ):
            with (tmp_path / "study.journal").open("ab") as journal:
                journal.write(b'{"op_co')
            tell()
        read_again = SharedStudy(tmp_path, options, SPACE, searcher, fixed={}).study.trials
    assert [(trial.state.name, trial.intermediate_values) for trial in read_again] == [("FAIL", {1: 0.5})]


def test_what_another_command_told_meanwhile_stands(tmp_path):
    """As where the first one was suspended for so long that its trial was taken over."""
    options = Options(**OPTIONS)
    with Searcher(tmp_path) as searcher:
        first, second = (SharedStudy(tmp_path, options, SPACE, searcher, fixed={}) for _ in range(2))
        number = first.claim().number
        second.fail(number, "told first")
        first.complete(number, [0.5])
        first.prune(number)
    (trial,) = first.study.trials
    assert (trial.state.name, trial.user_attrs["error"]) == ("FAIL", "told first")


def told_search(folder: Path, trials: list[tuple[dict, list[float], bool]], **options) -> dict:
    """The charts of search.html by title: of trials with these values and reports, pruned or completed.

    Those without a report have failed.
    """
    options = Options(**(OPTIONS | {"n_trials": 99, "pruning": "median"} | options))
    folder.mkdir(exist_ok=True)
    with Searcher(folder) as searcher:
        shared = SharedStudy(folder, options, SPACE, searcher, fixed={})
        for values, reports, pruned in trials:
            shared.study.enqueue_trial({"optim.lr": 0.25, "data.batch_size": 1, "model": "mlp"} | values)
            number = shared.claim().number
            for step, value in enumerate(reports, 1):
                RunningTrial.of_run(folder / str(number)).report(step, value)
            if not reports:
                shared.fail(number, "boom")
            elif pruned:
                shared.prune(number)
            else:
                shared.complete(number, [reports[-1]])
        summary = summarize(shared.study, folder, options, SimpleNamespace(for_trial=lambda _: "", to_resume=""))
    page = html_page(summary)
    figures = json.loads(page.partition('id="charts">')[2].partition("</script>")[0])
    sections = re.findall(r"<h2>([^<]*)</h2>\s*<p class=\"notes\">([^<]*)</p>(?:\s*<div id=\"chart-(\d+))?", page)
    return {title: (note, figures.get(place)) for title, note, place in sections}


def bars(figure: dict) -> dict[str, float]:
    (trace,) = figure["data"]
    values = trace["x"]
    if isinstance(values, dict):  # as Plotly packs numbers
        values = np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return dict(zip(trace["y"], values, strict=True))


def test_what_pruning_kills_counts_as_important(tmp_path):
    """The model decides, but all trials of the poor one were pruned; the rate makes a little difference."""
    trials = []
    for place in range(16):
        rate, poor = [0.25, 0.5, 0.75, 1.0][place % 4], place % 2
        model = {"model": "lenet" if poor else "mlp", "optim.lr": rate, "data.batch_size": 1 + place % 3}
        trials.append((model, [0.1] if poor else [0.5, 0.83 + rate / 100], bool(poor)))
    charts = told_search(tmp_path / "pruned", trials)
    note, figure = charts["Importance for val/accuracy"]
    shares = bars(figure)
    assert shares["model"] > 0.5 > shares["optim.lr"] + shares["data.batch_size"]
    assert "8 pruned ones count by the last value" in note


@pytest.mark.parametrize("trials", [1, 2, 5])
def test_few_trials_say_nothing_of_importance_and_the_page_says_why(tmp_path, trials):
    made = [({"optim.lr": 0.25 * place, "model": "lenet"}, [0.5 + place / 10], False) for place in range(trials)]
    note, figure = told_search(tmp_path / "few", made)["Importance for val/accuracy"]
    assert figure is None
    assert f"{trials} trials have a value: fewer than the 6" in note
    alike = [({"optim.lr": 0.25 * (place % 5), "model": "lenet"}, [0.5], False) for place in range(9)]
    note, figure = told_search(tmp_path / "alike", alike)["Importance for val/accuracy"]
    assert figure is None
    assert "same value" in note


@pytest.mark.parametrize(
    ("direction", "figures", "far"),
    [
        ("maximize", [0.95, 0.1, 0.94, 0.96, 0.95], [1]),
        ("minimize", [0.31, 0.3, 4e9, 0.29, 7.0], [2, 4]),
        ("maximize", [0.9, 0.9, 0.9, 0.2], [3]),
        ("maximize", [None, 0.95, 0.1, None, 0.94, 0.96, 0.95], [2]),  # two have failed
        ("maximize", [0.3, 0.32, 0.31, 0.9, 0.33], []),  # a good one is never off the axis
        ("maximize", [0.2, 0.9, 0.3, 0.8, 0.5, 0.6], []),
        ("maximize", [0.1], []),
    ],
)
def test_a_poor_trial_does_not_set_the_axis_and_is_named(tmp_path, direction, figures, far):
    reports = [[] if figure is None else [figure] for figure in figures]
    trials = [({"optim.lr": 0.25 * (place % 5)}, reported, False) for place, reported in enumerate(reports)]
    charts = told_search(tmp_path / "far", trials, objectives=(Objective("val/accuracy", direction),))
    for title in ("History of val/accuracy", "val/accuracy by parameter"):
        note, figure = charts[title]
        axis = figure["layout"]["yaxis"]
        if not far:
            assert "range" not in axis
            assert "Beyond the axis" not in note
            continue
        low, high = axis["range"]
        assert [place for place, reported in enumerate(reports) if reported and not low <= reported[0] <= high] == far
        for place in far:
            assert f"{place} ({figures[place]:.4g})" in note


@pytest.mark.browser
def test_the_page_draws_without_a_network(tmp_path):
    options = Options(**(OPTIONS | {"pruning": "median"}))
    with Searcher(tmp_path) as searcher:
        study = SharedStudy(tmp_path, options, SPACE, searcher, fixed={})
        while claim := study.claim():
            RunningTrial.of_run(tmp_path / str(claim.number)).report(1, claim.values["optim.lr"])
            study.complete(claim.number, [claim.values["optim.lr"]])
    command = SimpleNamespace(for_trial=lambda _: "python -m fmx.run '</script><b>'", to_resume="")
    page_file = tmp_path / "search.html"
    page_file.write_text(html_page(summarize(study.study, tmp_path, options, command)), encoding="utf-8")
    with chromium_page() as page:
        page.open(page_file.as_uri())
        assert page.evaluate("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 5")
        assert page.evaluate("document.querySelectorAll('#trials tbody tr').length") == OPTIONS["n_trials"]
        assert page.evaluate("document.querySelector('pre').textContent") == "python -m fmx.run '</script><b>'"
        assert page.console == []
        assert page.requests == [page_file.as_uri()]


def test_without_optuna_it_says_what_to_install(cold_command, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['optuna'] = None\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = cold_command(*RUN, LR, cwd=tmp_path, env={"PYTHONPATH": path})
    assert done.returncode == 2, done.stdout + done.stderr
    assert (
        done.stderr == "hydra/sweeper=search needs Optuna, which is not installed: pip install 'optuna>=5,<6' cmaes\n"
    )


OTHER_COMMAND = """
import sys
from pathlib import Path
from fmx.sweeps.search.heartbeat import Searcher
with Searcher(Path(sys.argv[1])) as other:
    print(other.is_alive(sys.argv[2], Path(sys.argv[3])))
"""


def test_a_command_keeps_its_trials_whatever_happens_to_its_file(tmp_path, monkeypatch, caplog):
    def alive(name: str, run_dir: Path) -> str:
        asked = [sys.executable, "-c", OTHER_COMMAND, tmp_path / "study", name, run_dir]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    def wait_for(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition() and time.monotonic() < end:
            time.sleep(0.01)
        assert condition()

    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    run_dir = tmp_path / "study" / "0"
    with Searcher(tmp_path / "study") as searcher:
        file = tmp_path / "study" / "searchers" / searcher.name
        shutil.rmtree(file.parent)
        wait_for(file.exists)
        assert alive(searcher.name, run_dir) == "True", "the folder was removed"
        with monkeypatch.context() as broken:
            beats = []
            broken.setattr(os, "utime", lambda path: (beats.append(path), full_disk(path)))
            wait_for(lambda: len(beats) > 3)
        (warning,) = caplog.records
        assert "No space left" in warning.message, "told once, and tried again"
        assert "trying again" in warning.message
        os.utime(file, (0, 0))
        wait_for(lambda: file.stat().st_mtime > 0)
    assert alive(searcher.name, run_dir) == "False", "it has ended"
    lock_folder(run_dir)
    assert alive(searcher.name, run_dir) == "True", "but a process of it works on"
    assert alive("another-machine-1-abc", run_dir) == "True", "wherever"
    assert alive("another-machine-1-abc", run_dir.with_name("1")) == "False"


def full_disk(path: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))
