"""hydra.sweeper.from_study: a search takes over the trials of an earlier one that fit, and runs none of them again."""

import hashlib
import json
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from fmx.errors import DataError
from fmx.sweeps.search.heartbeat import Searcher
from fmx.sweeps.search.options import Objective, Options
from fmx.sweeps.search.space import Parameter, Space
from fmx.sweeps.search.study import RunningTrial, SharedStudy, is_own

RUN = ["-m", "hydra/sweeper=search", "data=digits", "augment=none", "logger=none", "trainer=smoke", "optim=adam"]
RUN += ["hydra.launcher.workers=1", "hydra.launcher.threads=1", "hydra.sweeper.sampler=grid"]
RUN += ["hydra.sweeper.n_trials=null", "hydra.sweep.dir=new", "hydra.sweeper.from_study=old"]
OLD = ["hydra.sweep.dir=old", "hydra.sweeper.from_study=null", "model=mlp,lenet", "optim.weight_decay=0.0,0.1"]
OLD += ["optim=choice(adam)"]  # a group, of which a key is drawn too
NEW = [
    "model=mlp,avgpool",
    "optim.weight_decay=0.1",
    "seed=range(1,2)",
]  # other choices, a key fixed, one more


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(each): (hashlib.sha256(each.read_bytes()).hexdigest(), each.stat().st_mtime_ns) for each in files}


@pytest.fixture(scope="module")
def earlier(command, tmp_path_factory) -> Path:
    """The directory with an earlier search of four trials."""
    folder = tmp_path_factory.mktemp("earlier")
    done = command(*RUN, *OLD, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def searched(folder: Path) -> dict:
    return json.loads((folder / "new/search.json").read_text())


def test_what_fits_is_taken_over_once_and_the_rest_is_run(command, earlier):
    before = contents(earlier / "old")
    planned = command(*RUN, *NEW, "--dry-run", cwd=earlier)
    assert planned.returncode == 0, planned.stderr
    assert not (earlier / "new").exists()
    done = command(*RUN, *NEW, cwd=earlier)
    assert done.returncode == 0, done.stdout + done.stderr
    for told in (planned.stdout, done.stdout):
        assert "1 of 4 trials of" in told
        assert "2 do not fit: model is not in choice(mlp,avgpool)" in told
        assert "1 does not fit: optim.weight_decay was drawn there, and has another value here" in told
    assert "trial 1: model=avgpool" in planned.stdout
    assert "1 trials by grid" in planned.stdout
    found = searched(earlier)
    assert (found["trials"]["begun"], found["trials"]["completed"], found["taken_over"]) == (1, 1, 1)
    assert [path.name for path in sorted((earlier / "new").glob("[0-9]*"))] == ["1"]
    taken, own = found["history"]
    assert taken["params"] == {"model": "mlp", "seed": 1}
    assert taken["values"] == {
        "val/accuracy": json.loads((Path(taken["from"]) / "metrics.json").read_text())["val"]["accuracy"]
    }
    assert own["params"] == {"model": "avgpool", "seed": 1}
    for name in ("search.md", "search.html"):
        assert f"taken over from {taken['from']}" in (earlier / "new" / name).read_text()

    # The best one is found wherever it is, and its command gives its figures.
    (best,) = found["best"]
    is_taken = taken["values"]["val/accuracy"] >= own["values"]["val/accuracy"]
    assert best["run_dir"] == (taken["from"] if is_taken else str(earlier / "new/1"))
    again = command(*shlex.split(found["best"][0]["command"])[3:], "hydra.run.dir=again", cwd=earlier)
    assert again.returncode == 0, again.stderr
    assert (earlier / "again/metrics.json").read_text() == (Path(best["run_dir"]) / "metrics.json").read_text()
    status = command("new", cwd=earlier, module="status")
    assert status.returncode == 0, status.stderr

    # It goes on without another look at the earlier search, whose directory it has only read, and after kill -9 too.
    again = [*RUN, *NEW, "hydra.sweep.dir=killed"]
    killed = command(*again, cwd=earlier, send=(earlier / "killed/1/run.json", signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL
    assert contents(earlier / "old") == before
    (earlier / "old").rename(earlier / "moved")
    resumed, after_kill = command(*RUN, *NEW, cwd=earlier), command(*again, cwd=earlier)
    (earlier / "moved").rename(earlier / "old")
    for each in (resumed, after_kill):
        assert each.returncode == 0, each.stdout + each.stderr
    assert searched(earlier)["history"] == found["history"]
    outcomes = [
        [{key: trial.get(key) for key in ("params", "values", "from")} for trial in history]
        for history in (found["history"], json.loads((earlier / "killed/search.json").read_text())["history"])
    ]
    assert outcomes[0] == outcomes[1]


REFUSED = {
    "hydra.sweeper.metric=val/loss": ["hydra.sweeper.metric was", "val/accuracy", "and is", "val/loss"],
    "hydra.sweeper.direction=minimize": ["hydra.sweeper.direction was", "maximize", "minimize"],
    "trainer.max_epochs=2": ["trainer.max_epochs was 1 and is 2"],
    "seed=2": ["seed was 1 and is 2"],
    "hydra.sweeper.from_study=nowhere": ["nowhere is not the directory of a search"],
    "hydra.sweeper.from_study=other": ["is this search itself"],
    "hydra.sweeper.from_study=3": ["must be the directory of a search, or a list, got 3"],
}


@pytest.mark.parametrize("typed", REFUSED)
def test_values_that_do_not_compare_are_refused_by_name(command, earlier, typed):
    seedless = [each for each in NEW if not each.startswith("seed")]
    done = command(*RUN, *seedless, "hydra.sweep.dir=other", typed, "--dry-run", cwd=earlier)
    assert done.returncode == 2, done.stdout + done.stderr
    assert [part for part in REFUSED[typed] if part not in done.stderr] == [], done.stderr


def test_an_earlier_search_of_several_seeds_is_refused(command, earlier, tmp_path):
    shutil.copytree(earlier / "old", tmp_path / "old")
    journal = tmp_path / "old/study.journal"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    settings = next(line["user_attr"]["search"] for line in lines if "search" in line.get("user_attr", {}))
    settings["seeds"] = 3
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    done = command(*RUN, *NEW[:2], cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "hydra.sweeper.seeds was 3 and is 1 here. Leave hydra.sweeper.from_study out" in done.stderr


def test_the_earlier_directory_is_data(command, earlier, tmp_path):
    shutil.copytree(earlier / "old", tmp_path / "old")
    for path in (tmp_path / "old").glob("*/.hydra/resolved.yaml"):
        path.write_text(path.read_text().replace("fmx.training.losses.CrossEntropy", f"os.mkdir.{tmp_path.name}"))
    done = command(*RUN, *NEW, cwd=tmp_path)
    assert done.returncode == 2
    assert "loss._target_ was os.mkdir" in done.stderr
    with (tmp_path / "old/study.journal").open("ab") as journal:
        journal.truncate(2**28)
    done = command(*RUN, *NEW, cwd=tmp_path)
    assert done.returncode == 1
    assert "is larger than" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


OPTIONS = {
    "objectives": (Objective("val/accuracy", "maximize"),),
    "sampler": "tpe",
    "pruning": "median",
    "n_trials": 4,
    "timeout_s": None,
    "seed": 1,
    "startup": 2,
    "warmup": 1,
    "reduction": 2,
}
RATE = Parameter("optim.lr", FloatDistribution(0.0, 1.0))
MODEL = Parameter("model", CategoricalDistribution(["mlp", "lenet"]))
DROPOUT = Parameter("model.dropout", CategoricalDistribution(["0", "1"]), {"model": ("mlp",)})


def taken(space: Space, points: list[dict], path: str = "/old") -> dict[Path, list[FrozenTrial]]:
    trials = [
        create_trial(
            params=point,
            distributions={key: space.distributions[key] for key in point},
            values=[0.9],
            intermediate_values={1: 0.9},
            user_attrs={"from": {"study": path, "trial": number}},
        )
        for number, point in enumerate(points)
    ]
    trials[-1] = create_trial(
        state=TrialState.PRUNED,
        params=trials[-1].params,
        distributions=trials[-1].distributions,
        intermediate_values={1: 0.1},
        user_attrs=trials[-1].user_attrs,
    )
    return {Path(path): trials}


def test_two_commands_take_over_once_and_a_killed_one_is_continued(tmp_path):
    space = Space((RATE,))
    points = [{"optim.lr": value / 8} for value in range(5)]
    earlier = taken(space, points)
    options = Options(**OPTIONS)
    with Searcher(tmp_path) as searcher:
        first = SharedStudy(tmp_path, options, space, searcher, fixed={})
        first.study.add_trials(earlier[Path("/old")][:2])  # and was killed
        both = [SharedStudy(tmp_path, options, space, searcher, fixed={}, earlier=earlier) for _ in range(2)]
        assert [trial.params for trial in both[1].study.trials] == points
        numbers = []
        while claim := both[len(numbers) % 2].claim():
            numbers.append(claim.number)
            stop = RunningTrial.of_run(tmp_path / str(claim.number)).report(1, 0.1)
            assert stop, "the trials that were taken over are those that the pruner compares with"
            both[0].prune(claim.number)
        assert numbers == [5, 6, 7, 8], "n_trials counts its own"
        assert both[0].num_begun == both[0].num_trials == 4


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
@pytest.mark.parametrize("parameters", [(MODEL,), (MODEL, DROPOUT)])
def test_what_was_taken_over_is_not_run_again(tmp_path, sampler, parameters):
    space = Space(parameters)
    points = space.points[:-1]
    options = Options(**(OPTIONS | {"sampler": sampler, "n_trials": 3 if sampler == "grid" else 1}))
    with Searcher(tmp_path) as searcher:
        study = SharedStudy(tmp_path, options, space, searcher, fixed={}, earlier=taken(space, points))
        claims = []
        while claim := study.claim():
            claims.append(claim)
            study.complete(claim.number, [0.5])
    assert [claim.values for claim in claims] == [space.points[-1]]
    for trial in study.study.trials:
        if trial.number not in {claim.number for claim in claims}:
            assert not is_own(trial)
            expected = "PRUNED" if trial.params == points[-1] else "COMPLETE"
            assert trial.state.name == expected


def test_cmaes_starts_from_what_was_taken_over(tmp_path):
    space = Space((RATE, Parameter("loss.smoothing", FloatDistribution(0.0, 1.0))))
    points = [{"optim.lr": 0.9 + value / 1000, "loss.smoothing": 0.9 - value / 1000} for value in range(12)]
    options = Options(**(OPTIONS | {"sampler": "cmaes", "n_trials": 6, "startup": 1}))
    with Searcher(tmp_path) as searcher:
        study = SharedStudy(tmp_path, options, space, searcher, fixed={}, earlier=taken(space, points))
        drawn = []
        while claim := study.claim():
            drawn.append(claim.values["optim.lr"])
            study.complete(claim.number, [0.5])
    assert len(drawn) == 6
    assert min(drawn[1:]) > 0.7


def test_an_impossible_origin_is_refused(tmp_path):
    space = Space((RATE,))
    earlier = taken(space, [{"optim.lr": 0.5}, {"optim.lr": 0.6}])
    earlier[Path("/old")][0].user_attrs["from"] = {"study": ["x"], "trial": 0}
    with Searcher(tmp_path) as searcher:
        SharedStudy(tmp_path, Options(**OPTIONS), space, searcher, fixed={}, earlier=earlier)
        with pytest.raises(DataError, match="impossible outcome"):
            SharedStudy(tmp_path, Options(**OPTIONS), space, searcher, fixed={})
