"""Networks whose output holds the logits among other things: trained, scored, used and exported."""

import numpy as np
import pytest
from torchvision.models.googlenet import GoogLeNetOutputs

import fmx
from fmx.errors import ConfigError
from fmx.models.logits import logits_of

CODE = """
from collections import OrderedDict

from torch import nn
from torchvision.models.googlenet import GoogLeNetOutputs


class ModelOutput(OrderedDict):  # as transformers has it
    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Wrapped(nn.Module):
    def __init__(self, num_classes, form):
        super().__init__()
        self.form = form
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU())
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        features = self.fc(x)
        logits = self.head(features)
        if self.form == "object":
            return ModelOutput(loss=None, logits=logits, hidden_states=features)
        if self.form == "dictionary":
            return {"logits": logits}
        if self.form == "named":  # as torchvision's, in training alone
            return GoogLeNetOutputs(logits, features, features) if self.training else logits
        return logits, features
"""
SHORT = ["data=digits", "augment=none", "trainer=smoke", "logger=none"]


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "forms.py").write_text(CODE)
    (tmp_path / "my/model").mkdir(parents=True)
    text = "name: {0}\nnet: {{_target_: forms.Wrapped, num_classes: '${{data.num_classes}}', form: {0}}}\n"
    for form in ("object", "dictionary", "named", "pair"):
        (tmp_path / f"my/model/{form}.yaml").write_text(text.format(form))
    return tmp_path


@pytest.mark.parametrize("form", ["object", "dictionary", "named"])
def test_a_network_that_returns_more_than_its_logits(command, desk, form, monkeypatch):
    env = {"PYTHONPATH": str(desk)}
    words = ["--config-dir", "my", f"model={form}", *SHORT, "hydra.run.dir=run"]
    done = command(*words, cwd=desk, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    unused = {"object": "loss, hidden_states", "named": "aux_logits2, aux_logits1", "dictionary": None}[form]
    assert ("its logits are used" in done.stdout) == (unused is not None)
    assert unused is None or done.stdout.count(f"{unused} not") == 1
    scored = command("run", "--allow", "forms", module="evaluate", cwd=desk, env=env)
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert "identical to metrics.json" in scored.stdout
    if form != "object":
        return
    for normalise in ("inside", "outside"):
        words = ["run", "--allow", "forms", "--format", "torchscript", "--normalise", normalise, "--out", normalise]
        exported = command(*words, module="export", cwd=desk, env=env)
        assert exported.returncode == 0, exported.stdout + exported.stderr
    monkeypatch.syspath_prepend(desk)
    run, images = fmx.open_run(desk / "run", allow="forms"), np.zeros((3, 28, 28), np.uint8)
    assert run.load_model()(images[:, None]).shape == (3, 10)
    assert run.predict(images).probabilities.shape == (3, 10)


def test_a_network_without_logits_is_refused_before_data_is_loaded(command, desk):
    words = ["--config-dir", "my", "model=pair", *SHORT, "hydra.run.dir=run"]
    done = command(*words, cwd=desk, env={"PYTHONPATH": str(desk)})
    assert done.returncode == 2
    assert "model.net returns a tuple of 2, in which fmx finds no logits: return the tensor of logits" in done.stderr
    assert not (desk / "run").exists()


@pytest.mark.parametrize("output", [None, {}, {"scores": 1}, [1, 2], GoogLeNetOutputs(None, 1, 2)])
def test_what_holds_no_logits_is_named(output):
    with pytest.raises(ConfigError, match=f"model.net returns a {type(output).__name__}"):
        logits_of(output)
