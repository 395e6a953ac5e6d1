"""Groups of an optimizer's parameters: who is in which, at which rate under every schedule, and that runs go on."""

import re
import signal
from functools import partial
from itertools import chain

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim import SGD, AdamW, Muon
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)
from torchvision import models

from fmx.errors import ConfigError
from fmx.models.layers import layers, named_parameters
from fmx.runs.composition import compose_config
from fmx.training.build import meta_network
from fmx.training.muon import MuonAdamW
from fmx.training.parameter_groups import ParameterGroups
from fmx.training.schedule import Schedule
from same_runs import assert_same, points

pytestmark = pytest.mark.usefixtures("no_figures")

STEPS, EPOCHS, PEAK = 40, 4, 0.1
RUN = ["data=digits", "model=lenet", "augment=none", "trainer.precision=32-true"]
SPLIT = "optim.groups={head:{params:[head.3,head.5],lr_factor:2},first:{params:features.0,weight_decay:0.3}}"


def network(*overrides):
    return meta_network(OmegaConf.to_container(compose_config(overrides).model.net, resolve=True))


def divided(net, factory=None, *, groups=None, no_decay=None, layer_decay=None):
    division = ParameterGroups(groups=groups, no_decay=no_decay, layer_decay=layer_decay)
    return division.make(factory or partial(SGD, lr=PEAK), nn.ModuleDict({"net": net}), {})


def rate_of(optimizer, parameter):
    (rate,) = [g["lr"] for g in optimizer.param_groups if any(each is parameter for each in g["params"])]
    return rate


BLOCKS = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1"]


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        ("mlp", ["head.0", "head.2", "head.4"]),
        ("lenet", ["features.0", "features.3", "head.1", "head.3", "head.5"]),
        ("resnet20", ["features.0", *(f"features.{number}" for number in range(3, 12)), "head"]),
        ("pretrained", ["conv1", *BLOCKS, "fc"]),
        ("timm", ["conv1", *BLOCKS, "fc"]),
    ],
)
def test_layers_are_blocks_in_order_and_hold_each_parameter_once(net, expected):
    if net == "timm":
        pytest.importorskip("timm")
    made = network(f"model={net}", "data=digits", *(["model.net.resize=32"] if net in ("pretrained", "timm") else []))
    found = layers(made)
    assert list(found) == expected
    assert sorted(chain.from_iterable(found.values())) == sorted(named_parameters(made))


def test_layers_of_transformers_and_of_own_networks():
    with torch.device("meta"):
        found = layers(models.vit_b_16())
        assert len(found) == 14
        assert {"class_token", "conv_proj.weight"} <= {*found["conv_proj"]}
        assert "encoder.ln.weight" in found["encoder.layers.encoder_layer_11"]
        assert "encoder.pos_embedding" in found["encoder.layers.encoder_layer_0"]
        stages = [name.rpartition(".")[0] for name in layers(models.convnext_tiny())]
        assert stages[1:4] == ["features.1"] * 3

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = models.resnet18(num_classes=8)
            self.norm = nn.LayerNorm(8)
            self.out = nn.Linear(8, 2)

    found = layers(Own())
    assert list(found) == [f"body.{name}" for name in ["conv1", *BLOCKS, "fc"]] + ["out"]
    assert found["body.fc"] == ["body.fc.weight", "body.fc.bias", "norm.weight", "norm.bias"]


def test_each_layer_has_its_share_of_the_rate_and_vectors_do_not_decay():
    net = network("model=pretrained", "data=digits", "model.net.resize=32")
    groups = {"stem": {"params": ["conv1", "bn?"], "lr_factor": 3}}
    optimizer = divided(
        net, partial(AdamW, lr=1.0, weight_decay=0.2), groups=groups, no_decay="norm_and_bias", layer_decay=0.5
    )
    assert optimizer.param_groups[0]["lr"] == 1
    parameters = named_parameters(net)
    for depth, names in enumerate(layers(net).values()):
        for name in names:
            factor = 3 if name.startswith(("conv1", "bn1")) else 1
            assert rate_of(optimizer, parameters[name]) == factor * 0.5 ** (9 - depth), name
    for group in optimizer.param_groups:
        for each in group["params"]:
            assert group["weight_decay"] == (0 if each.dim() == 1 else 0.2)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(parameters)


def test_without_groups_the_optimizer_is_called_as_ever():
    given = []
    net = nn.Linear(2, 2)
    divided(net, lambda parameters: given.append(parameters) or SGD(parameters, lr=1))
    assert given == [[*net.parameters()]]


SCHEDULES = {
    "constant": (None, "epoch"),
    "onecycle": (partial(OneCycleLR, max_lr=PEAK, total_steps=None, cycle_momentum=True), "step"),
    "cosine": (partial(CosineAnnealingLR, T_max=None, eta_min=0.04), "step"),
    "step": (partial(StepLR, step_size=1, gamma=0.5), "epoch"),
    "plateau": (partial(ReduceLROnPlateau, factor=0.1, patience=0, min_lr=0.002), "epoch"),
    "cyclic": (partial(CyclicLR, base_lr=0.01, max_lr=PEAK, step_size_up=7), "step"),
    "lambda": (partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)), "step"),
    "restarts": (partial(CosineAnnealingWarmRestarts, T_0=9), "step"),
    "own": (lambda optimizer: ExponentialLR(optimizer, 0.9), "step"),
}


def rates_of_all(optimizer, schedule):
    """The rate of each group at each step."""
    entries = schedule(optimizer, steps_per_epoch=STEPS // EPOCHS, epochs=EPOCHS, total_steps=STEPS)
    used = []
    for step in range(1, STEPS + 1):
        used.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        for entry in entries:
            if entry["interval"] == "step" or step % (STEPS // EPOCHS) == 0:
                entry["scheduler"].step(*([1.0] if "monitor" in entry else []))
    return used


WITH_WARMUP = ["constant", "cosine", "step", "plateau", "own"]


@pytest.mark.parametrize(("name", "warmup"), [*((n, 0) for n in SCHEDULES), *((n, 5) for n in WITH_WARMUP)])
def test_every_schedule_keeps_the_ratios(name, warmup):
    kind, interval = SCHEDULES[name]
    schedule = Schedule(scheduler=kind, interval=interval, warmup_epochs=0, warmup_steps=warmup)
    make = partial(SGD, lr=PEAK, momentum=0.9)
    alone = rates_of_all(make([nn.Parameter(torch.zeros(1))]), schedule)
    groups = {"head": {"params": "1", "lr_factor": 10}, "low": {"params": "0.bias", "lr": 0.01}}
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = divided(net, make, groups=groups)
    used = rates_of_all(optimizer, schedule)
    assert [rates[0] for rates in used] == [rate for (rate,) in alone], "the first group's rate is as without groups"
    factors = {each["name"]: each["lr_factor"] for each in optimizer.param_groups}
    assert factors == {"base": 1, "head": pytest.approx(10), "low": pytest.approx(0.1)}
    for rates in used:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            assert rate == pytest.approx(rates[0] * group["lr_factor"])
    assert len({group["momentum"] for group in optimizer.param_groups}) == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_group_that_is_added_later_follows_too(name):
    kind, interval = SCHEDULES[name]
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)
    schedule = Schedule(scheduler=kind, interval=interval, warmup_epochs=0, warmup_steps=0)
    entries = schedule(optimizer, steps_per_epoch=STEPS // EPOCHS, epochs=EPOCHS, total_steps=STEPS)
    for step in range(STEPS - 1):
        if step == 10:
            rate = optimizer.param_groups[0]["lr"]
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": rate / 4})
        optimizer.step()
        for entry in entries:
            entry["scheduler"].step(*([1.0] if "monitor" in entry else []))
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert second == pytest.approx(first / 4)


def test_groups_of_an_own_optimizer_and_lists_of_an_own_schedule_are_as_they_were_given():
    def own():
        first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        return SGD([{"params": [first], "lr": PEAK / 10}, {"params": [second]}], lr=PEAK)

    schedule = partial(Schedule, interval="step", warmup_epochs=0, warmup_steps=0)
    highest = [
        max(each) for each in zip(*rates_of_all(own(), schedule(scheduler=SCHEDULES["onecycle"][0])), strict=True)
    ]
    assert highest == [pytest.approx(PEAK / 10), pytest.approx(PEAK)]
    lists = partial(OneCycleLR, max_lr=[0.3, 0.2], total_steps=None, cycle_momentum=False)
    highest = [max(each) for each in zip(*rates_of_all(own(), schedule(scheduler=lists)), strict=True)]
    assert highest == [pytest.approx(0.3), pytest.approx(0.2)]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": {"params": "haed.*", "lr_factor": 2}}, r"optim.groups.a.params: no .*'haed.\*'; did you mean 'head'\?"),
        ({"a": {"params": ["head", "^features"], "lr_factor": 2}}, r"named '\^features'; did you mean 'features'"),
        (
            {"a": {"params": "head", "lr_factor": 2}, "b": {"params": "*.1.weight", "lr": 2}},
            r"head.1.weight is in a and in b",
        ),
        ({"a": {"params": "head", "momentun": 0.3}}, "no option 'momentun'; did you mean 'momentum'"),
        ({"a": {"params": "head", "momentum": -3}}, "optim.groups.a: Invalid momentum"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, said):
    with pytest.raises(ConfigError, match=said):
        divided(network("model=lenet", "data=digits"), groups=groups)


def test_groups_that_cannot_be_are_refused_before_there_is_a_folder(command, tmp_path):
    cases = {
        "optim.groups={head:{params:head}}": "optim.groups.head would be without effect",
        "optim.groups={head:{lr_factor:2}}": "optim.groups.head.params must be a pattern",
        "optim.groups={head:{params:head,lr:1,lr_factor:2}}": "both lr and lr_factor",
        "optim.groups={head:{params:head,lr_factor:0}}": "optim.groups.head.lr_factor must be a number greater than 0",
        "optim.groups={head:{params:[],lr_factor:1}}": "optim.groups.head.params must be a pattern",
        "optim.groups={head:{params:tail,lr_factor:3}}": "no parameter and no layer is named 'tail'",
        "optim.layer_decay=1.5": "optim.layer_decay must be null, or a number greater than 0 and at most 1",
        "optim.no_decay=true": "optim.no_decay must be null or norm_and_bias",
    }
    for value, said in cases.items():
        done = command(*RUN, value, "hydra.run.dir=run", cwd=tmp_path)
        assert done.returncode == 2, done.stdout + done.stderr
        assert said in done.stderr, done.stderr
        assert not (tmp_path / "run").exists()
    frozen = ["model=pretrained", "model.net.resize=32", "model.net.freeze=true"]
    done = command(*RUN, *frozen, "optim.groups={b:{params:layer4,lr_factor:2}}", "hydra.run.dir=run", cwd=tmp_path)
    assert (done.returncode, "all of its parameters are frozen" in done.stderr) == (2, True), done.stderr
    flat = ["optim={_target_: torch.optim.LBFGS, _partial_: true, lr: 0.1, layer_decay: 0.5}"]
    done = command(*RUN, "~optim", *(f"+{each}" for each in flat), "hydra.run.dir=run", cwd=tmp_path)
    assert (done.returncode, "LBFGS doesn't support per-parameter options" in done.stderr) == (2, True), done.stderr


MONITOR = "+callbacks.lightnings={_target_:pytorch_lightning.callbacks.LearningRateMonitor,logging_interval:epoch}"
MEMBERS = {
    "adamw": ["optim.layer_decay=0.7", "optim.no_decay=norm_and_bias", SPLIT, "callbacks=[default,ema]", MONITOR],
    "muon": ["optim=muon", "optim.groups={last:{params:head.5,muon:false,lr_factor:0.5}}", "schedule=cosine"],
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_run_with_groups_goes_on_to_the_bit_and_is_reproduced(command, tmp_path, name):
    parts = [*RUN, *MEMBERS[name], "trainer.max_epochs=3", "trainer.log_every_n_steps=5"]
    whole = command(*parts, "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "learning rates: " in whole.stdout
    marker = tmp_path / "stopped/checkpoints/last.ckpt"
    stopped = command(*parts, "hydra.run.dir=stopped", cwd=tmp_path, send=(marker, signal.SIGTERM))
    assert stopped.returncode == 143, stopped.stdout + stopped.stderr
    resumed = command("resume=stopped", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    again = command("whole", "--dir", "again", module="reproduce", cwd=tmp_path)
    assert (again.returncode, "identical: " in again.stdout) == (0, True), again.stdout + again.stderr
    assert "identical to metrics.json" in command("whole", module="evaluate", cwd=tmp_path).stdout

    curves = points(tmp_path / "whole")
    state = torch.load(tmp_path / "whole/checkpoints/last.ckpt", weights_only=True)
    groups = state["optimizer_states"][0]["param_groups"]
    assert groups[0]["lr_factor"] == 1
    if name == "muon":
        rates = {name: [value for _, value in curves[f"lr/{name}"]] for name in ("base", "last")}
        assert rates["last"] == pytest.approx([rate / 2 for rate in rates["base"]], rel=1e-5)
        kinds = [set(each) for each in state["optimizer_states"][0]["state"].values()]
        assert kinds.count({"momentum_buffer"}) == 4
        assert kinds.count({"step", "exp_avg", "exp_avg_sq"}) == 6
    else:
        names = [group["name"] for group in groups]
        assert len(set(names)) == len(names), "Lightning's LearningRateMonitor wants them unique"
        assert {each.removesuffix("/no_decay") for each in names} == {
            "base", "first/features.0", "features.3", "head.1", "head/head.3", "head/head.5"
        }  # fmt: skip
        highest = {name: max(value for _, value in curves[f"lr/{name}"]) for name in ("head.1", "head/head.5")}
        assert highest["head/head.5"] == pytest.approx(2 * highest["head.1"] / 0.7**2, rel=1e-5)
        assert pd.read_csv(tmp_path / "whole/history.csv")["lr"].max() < 0.002, "that of the optimizer itself"


def test_values_of_groups_are_swept_and_searched(command, tmp_path):
    sweep = [
        "optim.groups={head:{params:head,lr_factor:1}}",
        "optim.groups.head.lr_factor=2,4",
        "optim.layer_decay=0.5",
    ]
    done = command("-m", *RUN, "trainer=smoke", *sweep, "--dry-run", cwd=tmp_path)
    assert (done.returncode, "#1 optim.groups.head.lr_factor=4" in done.stdout) == (0, True), done.stdout + done.stderr
    search = ["hydra/sweeper=search", "hydra.sweeper.n_trials=2", "optim.layer_decay=interval(0.5,1.0)", *sweep[:1]]
    search += ["optim.groups.head.lr_factor=tag(log,interval(1.0,100.0))", "--dry-run"]
    done = command("-m", *RUN, "trainer=smoke", *search, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"trial 0: optim.layer_decay=0\.\d+ optim.groups.head.lr_factor=\d", done.stdout), done.stdout


def muon(parameters, **options):
    given = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "ns_steps": 5}
    given |= {"adjust_lr_fn": "match_rms_adamw", "betas": [0.9, 0.999], "eps": 1e-8, "muon": True}
    return MuonAdamW(parameters, **given | options)


def test_muon_and_adamw_are_torchs_own_to_the_bit():
    shapes = [(5, 7), (9, 4), (6,), (1, 1, 8)]
    ours = [nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1))) for shape in shapes]
    theirs = [nn.Parameter(each.detach().clone()) for each in ours]
    both = muon([{"params": ours[:1]}, {"params": ours[1:], "lr": 0.03}])
    own = {"weight_decay": 0.1, "eps": 1e-8, "adjust_lr_fn": "match_rms_adamw"}
    matrices = Muon([{"params": theirs[:1]}, {"params": theirs[1:2], "lr": 0.03}], lr=0.01, **own)
    vectors = AdamW(theirs[2:], lr=0.03, weight_decay=0.1)
    for step in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(step))
            other.grad = one.grad.clone()
        for optimizer in (both, matrices, vectors):
            optimizer.step()
        if step == 1:  # a state that is saved and loaded changes nothing
            state = both.state_dict()
            both = muon([{"params": ours[:1]}, {"params": ours[1:]}])
            both.load_state_dict(state)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    with pytest.raises(ValueError, match="Invalid beta"):
        muon(ours, betas=[2, 0.9])


def test_muon_takes_convolutions_in_both_memory_formats():
    made = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(1)))
        weight.data = weight.data.to(memory_format=layout)
        optimizer = muon([weight], weight_decay=0.0, lr=1.0, adjust_lr_fn="original", nesterov=False)
        weight.grad = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(2)).to(memory_format=layout)
        before = weight.detach().clone()
        optimizer.step()
        made.append((before - weight).flatten(1).detach())
    torch.testing.assert_close(*made, atol=0.02, rtol=0.02)  # bf16 sums in another order
    sizes = torch.linalg.svdvals(made[0])
    assert sizes.min() > 0.5, sizes
    assert sizes.max() < 1.5, sizes
