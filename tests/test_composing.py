"""Jobs of a sweep are composed from copies: each must be exactly what Hydra composes by itself."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmx.config.conf_dir import CONF_DIR
from fmx.config.passed import Passed
from fmx.runs.composition import register_resolvers
from fmx.sweeps.composer import Composer

JOBS = [
    ["data=digits", "model=lenet", "optim=sgd", "optim.lr=0.1", "seed=3"],
    ["data=digits", "model=lenet", "optim=sgd", "optim.lr=0.2", "seed=4"],
    ["data=fashion_mnist", "optim={lr: 1.0}", "seed=1"],
    ["optim.lr='${seed}'", "++model.name=other"],
    ["seed=5", "model=mlp", "model.net.hidden_sizes=[8,16]", "model.net.hidden_sizes=[4]"],
    ["+vars.text='$HOME \"x\"'", "callbacks=[default,ema]", "callbacks.ema.decay=0.9"],
    ["~augment", "+vars.list=[1,{a: b}]", "data=digits"],
    ["trainer=smoke", "experiment=fast"],
]
REFUSED = [
    ["~callbacks.tensorboard"],
    ["optim.lrr=1"],
    ["model=lenett"],
    ["seed=1,2"],
    ["trainer.max_epochs=[1"],
    ["+seed=1"],
]


@pytest.fixture
def loader():
    register_resolvers()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield GlobalHydra.instance().hydra.config_loader


def outcome(compose, overrides):
    """What a job is composed to, key by key in its order, or how it is refused."""
    try:
        return str(OmegaConf.to_container(compose(list(overrides)), resolve=False))
    except (HydraException, OmegaConfBaseException) as error:
        return repr(error)


def test_a_job_from_a_copy_equals_what_hydra_composes(loader, monkeypatch):
    master = loader.load_configuration("config", ["data=digits", "hydra.sweep.dir=here"], RunMode.MULTIRUN)
    by_hydra = {tuple(job): outcome(lambda each: loader.load_sweep_config(master, each), job) for job in JOBS + REFUSED}
    assert len({*by_hydra.values()}) == len(by_hydra)
    composed = []
    alone = type(loader).load_sweep_config
    monkeypatch.setattr(type(loader), "load_sweep_config", lambda *given: composed.append(given[2]) or alone(*given))
    composer = Composer(loader, master)
    for job in [*JOBS, *reversed(JOBS)]:
        assert outcome(composer.compose, job) == by_hydra[tuple(job)]
    assert len(composed) == len(JOBS) - 1, "the first two jobs have the same members"
    for job in REFUSED:
        assert outcome(composer.compose, job) == by_hydra[tuple(job)]
    monkeypatch.setenv("FMX_COMPAT", "off")
    monkeypatch.setattr("fmx.compat._notes", {})  # else the next run of this process would say that it was off
    slow = Composer(loader, master)
    composed.clear()
    assert [outcome(slow.compose, job) for job in JOBS] == [by_hydra[tuple(job)] for job in JOBS]
    assert len(composed) == len(JOBS)


def test_a_check_is_repeated_for_other_values_and_after_a_refusal():
    passed, runs = Passed(), []

    def check(result):
        runs.append(result)
        if result is None:
            raise ValueError("refused")
        return result

    assert passed.once("net", {"a": [1, None]}, lambda: check(1)) == 1
    assert passed.once("net", {"a": [1, None]}, lambda: check(2)) == 1
    assert passed.once("net", {"a": [1, 0]}, lambda: check(3)) == 3
    assert passed.once("loss", {"a": [1, 0]}, lambda: check(4)) == 4
    for _ in range(2):
        with pytest.raises(ValueError, match="refused"):
            passed.once("net", "refused", lambda: check(None))
    assert runs == [1, 3, 4, None, None]
