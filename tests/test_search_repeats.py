"""A search whose trials are several runs: with other seeds, or with other folds held out."""

import json
import re
import shlex
import signal
from dataclasses import replace
from math import fsum
from statistics import mean

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import FloatDistribution
from scipy.stats import t as student

from fmx.errors import ConfigError
from fmx.runs.record import write_json
from fmx.sweeps.search.heartbeat import Searcher
from fmx.sweeps.search.options import Objective, Options
from fmx.sweeps.search.recorded import recorded_summary
from fmx.sweeps.search.repeats import interval
from fmx.sweeps.search.space import Space
from fmx.sweeps.search.study import RunningTrial, SharedStudy
from fmx.sweeps.search.study_status import search_status
from fmx.sweeps.search.summary import summarize
from test_search import LR, OPTIONS, RUN, SPACE, records, searched, started, status_of, wait_until  # noqa: F401
from test_sweep import alive, here, wait_for

pytestmark = pytest.mark.usefixtures("no_figures")

REFUSED = {
    "hydra.sweeper.seeds=0": ["hydra.sweeper.seeds must be a whole number from 1 to 1000, got 0"],
    "hydra.sweeper.folds=1": ["hydra.sweeper.folds must be a whole number from 2 to 1000 or null, got 1"],
    "hydra.sweeper.seeds=3 seed=1,2": ["hydra.sweeper.seeds=3", "cannot draw the seed"],
    "hydra.sweeper.folds=3 data.folds=3": [
        "hydra.sweeper.folds=3 sets data.folds and data.fold",
        "leave out data.folds",
    ],
    "hydra.sweeper.folds=3 data.fold=0,1": ["leave out data.fold"],
    "hydra.sweeper.folds=3 data.validation=100": ["data.validation=100", "without effect"],
    "hydra.sweeper.rank=confidence_bound": ["needs several runs per trial", "hydra.sweeper.seeds=3"],
    "hydra.sweeper.seeds=2 hydra.sweeper.from_study=earlier": ["takes over trials of a single run", "leave it out"],
    "hydra.sweeper.folds=3 hydra.sweeper.from_study=earlier": ["takes over trials of a single run", "leave it out"],
    "hydra.sweeper.rank=best": ["there is no rank 'best'", "mean, confidence_bound"],
    "hydra.sweeper.rank=confidence_bound hydra.sweeper.seeds=2 hydra.sweeper.metric=[val/loss,params]": ["names 2"],
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_contradicts_the_runs_of_a_trial_is_refused(command, tmp_path, line):
    done = command(*RUN, LR, *line.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert [part for part in REFUSED[line] if part not in done.stderr] == [], done.stderr
    assert list(tmp_path.iterdir()) == []


def scores(run_dir):
    return json.loads((run_dir / "metrics.json").read_text())["val"]


def assert_means(folder, runs_per_trial):
    """Each completed trial's value is the mean of its runs' own, and each run that it names is there."""
    found = searched(folder)
    for trial in found["history"]:
        first = runs_per_trial * trial["trial"]
        runs = [folder / "search" / name for name in trial["runs"]]
        assert [int(run.name) for run in runs] == [*range(first, first + len(runs))]
        of_runs = [scores(run)["accuracy"] for run in runs]
        assert [each["val/accuracy"] for each in trial["runs"].values()] == of_runs
        if trial["state"] == "completed":
            assert len(runs) == runs_per_trial
            assert trial["values"] == {"val/accuracy": fsum(of_runs) / runs_per_trial}
    return found


def test_killed_and_resumed_no_seed_is_repeated_and_the_best_command_repeats_all(command, started, tmp_path):  # noqa: F811
    arguments = [*RUN, LR, "seed=4", "hydra.sweeper.seeds=2", "hydra.sweeper.n_trials=3", "sweep.keep_checkpoints=1"]
    killed = started(tmp_path, *arguments)
    wait_until(lambda: killed.poll() is not None or status_of(tmp_path, 1) == "running")
    killed.kill()
    killed.wait()
    before = (tmp_path / "search/0/run.json").read_text()

    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "search/0/run.json").read_text() == before
    counted = re.findall(r"^\[(\d)/6\] #", done.stdout, re.MULTILINE)
    assert [int(each) for each in counted] == [*range(7 - len(counted), 7)], done.stdout
    runs = records(tmp_path)
    assert [runs[number]["seed"] for number in range(6)] == [4, 5] * 3
    assert {run["status"] for run in runs.values()} == {"completed"}
    found = assert_means(tmp_path, 2)
    assert found["trials"]["completed"] == 3
    best = found["best"][0]
    assert best["values"]["val/accuracy"] == max(trial["values"]["val/accuracy"] for trial in found["history"])
    assert {int(number) for number in runs if list((tmp_path / f"search/{number}/checkpoints").glob("*.ckpt"))} == {
        *map(int, best["runs"])
    }
    board = pd.read_csv(tmp_path / "search/leaderboard.csv")
    assert len(board) == 3
    assert [*board["n"]] == [2, 2, 2]
    assert max(board["val_accuracy_mean"]) == pytest.approx(best["values"]["val/accuracy"])
    assert f"{best['values']['val/accuracy']:.6g}, the mean of 2 runs (95 % interval" in done.stdout
    assert re.search(r"^trial +val/accuracy +95 % interval +chosen$", done.stdout, re.MULTILINE)
    page = (tmp_path / "search/search.md").read_text()
    assert "| runs |" in page

    assert best["command"].endswith("seed=4,5")
    again = command(*shlex.split(best["command"])[3:], "hydra.sweep.dir=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [scores(tmp_path / f"again/{number}") for number in range(2)] == [
        scores(tmp_path / "search" / name) for name in best["runs"]
    ]
    other = command(*arguments, "hydra.sweeper.seeds=3", cwd=tmp_path)
    assert other.returncode == 2
    assert "hydra.sweeper.seeds was 2 and is 3 now" in other.stderr


def test_folds_of_two_trials_that_a_kill_cuts_short_are_resumed(command, tmp_path):
    """The second fold of each waits after its first epoch: one worker at that of trial 0, the other at that of 1."""
    held = "+callbacks.held={_target_:faults.Held,file:'held-${data.fold}'}"
    search = [*RUN, "hydra.launcher.workers=2", LR, held, "hydra.sweeper.folds=2"]
    search += ["hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=3"]
    (tmp_path / "held-1").touch()
    begun = tmp_path / "search/3/checkpoints/last.ckpt"
    assert command(*search, cwd=tmp_path, env=here(), send=(begun, signal.SIGKILL)).returncode == -signal.SIGKILL
    wait_for(lambda: not alive(tmp_path))
    assert [status_of(tmp_path, number) for number in range(4)] == ["completed", "interrupted"] * 2
    (tmp_path / "held-1").unlink()
    before = {number: (tmp_path / f"search/{number}/run.json").read_text() for number in (0, 2)}

    done = command(*search, cwd=tmp_path, env=here())
    assert done.returncode == 0, done.stdout + done.stderr
    assert before == {number: (tmp_path / f"search/{number}/run.json").read_text() for number in before}
    logs = [(tmp_path / f"search/jobs/{number}.log").read_text() for number in range(6)]
    assert ["resuming after step" in log for log in logs] == [False, True, False, True, False, False]
    found = assert_means(tmp_path, 2)
    assert found["trials"]["completed"] == len(found["history"]) == 3
    assert sorted(records(tmp_path)) == list(range(6))

    whole = command(*search, "hydra.sweep.dir=whole/search", cwd=tmp_path, env=here())
    assert whole.returncode == 0, whole.stdout + whole.stderr
    undisturbed = searched(tmp_path / "whole")["history"]
    assert [told(trial) for trial in found["history"]] == [told(trial) for trial in undisturbed]


def told(trial):
    return trial["params"], trial["values"], trial["reports"]


def test_folds_and_what_pruning_spares(command, tmp_path):
    space = ["optim.lr=tag(log,interval(1e-7,1e-2))", "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=3"]
    prune = [
        "hydra.sweeper.seed=3",
        "hydra.sweeper.folds=3",
        "hydra.sweeper.pruning=median",
        "hydra.sweeper.startup=1",
        "hydra.sweeper.warmup=9",
    ]
    planned = command(*RUN, *space, *prune, "--dry-run", cwd=tmp_path)
    assert "each trial is the mean of 3 runs: data.folds=3 data.fold=0,1,2" in planned.stdout, planned.stderr
    done = command(*RUN, *space, *prune, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = assert_means(tmp_path, 3)
    pruned = [trial for trial in found["history"] if trial["state"] == "pruned"]
    assert pruned
    assert len(records(tmp_path)) == sum(len(trial["runs"]) for trial in found["history"]) < 9
    for trial in pruned:
        assert trial["values"]["val/accuracy"] < found["best"][0]["values"]["val/accuracy"]
        assert f"after {len(trial['runs'])} of 3 runs" in (tmp_path / "search/search.md").read_text()
    assert found["best"][0]["command"].endswith("data.folds=3 data.fold=0,1,2")
    rows = pd.read_csv(tmp_path / "search/leaderboard.csv")
    assert len(rows) == 3
    status = command("search", module="status", cwd=tmp_path)
    assert status.returncode == 0, status.stderr
    title, counts, named = status.stdout.splitlines()
    assert title.endswith("search, 3 of 3 trials begun, 3 runs each")
    assert counts == f"{len(records(tmp_path))} completed"
    assert f"(trial {found['best'][0]['trial']} " in named, "its runs are jobs with other numbers"
    more = command(*RUN, *space, *prune, "hydra.sweeper.rank=confidence_bound", "--dry-run", cwd=tmp_path)
    assert "about 0 bytes of disk" in more.stdout, "all is there"


def run_trials(folder, values, **options):
    """Tell a study what each run of each trial is worth; returns what it had run, by trial and run."""
    options = Options(**(OPTIONS | {"sampler": "random", "n_trials": len(values)} | options))
    ran = []
    with Searcher(folder) as searcher:
        study = SharedStudy(folder, options, SPACE, searcher, fixed={})
        while claim := study.claim():
            ran.append((claim.number, claim.index))
            study.complete(claim.number, [values[claim.number][claim.index]], claim.index)
        assert not study.has_more
        summary = summarize(study.study, folder, options, None)
    return ran, summary


VALUES = [(0.8, 0.7, 0.9), (0.5, 0.9, 0.9), (0.81, 0.8, 0.82), (0.6, 0.9, 0.9), (0.9, 0.2, 0.3), (0.79, 0.9, 0.9)]


@pytest.mark.parametrize(
    ("pruning", "runs"),
    [
        ("none", [3, 3, 3, 3, 3, 3]),
        # After the first trial: not worse than the median of the others' means over as many runs.
        ("median", [3, 1, 3, 1, 2, 1]),
        # After the first run: among the best half of the trials so far; after two, likewise; the third follows.
        ("asha", [3, 1, 3, 1, 2, 1]),
    ],
)
def test_a_poor_trial_gets_no_further_seed(tmp_path, pruning, runs):
    options = {"seeds": 3, "pruning": pruning, "startup": 1, "reduction": 2}
    ran, summary = run_trials(tmp_path, VALUES, **options)
    assert [sum(trial == number for trial, _ in ran) for number in range(6)] == runs
    for trial in summary.trials:
        of_runs = VALUES[trial.number][: runs[trial.number]]
        if len(of_runs) == 3:
            assert trial.value == fsum(of_runs) / 3
        else:
            assert trial.state.name == "PRUNED"
    assert summary.best[0].number == (5 if pruning == "none" else 2)


def test_ranking_by_the_worse_end_of_the_interval(tmp_path):
    losses = [(0.1, 0.3, 0.05), (0.16, 0.15, 0.17)]
    rank = {"rank": "confidence_bound", "objectives": (Objective("val/loss", "minimize"),)}
    ran, summary = run_trials(tmp_path, losses, seeds=3, **rank)
    assert len(ran) == 6
    assert mean(losses[0]) < mean(losses[1])
    assert summary.best[0].number == 1
    for written, number in (("confidence_bound", 1), ("mean", 0), ([1], 0), (None, 0)):
        write_json(tmp_path / "search.json", {"rank": written} if written else {})
        assert recorded_summary(tmp_path).best[0].number == number, "fmx watch names another one"
        assert f"(trial {number} " in search_status(tmp_path).best
    expected = student.interval(0.95, 2, loc=0.16, scale=0.01 / 3**0.5)
    assert summary.interval(summary.best[0]) == pytest.approx(expected)
    folds = Options(**(OPTIONS | {"folds": 2, "seeds": 2} | rank))  # s² (1 / n + 1 / (folds - 1))
    expected = student.interval(0.95, 1, loc=0.86, scale=(0.005 * 1.5) ** 0.5)
    assert interval([0.8, 0.9, 0.82, 0.92], folds) == pytest.approx(expected)
    low, high = interval([0.66, 0.78], Options(**(OPTIONS | {"seeds": 2})))
    assert 0 <= low < 0.72 < high <= 1, "an accuracy"


@pytest.mark.parametrize("seeds", [1, 2])
def test_another_space_is_refused_with_what_takes_the_trials_over(tmp_path, seeds):
    folder = tmp_path / "my folder, ä"
    folder.mkdir()
    options = Options(**(OPTIONS | {"seeds": seeds}))
    with Searcher(folder) as searcher:
        SharedStudy(folder, options, SPACE, searcher, fixed={})
        other = Space((replace(SPACE.parameters[0], distribution=FloatDistribution(0.25, 0.5)), *SPACE.parameters[1:]))
        with pytest.raises(ConfigError, match="is another one") as refused:
            SharedStudy(folder, options, other, searcher, fixed={})
    said, _, line = str(refused.value).partition("take its trials over: ")
    assert bool(line) == (seeds == 1), "it takes over single runs"
    assert str(folder) in said
    if line:
        (word,) = shlex.split(line)
        parsed = OverridesParser.create().parse_override(word)
        assert (parsed.key_or_group, parsed.value()) == ("hydra.sweeper.from_study", str(folder))


def test_all_runs_of_a_trial_that_failed_are_failed(tmp_path):
    with Searcher(tmp_path) as searcher:
        study = SharedStudy(tmp_path, Options(**(OPTIONS | {"seeds": 2})), SPACE, searcher, fixed={})
        for number in range(2):
            study.claim()
            (tmp_path / str(number)).mkdir()
            write_json(tmp_path / f"{number}/run.json", {"status": "failed", "error": f"boom {number}", "format": 1})
        study.fail(0, "run 0: boom 0")
    status = search_status(tmp_path)
    assert status.counts == {"failed": 2}, "an interrupted run would be resumed"
    assert [job.error for job in status.jobs] == ["boom 0", "run 0: boom 0"]


def test_the_runs_of_a_command_that_is_gone_are_continued_once(tmp_path):
    options = Options(**(OPTIONS | {"seeds": 3}))
    with Searcher(tmp_path) as gone:
        study = SharedStudy(tmp_path, options, SPACE, gone, fixed={})
        claims = [study.claim() for _ in range(2)]
        study.complete(0, [0.5], 0)
    with Searcher(tmp_path) as searcher:
        study = SharedStudy(tmp_path, options, SPACE, searcher, fixed={})
        claims = [study.claim() for _ in range(3)]
        assert [(claim.number, claim.index, claim.begun) for claim in claims] == [
            (0, 1, True),
            (0, 2, False),
            (1, 0, False),
        ]
        assert RunningTrial.of_run(tmp_path / "3") is not None
        assert RunningTrial.of_run(tmp_path / "4") is None, "only the first run of a trial is judged by its validations"
        study.fail(0, "the second seed")
        study.complete(0, [0.7], 2)
        assert study.study.trials[0].state.name == "FAIL"
