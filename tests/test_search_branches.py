"""Branches of a search: what is sought with one choice alone, in which words, and that no trial has another's keys."""

import json
import re
import shlex
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig
from optuna.distributions import CategoricalDistribution, FloatDistribution

from fmx.config.conf_dir import CONF_DIR
from fmx.config.hydra_errors import translate
from fmx.errors import ConfigError, DataError
from fmx.runs.composition import register_resolvers
from fmx.sweeps.search.conditions import conditions
from fmx.sweeps.search.distributions import read_space, split
from fmx.sweeps.search.heartbeat import Searcher
from fmx.sweeps.search.html_page import html_page
from fmx.sweeps.search.options import Objective, Options
from fmx.sweeps.search.partial_keys import naming_partial_keys
from fmx.sweeps.search.samplers import check_sampler
from fmx.sweeps.search.search import Composition
from fmx.sweeps.search.space import Parameter, Space
from fmx.sweeps.search.study import SharedStudy
from fmx.sweeps.search.summary import summarize

RUN = ["-m", "hydra/sweeper=search", "hydra.sweep.dir=search", "data=digits", "augment=none", "logger=none"]
RUN += ["trainer=smoke", "hydra.launcher.workers=1", "hydra.launcher.threads=1"]
BRANCHES = ["model=mlp,lenet", "optim=adam,sgd", "optim.momentum=tag(sgd,interval(0.5,0.99))"]
BRANCHES += ["model.net.hidden_sizes=tag(mlp,choice([16],[16,16]))", "optim.lr=tag(adam,log,interval(1e-4,1e-2))"]
BRANCHES += ["optim.lr=tag(sgd,log,interval(1e-2,1))"]
KEYS = {
    ("mlp", "adam"): {"model", "optim", "optim.lr", "model.net.hidden_sizes"},
    ("mlp", "sgd"): {"model", "optim", "optim.lr", "model.net.hidden_sizes", "optim.momentum"},
    ("lenet", "adam"): {"model", "optim", "optim.lr"},
    ("lenet", "sgd"): {"model", "optim", "optim.lr", "optim.momentum"},
}


def test_no_trial_has_a_key_of_another_branch_and_the_best_command_repeats_it(command, tmp_path):
    search = [*RUN, *BRANCHES, "hydra.sweeper.n_trials=3", "hydra.sweeper.startup=2"]
    killed = command(*search, cwd=tmp_path, send=(tmp_path / "search/1/run.json", signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL
    done = command(*search, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in 4 of 4 branches" in done.stdout
    assert "optim.momentum" in (tmp_path / "search/search.html").read_text().partition("<script")[0]
    found = json.loads((tmp_path / "search/search.json").read_text())
    table = (tmp_path / "search/search.md").read_text().splitlines()
    heads = next(line for line in table if line.startswith("| trial")).strip("| ").split(" | ")
    assert heads.count("optim.lr") == 1
    for trial in found["history"]:
        drawn = trial["params"]
        assert drawn.keys() == KEYS[drawn["model"], drawn["optim"]]
        low, high = (1e-2, 1) if drawn["optim"] == "sgd" else (1e-4, 1e-2)
        assert low <= drawn["optim.lr"] <= high
        made = json.loads((tmp_path / f"search/{trial['trial']}/run.json").read_text())["overrides"]
        assert {each.partition("=")[0] for each in made} & {*KEYS["mlp", "sgd"]} == drawn.keys()
        (row,) = (line for line in table if line.startswith(f"| {trial['trial']} |"))
        cells = dict(zip(heads, row.removeprefix("| ").removesuffix(" |").split(" | "), strict=True))
        assert {key for key in KEYS["mlp", "sgd"] if cells[key].strip()} == drawn.keys()
    best = found["best"][0]
    again = command(*shlex.split(best["command"])[3:], "hydra.run.dir=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again/metrics.json").read_text() == (Path(best["run_dir"]) / "metrics.json").read_text()

    # The same tags with the keys written out are the same search, which goes on.
    same = [text.replace("tag(sgd,", "tag(optim:sgd,") for text in search]
    more = command(*same, "hydra.sweeper.n_trials=4", cwd=tmp_path)
    assert more.returncode == 0, more.stdout + more.stderr
    history = json.loads((tmp_path / "search/search.json").read_text())["history"]
    assert history[:3] == found["history"]
    assert len(history) == 4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """Hydra's loader with an own optimizer, and the configuration before any override."""
    folder = tmp_path_factory.mktemp("my")
    (folder / "optim").mkdir()
    (folder / "optim/mine.yaml").write_text("defaults: [sgd]\ndampening: 0.0\nnesterov: false\n")
    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().hydra.config_loader
        own = ["hydra/sweeper=search", f"hydra.searchpath=['file://{folder}']"]
        yield loader, loader.load_configuration("config", own, RunMode.MULTIRUN)


def read(loaded, *arguments: str, params: Mapping[str, Any], sampler: str = "tpe", check: bool = False) -> Space:
    """The space that a command and an experiment file give, read and checked like `fmx.run` does it."""
    loader, config = loaded
    context = SimpleNamespace(config_loader=loader)
    constant, swept = split(params, arguments, loader)
    fixed = {each.key_or_group: str(each.input_line) for each in constant}
    composed = Composition(context, config, list(fixed.values()))
    sought = conditions(swept, fixed, composed.members)
    with naming_partial_keys(sought, fixed, Composition(context, config, []).config):
        space = read_space(sought, composed.config)
        check_sampler(sampler, space)
        for corner in space.corners() if check else []:
            composed.config(space.overrides(corner))
    return space


FILE = {
    "optim": ["adam", "sgd"],
    "optim.momentum": {"sgd": "interval(0,1)"},
    "optim.lr": {"adam": "tag(log,interval(1e-4,1e-2))", "sgd": [0.1, 0.2]},
    "optim.nesterov": {"optim:sgd": False},
}
READ = {
    # A member's own type makes the interval one of floats, though the default member has no such key.
    "optim=adam,sgd optim.momentum=tag(sgd,interval(0,1))": {
        "optim.momentum": "tag(optim:sgd,interval(0,1)) FloatDistribution"
    },
    "optim=sgd,rmsprop optim.momentum=interval(0,1)": {"optim.momentum": "interval(0,1) FloatDistribution"},
    # own members; tags of one key are alternatives
    "optim=adam,sgd,mine optim.dampening=tag(mine,interval(0,1)) optim.momentum=tag(mine,sgd,choice(0.9))": {
        "optim.dampening": "tag(optim:mine,interval(0,1)) FloatDistribution",
        "optim.momentum": "tag(optim:mine,optim:sgd,choice(0.9)) CategoricalDistribution",
    },
    # a branch in a branch
    "data=digits,mnist model=tag(digits,choice(mlp,lenet)) model.net.hidden_sizes=tag(mlp,choice([16],[32]))": {
        "model": "tag(data:digits,choice(mlp,lenet)) CategoricalDistribution",
        "model.net.hidden_sizes": "tag(model:mlp,choice([16],[32])) CategoricalDistribution",
    },
    # a member of a list, a value, a name that two groups have
    "callbacks=[default],[default,early_stopping] callbacks.early_stopping.patience=tag(early_stopping,range(2,6))": {
        "callbacks.early_stopping.patience": 'tag("callbacks:[default,early_stopping]",interval(2,5)) IntDistribution'
    },
    "data.image_size=28,8 seed=tag(data.image_size:8,choice(1,2))": {
        "seed": "tag(data.image_size:8,choice(1,2)) CategoricalDistribution"
    },
    "augment=none,flip logger=none,csv data.batch_size=tag(augment:none,interval(8,16))": {
        "data.batch_size": "tag(augment:none,interval(8,16)) IntDistribution"
    },
    # what a fixed value decides
    "optim=sgd optim.momentum=tag(sgd,interval(0.5,1))": {"optim.momentum": "interval(0.5,1) FloatDistribution"},
    "optim=adam augment=none,flip optim.momentum=tag(sgd,interval(0.5,1))": {},
    # an experiment file, and a command line that replaces a part of it
    "FILE": {
        "optim.momentum": "tag(optim:sgd,interval(0,1)) FloatDistribution",
        "optim.lr (optim:adam)": "tag(optim:adam,log,interval(0.0001,0.01)) FloatDistribution",
        "optim.lr (optim:sgd)": "tag(optim:sgd,choice(0.1,0.2)) CategoricalDistribution",
        "optim.nesterov": "tag(optim:sgd,choice(False)) CategoricalDistribution",
    },
    "FILE optim=adam": {"optim.lr": "tag(log,interval(0.0001,0.01)) FloatDistribution"},
    "FILE optim.lr=tag(sgd,interval(0.1,0.3))": {
        "optim.momentum": "tag(optim:sgd,interval(0,1)) FloatDistribution",
        "optim.lr": "tag(optim:sgd,interval(0.1,0.3)) FloatDistribution",
        "optim.nesterov": "tag(optim:sgd,choice(False)) CategoricalDistribution",
    },
    "FILE optim.lr=0.1": {
        "optim.momentum": "tag(optim:sgd,interval(0,1)) FloatDistribution",
        "optim.nesterov": "tag(optim:sgd,choice(False)) CategoricalDistribution",
    },
}


@pytest.mark.parametrize("line", READ)
def test_what_tags_say(loaded, line):
    words = line.split()
    space = read(loaded, *(word for word in words if word != "FILE"), params=FILE if "FILE" in words else {})
    found = {key: f"{text} {type(space.distributions[key]).__name__}" for key, text in space.description().items()}
    unconditional = {"optim", "data", "callbacks", "data.image_size", "augment", "logger"}
    assert {key: text for key, text in found.items() if key not in unconditional} == READ[line]


REFUSED = {
    "optim.momentum=interval(0.5,0.9)": [
        "of optim=adam,sgd only sgd has this key; write 'optim.momentum=tag(optim:sgd,interval(0.5,0.9))'"
    ],
    "optim.momentum=0.5,0.9": ["write 'optim.momentum=tag(optim:sgd,choice(0.5,0.9))'"],
    "optim.momentum=tag(mlp,log,interval(0.5,0.9))": ["'optim.momentum=tag(optim:sgd,mlp,log,interval(0.5,0.9))'"],
    "optim.momentum=tag(sdg,interval(0.5,0.9))": ["no tag 'sdg'; did you mean 'sgd'?", "log, model:mlp", "optim:sgd"],
    "optim.momentum=tag(optim:sdg,interval(0.5,0.9))": ["optim has no choice 'sdg'", "did you mean 'sgd'?"],
    "optim.momentum=tag(loss:nll,interval(0.5,0.9))": ["loss has no choices here: add loss=nll,OTHER"],
    "optim.momentum=tag(log,tag(sgd,interval(0.5,0.9)))": ["write all tags in one"],
    "optim.momentum=tag(sgd,0.9)": ["tag() takes names, CHOICE or KEY:CHOICE, and at its end choice(A,B)"],
    "optim.momentum=tag(optim=sgd,choice(0.9))": ["CHOICE or KEY:CHOICE"],
    "logger=none,csv augment=none,flip seed=tag(none,choice(1,2))": ["write logger:none or augment:none"],
    "optim.lr=interval(0.1,0.2) optim.lr=tag(sgd,interval(0.3,1))": [
        "optim.lr has two distributions where",
        "optim=sgd",
    ],
    "optim.lr=0.1 optim.lr=tag(sgd,interval(0.3,1))": ["holds in every trial", "'optim.lr=tag(CHOICE,choice(0.1))'"],
    "model=tag(adam,choice(mlp,lenet)) optim=tag(mlp,choice(adam,sgd))": ["model and optim wait for each other"],
    "optim=tag(sgd,choice(adam,sgd))": ["optim waits for itself"],
    "seed=interval(1,4) optim.momentum=tag(seed:1,choice(0.9))": ["seed is drawn from numbers", "seed=choice(1,OTHER)"],
    "loss=tag(sgd,choice(nll,cross_entropy)) seed=tag(nll,adam,choice(1))": ["seed=", "is never sought"],
    "CMAES optim.momentum=tag(sgd,interval(0.5,0.9))": ["cmaes", "is sought with optim:sgd alone", "sampler=tpe"],
    "GRID optim.momentum=tag(sgd,interval(0.5,0.9))": ["grid cannot count the values of optim.momentum"],
}


@pytest.mark.parametrize("line", REFUSED)
def test_wrong_tags_are_refused_with_what_to_type(loaded, line):
    words = line.split()
    sampler = next((word.lower() for word in words if word in {"CMAES", "GRID"}), "tpe")
    typed = ["model=mlp,lenet", "optim=adam,sgd", *(word for word in words if word.lower() != sampler)]
    with pytest.raises(Exception) as refused:  # noqa: PT011 - Hydra's own errors too, which a command translates
        read(loaded, *typed, params={}, sampler=sampler, check=True)
    error = translate(refused.value)
    assert isinstance(error, ConfigError)
    assert [part for part in REFUSED[line] if part not in str(error)] == [], error


@pytest.mark.parametrize(
    "value", [{}, [], {"interval": [0.1, 0.5]}, {"sgd": {"a": 1}}, {"sgd": "interval(0.1"}, "loguniform(1,2)"], ids=str
)
def test_what_is_no_distribution_in_a_file_is_named_with_what_to_write(loaded, value):
    with pytest.raises(ConfigError) as refused:
        read(loaded, params={"optim": ["adam", "sgd"], "optim.lr": value})
    assert str(refused.value).startswith(f"hydra.sweeper.params: cannot read optim.lr: {value!r}. Write a list")


def test_a_fixed_value_that_one_choice_has_and_tags_in_a_plain_sweep_are_refused(command, tmp_path):
    for search, typed, part in (
        (RUN, "optim.momentum=0.9", "'optim.momentum=tag(CHOICE,choice(0.9))'"),
        (["-m"], "optim.momentum=tag(sgd,choice(0.9))", "no tags (sgd): add hydra/sweeper=search"),
    ):
        done = command(*search, "optim=adam,sgd", typed, cwd=tmp_path)
        assert done.returncode == 2
        assert part in done.stderr
    assert list(tmp_path.iterdir()) == []


OPTIONS = {
    "objectives": (Objective("val/accuracy", "maximize"),),
    "sampler": "tpe",
    "pruning": "none",
    "n_trials": 12,
    "timeout_s": None,
    "seed": 1,
    "startup": 4,
    "warmup": 1,
    "reduction": 2,
}
MLP, SGD = {"model": ("mlp",)}, {"optim": ("sgd",)}
SPACE = Space(
    (
        Parameter("model", CategoricalDistribution(["mlp", "lenet"])),
        Parameter("optim", CategoricalDistribution(["adam", "sgd"])),
        Parameter("optim.lr", FloatDistribution(0.0, 1.0, step=0.25)),
        Parameter("optim.momentum", FloatDistribution(0.0, 1.0, step=0.5), SGD),
        Parameter("net.dropout", CategoricalDistribution(["0", "1"]), MLP),
        Parameter("net.both", CategoricalDistribution(["0", "1"]), MLP | SGD),
    )
)


def draw(folder: Path, count: int, value_of=lambda values: values["optim.lr"], **options) -> list[dict]:
    folder.mkdir(exist_ok=True)
    drawn = []
    with Searcher(folder) as searcher:
        study = SharedStudy(folder, Options(**(OPTIONS | options)), SPACE, searcher, fixed={})
        while len(drawn) < count and (claim := study.claim()):
            drawn.append(dict(claim.values))
            study.complete(claim.number, [value_of(claim.values)] * len(study.study.directions))
    return drawn


def keys_of(values: Mapping[str, Any]) -> set[str]:
    own = {"optim.momentum": values["optim"] == "sgd", "net.dropout": values["model"] == "mlp"}
    own["net.both"] = all(own.values())
    return {"model", "optim", "optim.lr", *(key for key, is_sought in own.items() if is_sought)}


TWO_METRICS = {"objectives": (Objective("val/accuracy", "maximize"), Objective("params", "minimize"))}


@pytest.mark.parametrize("options", [{}, {"sampler": "random"}, {"sampler": "grid"}, TWO_METRICS])
def test_every_sampler_draws_a_branch_of_its_own_and_goes_on_with_what_it_would_have_drawn(tmp_path, options):
    whole = draw(tmp_path / "whole", 99, **options)
    parts = [*draw(tmp_path / "parts", 5, **options), *draw(tmp_path / "parts", 99, **options)]
    assert parts == whole
    assert [values.keys() == keys_of(values) for values in whole] == [True] * OPTIONS["n_trials"]


def test_a_grid_has_the_points_of_each_branch_once(tmp_path):
    drawn = draw(tmp_path, 999, sampler="grid", n_trials=None)
    assert len({tuple(sorted(values.items())) for values in drawn}) == len(drawn) == SPACE.num_points
    assert len(drawn) == 5 * (1 + 3 + 2 + 3 * 2 * 2)  # lenet with adam and sgd, mlp with adam and sgd


def test_a_journal_with_a_key_of_another_branch_is_refused(tmp_path):
    draw(tmp_path, 4)
    journal = tmp_path / "study.journal"
    text = journal.read_text()
    with Searcher(tmp_path) as searcher:
        study = SharedStudy(tmp_path, Options(**OPTIONS), SPACE, searcher, fixed={}).study
        study.enqueue_trial({"model": "lenet", "optim": "adam", "optim.lr": 0.5})
        strange = study.ask()
        for each in SPACE.parameters[:3]:
            strange._suggest(each.key, each.distribution)
        strange.suggest_categorical("net.dropout", ["0", "1"])
        with pytest.raises(DataError, match=r"net\.dropout=.*cannot have drawn"):
            SharedStudy(tmp_path, Options(**OPTIONS), SPACE, searcher, fixed={})
        journal.write_text(text)
        study = SharedStudy(tmp_path, Options(**OPTIONS), SPACE, searcher, fixed={}).study
        lacking = study.ask()
        lacking.suggest_categorical("model", ["mlp", "lenet"])
        study.tell(lacking, 0.5)
        with pytest.raises(DataError, match=r"optim=None.*cannot have drawn"):
            SharedStudy(tmp_path, Options(**OPTIONS), SPACE, searcher, fixed={})


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_page_counts_what_one_branch_has(tmp_path, direction):
    """The momentum of sgd decides; a page that left it out would call the model important."""
    sign = 1 if direction == "maximize" else -1
    options = {"objectives": (Objective("val/accuracy", direction),), "n_trials": 40, "sampler": "random"}
    draw(tmp_path, 40, lambda values: sign * (values.get("optim.momentum", 0) + values["optim.lr"] / 100), **options)
    with Searcher(tmp_path) as searcher:
        made = Options(**(OPTIONS | options))
        study = SharedStudy(tmp_path, made, SPACE, searcher, fixed={}).study
    page = html_page(summarize(study, tmp_path, made, SimpleNamespace(for_trial=lambda _: "", to_resume="")))
    charts = json.loads(page.partition('id="charts">')[2].partition("</script>")[0])
    figures = {title: charts[place] for title, place in re.findall(r"<h2>([^<]*)</h2>.*?chart-(\d+)", page, re.DOTALL)}
    (shares,) = figures["Importance for val/accuracy"]["data"]
    assert {*shares["y"]} == {each.name for each in SPACE.parameters}
    assert shares["y"][-1] == "optim.momentum"  # the longest bar
    axes = figures["Parallel coordinates"]["layout"]
    place = axes["xaxis"]["ticktext"].index("optim.momentum")
    assert "None" in [each["text"] for each in axes["annotations"] if each["x"] == place]
    assert len(figures["Parallel coordinates"]["data"]) > OPTIONS["n_trials"]  # no line is left out
    assert "None: not sought in that trial" in page
