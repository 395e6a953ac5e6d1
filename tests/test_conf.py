"""Every YAML under conf/ is composed, its values are checked and its targets' signatures are bound."""

import inspect
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import data_files
from fmx.config.conf_dir import CONF_DIR
from fmx.config.rules import check_values
from fmx.config.targets import check_targets
from fmx.runs.composition import register_resolvers

register_resolvers()

DESIGN = {
    "data": "fashion_mnist mnist kmnist fashion_mnist_csv image_folder torchvision npz parquet csv digits",
    "model": "mlp lenet two_conv three_conv avgpool dilated dropout_cnn resnet20 pretrained timm",
    "optim": "adam adamw sgd rmsprop muon",
    "schedule": "constant step cosine onecycle plateau",
    "augment": "none flip crop_flip erasing affine randaugment trivial color mixup cutmix mixup_cutmix",
    "loss": "cross_entropy nll",
    "trainer": "default cpu gpu ddp smoke",
    "metrics": "default",
    "callbacks": "default",
    "logger": "default",
    "experiment": "three_conv_adam dilated_adam avgpool_adam lenet_mnist dropout_cnn_adam mlp_sgd",
}
MEMBERS = sorted(
    (path.parent.relative_to(CONF_DIR).as_posix(), path.stem)
    for path in CONF_DIR.rglob("*.yaml")
    if path.parent != CONF_DIR and not path.stem.startswith("_") and "hydra" not in path.parts
)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def test_the_names_of_the_design_are_there():
    assert len(MEMBERS) >= sum(len(names.split()) for names in DESIGN.values())
    for group, names in DESIGN.items():
        assert set(names.split()) <= {name for g, name in MEMBERS if g == group}


def test_help_lists_every_member(command, tmp_path):
    mine = tmp_path / "my/model/tiny.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("name: tiny\n")
    shown = command("--help", "--config-dir", "my", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    lines = dict(line.split(": ", 1) for line in shown.stdout.splitlines() if re.match(r"\w+: \w", line))
    for group, name in [*MEMBERS, ("model", "tiny")]:
        assert name in lines[group].split(", "), (group, name)
    assert not re.search(r"[ ,]_\w", shown.stdout), "what others start from is no member"


def test_version_is_the_packages(command, tmp_path):
    shown = command("--version", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, f"fmx {version('fmx')}\n")


@pytest.mark.parametrize(("group", "name"), MEMBERS, ids=str)
def test_member_composes_and_its_targets_take_its_keys(group: str, name: str, tmp_path: Path, monkeypatch):
    for part in ("train", "test"):
        (tmp_path / part / "one").mkdir(parents=True)
        (tmp_path / part / "two").mkdir()
    monkeypatch.setenv("FMX_DATA_ROOT", str(tmp_path))
    if (group, name) == ("trainer", "gpu"):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    needed = data_files.NAMED.get(name, []) if group == "data" else []
    if needed:
        data_files.make_named(tmp_path)
    value = f"[default,{name}]" if group == "callbacks" and name != "default" else name
    config: Any = OmegaConf.to_container(composed(f"{group}={value}", *needed), resolve=True)
    check_values(config)
    check_targets(config)


def test_every_yaml_says_what_it_is():
    files = list(CONF_DIR.rglob("*.yaml"))
    assert len(files) > 40
    for path in files:
        assert path.read_text(encoding="utf-8").startswith("#"), path


def test_every_experiment_states_its_command():
    experiments = list((CONF_DIR / "experiment").glob("*.yaml"))
    assert len(experiments) >= 6
    for path in experiments:
        assert f"# python -m fmx.run experiment={path.stem}" in path.read_text(encoding="utf-8"), path


def test_constructors_have_no_defaults_of_their_own():
    from fmx.data import augment
    from fmx.data.module import ImageDataModule
    from fmx.training import losses, schedule

    targets = [
        value
        for module in (augment, losses, schedule)
        for name, value in vars(module).items()
        if name in module.__all__ and inspect.isclass(value)
    ]
    assert len(targets) >= 6
    for target in [*targets, ImageDataModule]:
        for parameter in inspect.signature(target).parameters.values():
            assert parameter.default is parameter.empty, f"{target.__name__}.{parameter.name}"


@pytest.mark.parametrize("data", ["mnist", "kmnist", "digits"])
def test_characters_are_not_mirrored_unless_that_is_asked_for(data):
    assert composed(f"data={data}").augment == composed("augment=none").augment
    for said in (f"data={data} augment=flip", f"augment=flip data={data}", "data=fashion_mnist"):
        assert composed(*said.split()).augment == composed("augment=flip").augment
