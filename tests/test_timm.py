"""`model=timm`: any network of timm by name, from the first error to the last verb."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from fmx.config.image_size import height_and_width
from fmx.errors import DataError
from fmx.models.timm_net import TimmNet
from fmx.runs.run_dir import open_run
from fmx.runs.trusted_config import trusted_config
from fmx.training.restore import restore_classifier

timm = pytest.importorskip("timm")
safetensors = pytest.importorskip("safetensors.torch")

VIT = ["model=timm", "model.net.architecture=vit_tiny_patch16_224"]
# A transformer of 2 layers.
SMALL = [*VIT, "+model.net.options={patch_size: 7, depth: 2, embed_dim: 48, drop_path_rate: 0.1, drop_rate: 0.1}"]


def made(architecture, *, in_channels=1, num_classes=10, image_size=28, **changes):
    node = {"weights": None, "freeze": False, "resize": None, "options": {}} | changes
    return TimmNet(
        architecture=architecture, in_channels=in_channels, num_classes=num_classes, image_size=image_size, **node
    )


def succeeds(command, *arguments, **options):
    done = command(*arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("resnet18", {"image_size": [32, 48]}),
        ("vit_tiny_patch16_224", {"image_size": [28, 56], "options": {"patch_size": 7, "depth": 1}}),
        ("mobilenetv3_small_050", {"resize": 32}),
        ("vit_tiny_patch16_224", {"options": {"patch_size": 7, "depth": 1, "pos_drop_rate": 0.2}}),
        ("deit_tiny_distilled_patch16_224", {"resize": 32, "options": {"depth": 1}}),  # it has two last layers
        ("swin_tiny_patch4_window7_224", {"options": {"depths": [1, 1, 1, 1]}}),
        ("mixer_s32_224", {"resize": 64, "freeze": True}),
    ],
)
def test_any_network_fits_the_data(architecture, changes):
    torch.manual_seed(0)
    model = made(architecture, in_channels=2, num_classes=7, **changes)
    logits = model.eval()(torch.randn(3, 2, *height_and_width(changes.get("image_size", 28))))
    assert logits.shape == (3, 7)
    nn.functional.cross_entropy(logits, torch.arange(3)).backward()
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in trained.values())
    last = {f"net.{name}.{kind}" for name in model.last for kind in ("weight", "bias")}
    assert last <= trained.keys()
    assert (trained.keys() == last) == model.freeze


@pytest.mark.parametrize(
    ("architecture", "changes", "said"),
    [
        ("resnt18", {}, "timm has no architecture 'resnt18'; nearest: resnet18"),
        ("resnet18.a1_in1k", {}, "architecture=resnet18, and model.net.weights=a1_in1k"),
        ("hf-hub:timm/resnet18", {}, "timm has no architecture 'hf-hub:timm/resnet18'"),
        ("local-dir:/tmp", {}, "timm has no architecture"),
        ("vit_tiny_patch16_224", {}, (r"patches of 16 pixels, of which 28 is no multiple; use model.net.resize=224, or "
                                     r"\+model.net.options.patch_size=4")),
        ("convnext_atto", {}, "cannot take images of 28 pixels .*; use model.net.resize=32$"),
        ("twins_pcpvt_small", {}, "cannot take images of 28 pixels .*; use model.net.resize=224$"),
        ("deepseek_vit_412m_enc", {}, "classifies nothing"),
        ("resnet18", {"options": {"drop_rat": 0.1}}, "takes no option 'drop_rat'"),
        ("resnet18", {"options": {"drop_rate": "much"}}, "drop_rate=much .*could not convert string"),
        ("resnet18", {"options": {"checkpoint_path": "x"}}, "checkpoint_path is not taken: use model.net.weights=FILE"),
        ("resnet18", {"options": {"pretrained": True}}, "options.pretrained is not taken: use model.net.weights"),
        ("resnet18", {"options": {"pretrained_cfg": {"file": "x"}}}, "options.pretrained_cfg is not taken"),
        ("resnet18", {"options": {"pretrained_cfg_overlay": {"url": "x"}}}, "pretrained_cfg_overlay is not taken"),
        ("resnet18", {"options": {"cache_dir": "x"}}, "options.cache_dir is not taken"),
        ("resnet18", {"options": {"num_classes": 3}}, "use data.num_classes"),
        ("resnet18", {"options": {"features_only": True}}, "a number for each class"),
        ("resnet18", {"weights": "nowhere.pth"}, "'nowhere.pth' is neither a file nor a tag .*use DEFAULT, a1_in1k, "),
        ("coatnet_0_224", {"weights": "DEFAULT"}, "timm has no weights for 'coatnet_0_224'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_a_way_out(architecture, changes, said):
    with pytest.raises(ValueError, match=said), torch.device("meta"):  # as the dry run makes it
        made(architecture, **changes)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # importing it raises ModuleNotFoundError
    with pytest.raises(ValueError, match=r"^model=timm needs the package timm: pip install timm$"):
        made("resnet18")


def test_weights_of_a_file_and_of_timm(tmp_path, monkeypatch):
    stock = timm.create_model("resnet10t", num_classes=5)
    file = tmp_path / "w.safetensors"
    safetensors.save_file(stock.state_dict(), file)
    model = made("resnet10t", num_classes=5, weights=str(file), freeze=True)
    expected = "from 3 to 1 channels; last layer kept with its 5 classes; all but the last layer frozen"
    assert model.origin.endswith(expected)
    assert model.weights_file == file
    assert torch.equal(model.net.fc.weight, stock.fc.weight)
    assert torch.allclose(model.net.conv1[0].weight, stock.conv1[0].weight.sum(1, keepdim=True))
    with torch.device("meta"), pytest.raises(DataError, match="do not fit 'resnet18': it lacks"):
        made("resnet18", weights=str(file))

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    fetched = []

    def download(url, place, **_):
        fetched.append(url)
        with torch.device("cpu"):
            safetensors.save_file(timm.create_model("resnet10t").state_dict(), place)

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with torch.device("meta"), pytest.raises(DataError, match=r"no network\); save https://.* as .*, or use .*=FILE"):
        made("resnet10t", weights="DEFAULT")
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for device in ("meta", "cpu"):
        with torch.device(device):
            model = made("resnet10t", weights="DEFAULT")
    assert fetched == ["https://huggingface.co/timm/resnet10t.c3_in1k/resolve/main/model.safetensors"]
    there = safetensors.load_file(model.weights_file)
    assert torch.equal(model.net.layer1[0].conv1.weight, there["layer1.0.conv1.weight"])
    assert model.net.fc.weight.shape == (10, 512)


@pytest.fixture(scope="module")
def run(command, tmp_path_factory) -> Path:
    """A transformer of timm that was trained for an epoch on the digits."""
    folder = tmp_path_factory.mktemp("timm")
    said = succeeds(
        command, "data=digits", *SMALL, "trainer.max_epochs=1", "logger=none", "augment=none",
        "data.batch_size=256", "hydra.run.dir=run", cwd=folder,
    )  # fmt: skip
    assert "vit_tiny_patch16_224 starts from random weights: model.net.weights=DEFAULT takes timm's" in said
    record = json.loads((folder / "run/run.json").read_text())
    net = open_run(folder / "run").config.model.net
    assert record["params"] == sum(p.numel() for p in made(net.architecture, options=net.options).parameters())
    return folder / "run"


def test_every_verb_works(command, run, tmp_path):
    assert "identical" in succeeds(command, str(run), module="evaluate", cwd=tmp_path)
    picture = next((run / "figures").glob("*.png"))
    succeeds(command, str(run), str(picture), module="predict", cwd=tmp_path)
    for kind in ("state_dict", "torchscript", "pt2", "onnx"):
        said = succeeds(command, str(run), "--format", kind, "--out", f"net.{kind}", module="export", cwd=tmp_path)
        assert (tmp_path / f"net.{kind}").exists(), said
    said = succeeds(command, str(run), "--dir", "again", module="reproduce", cwd=tmp_path)
    assert "the same to the bit" in said
    weights = run / "checkpoints/best.ckpt"
    said = succeeds(
        command, "data=digits", *SMALL, "trainer=smoke", "model.net.freeze=true", f"model.net.weights={weights}",
        "hydra.run.dir=tuned", cwd=tmp_path,
    )  # fmt: skip
    assert "last layer kept with its 10 classes; all but the last layer frozen" in said


def test_an_interrupted_run_is_resumed(command, tmp_path):
    sent = (tmp_path / "cut/checkpoints/previous.ckpt", signal.SIGTERM)
    done = command(
        "data=digits", *SMALL, "trainer.max_epochs=6", "logger=none", "hydra.run.dir=cut", cwd=tmp_path, send=sent
    )
    assert done.returncode == 143, done.stdout + done.stderr
    assert "resuming after step" in succeeds(command, "resume=cut", cwd=tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {"checkpoint_path": "evil.pth"}}, "checkpoint_path is not taken"),
        ({"options": {"pretrained": True}}, "options.pretrained is not taken"),
        ({"options": {"pretrained_cfg": {"file": "evil.pth"}}}, "options.pretrained_cfg is not taken"),
        ({"architecture": "hf-hub:evil/net"}, "timm has no architecture"),
        ({"architecture": "local-dir:."}, "timm has no architecture"),
        ({"options": {"patch_size": 7, "embed_dim": 3_000_000}}, "would take more memory|does not fit this model"),
        ({"options": {"norm_layer": {"_target_": "os.system", "_args_": ["true"]}}}, "are trusted"),
        ({"_target_": "timm.create_model"}, "--allow timm"),
        ({"_target_": "timm.models.load_checkpoint"}, "--allow timm"),
    ],
)
def test_a_run_from_elsewhere_reads_no_file_and_is_bounded(run, tmp_path, changes, said):
    foreign = tmp_path / "foreign"
    for name in ("run.json", ".hydra/resolved.yaml", ".hydra/hydra.yaml", "checkpoints/best.ckpt"):
        (foreign / name).parent.mkdir(parents=True, exist_ok=True)
        (foreign / name).write_bytes((run / name).read_bytes())
    config = OmegaConf.load(foreign / ".hydra/resolved.yaml")
    net = OmegaConf.to_container(config.model.net)
    config.model.net = {**net, **changes}
    OmegaConf.save(config, foreign / ".hydra/resolved.yaml")
    with pytest.raises(DataError, match=said):
        restore_classifier(trusted_config(open_run(foreign)), foreign / "checkpoints/best.ckpt")
