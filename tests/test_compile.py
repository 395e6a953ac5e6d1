"""trainer.compile: training steps run as compiled code, and nothing else does."""

import copy
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fmx.config.renamed_targets import with_first_names
from fmx.errors import ConfigError, TrainingError
from fmx.runs.composition import compose_config
from fmx.training.build import build_classifier
from fmx.training.callbacks.own_steps import OwnSteps
from fmx.training.compiled_net import CompiledNet, check_compiler

NETS = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        features = [nn.Conv2d(1, 4, 5, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
        self.layers = nn.Sequential(*features, nn.Dropout(), nn.Linear(144, 10))

    def forward(self, x):
        wanted = self.training and len(x) == 64
        if x.device.type != "meta" and torch.compiler.is_compiling() != wanted:
            raise RuntimeError(f"{len(x)} images, training {self.training}")
        return self.layers(x)
"""
RUN = ["data=digits", "augment=none", "logger=none", "model=mlp", "~model.net", "+model.net={_target_: nets.Small}"]
RUN += ["trainer.compile=true", "trainer.max_epochs=30", "trainer.checkpoint_every_s=0.01", "hydra.run.dir=run"]


def test_a_run_stopped_anywhere_comes_to_the_same_as_one_that_was_not(command, tmp_path):
    """Its whole batches are compiled and nothing else is, or its network would raise."""
    (tmp_path / "nets.py").write_text(NETS)
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = command(*RUN, cwd=tmp_path, env=env, send=(tmp_path / "run/checkpoints/previous.ckpt", signal.SIGTERM))
    assert done.returncode == 143, done.stdout + done.stderr
    assert "training steps of 64 images are compiled" in done.stdout
    done = command(*RUN, "resume=run", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step" in done.stdout
    assert "trainer.compile: the first step took" in done.stdout
    done = command("run", "--dir", "again", "--allow", "nets", module="reproduce", cwd=tmp_path, env=env)
    assert (done.returncode, "identical: " in done.stdout) == (0, True), done.stdout + done.stderr
    done = command("run", "--allow", "nets", module="evaluate", cwd=tmp_path, env=env)
    assert (done.returncode, "identical to metrics.json" in done.stdout) == (0, True), done.stdout + done.stderr
    weights = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {name.rpartition(".")[0] for name in weights} == {f"net.layers.{number}" for number in (0, 1, 5)}


def test_what_cannot_compile_is_refused_before_there_is_a_folder(command, tmp_path):
    run = ["data=digits", "model=mlp", "trainer.compile=true", "hydra.run.dir=run"]
    for words, env, said in (
        (run, {"CXX": "nowhere"}, "needs a C++ compiler, and PATH has no nowhere: install one"),
        (["-m", *run[:3], "seed=1,2", "hydra.sweep.dir=run"], {"CXX": "nowhere"}, "PATH has no nowhere"),
        (run, {"TORCHINDUCTOR_CACHE_DIR": __file__}, "test_compile.py, where nothing can be written: name another"),
        ([*run, "trainer.compile=max"], {}, "trainer.compile must be one of true, false, got 'max'"),
    ):
        done = command(*words, cwd=tmp_path, env=env)
        assert done.returncode == 2, done.stdout + done.stderr
        assert said in done.stderr, done.stderr
        assert not (tmp_path / "run").exists()


def test_pythons_headers_are_missed(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(ConfigError, match=r"Python\.h is missing: install them, as in `apt install python3-dev`"):
        check_compiler("cpu")


def test_runs_from_before_it_have_the_same_configuration():
    trainer = {"max_epochs": 1}
    assert with_first_names({"trainer": {**trainer, "compile": False}}) == {"trainer": trainer}
    assert with_first_names({"trainer": {**trainer, "compile": True}}) != {"trainer": trainer}


@pytest.fixture
def compiled_by(monkeypatch):
    """Let torch.compile use this backend, which takes no seconds."""
    compiled = torch.compile

    def use(backend):
        monkeypatch.setattr(torch, "compile", lambda function, **how: compiled(function, backend=backend, **how))

    yield use
    torch.compiler.reset()


def test_only_steps_are_compiled_and_the_network_stays_as_it_is(compiled_by):
    graphs = []
    compiled_by(lambda graph, _: graphs.append(graph) or graph.forward)
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    before, images = list(net.state_dict()), torch.ones(4, 3)
    compiled = CompiledNet(net, batch_size=4)
    for _ in range(9):  # with 5, 6, … images, more than torch makes variants of
        for each in (images, images[:3]):
            with compiled.step(each), compiled.step(each):
                net(each)
            assert "forward" not in vars(net)
        net(images)
    assert len(graphs) == 1
    assert list(net.state_dict()) == before
    assert copy.deepcopy(net)(images).equal(net(images))


def test_a_network_that_torch_cannot_compile_is_named(compiled_by):
    def broken(*_):
        raise ValueError("no such thing")

    compiled_by(broken)
    net = nn.Linear(3, 2)
    message = r"cannot compile Linear \(ValueError: no such thing\); leave out trainer.compile"
    with pytest.raises(TrainingError, match=message), CompiledNet(net, batch_size=1).step(torch.ones(1, 3)):
        net(torch.ones(1, 3))
    assert "forward" not in vars(net)


def test_steps_of_ones_own_are_compiled_too(compiled_by):
    compiled_by("eager")
    classifier = build_classifier(compose_config(["data=digits", "model=mlp"]))
    classifier.compiled = CompiledNet(classifier.net, batch_size=2)
    trainer, batch = SimpleNamespace(lr_scheduler_configs=[]), (torch.ones(2, 1, 28, 28), torch.zeros(2))
    for number, leave in enumerate(("on_train_batch_end", "on_exception")):
        steps = OwnSteps()
        steps._has_checked = True
        steps.on_train_batch_start(trainer, classifier, batch, number)
        assert "forward" in vars(classifier.net)
        getattr(steps, leave)(trainer, classifier, *((None, batch, number) if number == 0 else (ValueError(),)))
        assert "forward" not in vars(classifier.net)
