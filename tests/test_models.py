"""Every network under conf/model: shapes, gradients, sizes, learning; and the weights of `pretrained`."""

import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torchvision import models as torchvision_models

from fmx.errors import DataError
from fmx.models.dropout import Dropout
from fmx.models.flatten import Flatten
from fmx.models.pretrained import Pretrained
from fmx.models.torchvision_net import adapt_kernel
from fmx.models.views import views

CONF = Path(__file__).parents[1] / "conf" / "model"
MODELS = sorted(path.stem for path in CONF.glob("*.yaml"))
SIZED = sorted(set(MODELS) - {"mlp", "resnet20", "pretrained", "timm"})  # those that refuse small images
ARCHITECTURES = ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def build(name, *, in_channels=1, num_classes=10, image_size=28, **changes):
    data = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    cfg = OmegaConf.create({"data": data, "model": OmegaConf.load(CONF / f"{name}.yaml")})
    assert cfg.model.name == name
    try:
        return instantiate(cfg.model.net, **changes, _convert_="all")
    except InstantiationException as error:
        raise error.__cause__ from None  # what the model itself said


def assert_gradients(model):
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    for name, grad in trained.items():
        assert grad is not None, name
        assert grad.isfinite().all(), name


def test_every_configured_model_is_found():
    promised = {"mlp", "lenet", "two_conv", "three_conv", "avgpool", "dilated", "dropout_cnn", "resnet20"}
    assert promised | {"pretrained", "timm"} <= set(MODELS)


def test_importing_a_model_imports_torch_alone():
    modules = [f"fmx.models.{path.stem}" for path in (CONF.parents[1] / "src/fmx/models").glob("[a-z]*.py")]
    assert len(modules) >= 9
    code = f"""
import importlib, sys
import fmx.models
assert "torch" not in sys.modules
for module in {modules}:
    importlib.import_module(module)
heavy = {{"torchvision", "hydra", "omegaconf", "pytorch_lightning", "torchmetrics"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("in_channels", "num_classes", "image_size"), [(1, 10, 28), (3, 2, 32), (3, 100, 64), (2, 10, 45)]
)
@pytest.mark.parametrize("name", MODELS)
def test_shapes_and_gradients(name, in_channels, num_classes, image_size):
    model = build(name, in_channels=in_channels, num_classes=num_classes, image_size=image_size)
    images = torch.randn(5, in_channels, image_size, image_size)
    logits = model(images)
    assert logits.shape == (5, num_classes)
    nn.functional.cross_entropy(logits, torch.arange(5) % num_classes).backward()
    assert all(p.requires_grad for p in model.parameters())
    assert_gradients(model)


@pytest.mark.parametrize("name", MODELS)
def test_documented_parameter_count(name):
    header = (CONF / f"{name}.yaml").read_text()
    documented = re.search(r"^# ([\d,]+) parameters", header, re.MULTILINE)
    assert documented, f"the header of {name}.yaml states no number of parameters"
    assert int(documented[1].replace(",", "")) == sum(p.numel() for p in build(name).parameters())


@pytest.mark.parametrize(
    ("name", "num_features"),
    [("lenet", 400), ("three_conv", 2400), ("avgpool", 1152), ("dilated", 512), ("dropout_cnn", 1024)],
)
def test_flattened_features_are_those_of_the_source(name, num_features):
    assert build(name).head[1].in_features == num_features


def test_flattening_what_is_channels_last_moves_no_value():
    maps = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    flat = maps.permute(0, 2, 3, 1).reshape(2, -1)
    assert torch.equal(Flatten()(maps), flat)
    there = maps.to(memory_format=torch.channels_last).requires_grad_()
    assert Flatten()(there).data_ptr() == there.data_ptr()
    torch.autograd.backward(Flatten()(there), flat)
    assert torch.equal(there.grad, maps)
    assert there.grad.is_contiguous(memory_format=torch.channels_last)


def test_tta_is_the_mean_over_views():
    """Of an image, its mirror image, and both shifted by a pixel; training is not touched."""
    plain = build("cosine_resnet").eval()
    images = torch.zeros(4, 1, 28, 28)
    images[:, :, 4:-4, 4:-4] = torch.randn(4, 1, 20, 20)  # with an edge that shifts do not change
    mirrored = images.flip(3)
    shifted = [each.roll(shifts, (2, 3)) for each in (images, mirrored) for shifts in ((1, 1), (-1, -1))]
    for kind, seen in {"flip": [images, mirrored], "flip_shift": [images, mirrored, *shifted]}.items():
        model = build("cosine_resnet", tta=kind)
        model.load_state_dict(plain.state_dict())
        expected = torch.stack([plain(view) for view in seen])
        assert not torch.allclose(*expected[:2])
        torch.testing.assert_close(model.eval()(images), expected.mean(0))
        torch.testing.assert_close(model.train()(images), deepcopy(plain).train()(images))


def test_a_shift_repeats_the_edge():
    images = torch.arange(9.0).reshape(1, 1, 3, 3)
    _, lower_right, upper_left, *_ = views(images, "flip_shift")
    assert lower_right.tolist() == [[[[0, 0, 1], [0, 0, 1], [3, 3, 4]]]]
    assert upper_left.tolist() == [[[[4, 5, 5], [7, 8, 8], [7, 8, 8]]]]


def test_resnet20_has_twenty_layers():
    layers = [m for m in build("resnet20").modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20


@pytest.mark.parametrize("name", MODELS)
def test_batch_of_one(name):
    model = build(name, image_size=64)  # at 28 x 28 resnet18 ends in one pixel, whose batch norm needs two images
    assert model.train()(torch.randn(1, 1, 64, 64)).shape == (1, 10)
    model = build(name)
    assert model.eval()(torch.randn(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize("name", MODELS)
def test_an_image_is_classified_alike_alone_and_in_a_batch_and_channels_last(name):
    model = build(name, in_channels=3, image_size=32).eval()
    images = torch.randn(4, 3, 32, 32)
    logits = model(images)
    torch.testing.assert_close(model(images[1:2]), logits[1:2], atol=1e-5, rtol=1e-4)
    model = model.to(memory_format=torch.channels_last)
    last = model(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SIZED)
def test_a_too_small_image_is_answered_with_the_smallest_size(name):
    with pytest.raises(ValueError, match=f"image_size must be at least .* for '{name}'") as error:
        build(name, image_size=4)
    smallest = int(re.search(r"at least (\d+)", str(error.value))[1])
    expected = f"at least {smallest} for '{name}', got 4; use model=mlp or data.image_size=28"
    assert str(error.value).endswith(expected)
    assert build(name, image_size=smallest)(torch.randn(2, 1, smallest, smallest)).shape == (2, 10)
    with pytest.raises(ValueError, match=f"at least {smallest} .* got {smallest - 1}"):
        build(name, image_size=smallest - 1)


def test_the_smallest_size_grows_with_the_kernel():
    with pytest.raises(ValueError, match=r"at least 44 .* got 28; use model=mlp or data.image_size=44"):
        build("three_conv", kernel_size=11)


def test_building_draws_the_same_weights_whatever_the_image_size_check_does():
    torch.manual_seed(1)
    conv = nn.Conv2d(1, 6, kernel_size=3)
    torch.manual_seed(1)
    assert torch.equal(build("lenet").features[0].weight, conv.weight)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("lenet", {"widths": [6]}, r"widths must be a list of 2 positive integers, got \[6\]"),
        ("avgpool", {"widths": [16, 0]}, r"widths must be a list of 2 positive integers, got \[16, 0\]"),
        ("mlp", {"hidden_sizes": 300}, "hidden_sizes must be a list of positive integers, got 300"),
        ("mlp", {"hidden_sizes": [1.5]}, "hidden_sizes must be a list of positive integers"),
        ("two_conv", {"kernel_size": -1}, "kernel_size must be a positive integer, got -1"),
        ("cosine_resnet", {"tta": "mirror"}, "tta must be one of none, flip, flip_shift, got 'mirror'"),
        ("dilated", {"dilation": 0}, "dilation must be a positive integer, got 0"),
        ("resnet20", {"width": 0}, "width must be a positive integer, got 0"),
        ("dropout_cnn", {"dropout_prob": 2}, "dropout probability has to be between 0 and 1"),
        ("pretrained", {"resize": 0}, "resize must be a whole number of at least 1 .*, got 0"),
        ("timm", {"resize": 0}, "resize must be a whole number of at least 1 .*, got 0"),
    ],
)
def test_an_impossible_size_is_refused_by_name(name, changes, message):
    with pytest.raises(ValueError, match=message):
        build(name, **changes)


@pytest.mark.parametrize("name", MODELS)
def test_a_tiny_set_is_overfitted(name):
    model = build(name)
    images, labels = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(200):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            return
    pytest.fail(f"the loss is still {loss:.3f}")


# pretrained: torchvision's own networks


def pretrained(architecture, *, in_channels=1, num_classes=10, image_size=32, **changes):
    sizes = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    choices = {"weights": None, "freeze": False, "resize": None} | changes
    return Pretrained(architecture=architecture, **sizes, **choices)


def stock(architecture):
    options = {"init_weights": False} if architecture == "googlenet" else {}
    return torchvision_models.get_model(architecture, weights=None, **options)


def same(state, other):
    return all(torch.equal(state[key], other[key]) for key in state)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_weights_take_any_channels_and_classes(architecture):
    model = pretrained(architecture, in_channels=2, num_classes=7)
    logits = model(torch.randn(3, 2, 32, 32))
    assert logits.shape == (3, 7)
    logits.sum().backward()
    assert_gradients(model)


@pytest.mark.parametrize("architecture", ["resnet18", "squeezenet1_1", "googlenet", "mnasnet0_5"])
def test_a_weights_file_of_torchvision_keeps_all_but_the_last_layer(architecture, tmp_path):
    net = stock(architecture)
    torch.save(net.state_dict(), tmp_path / "rgb.pth")  # that of googlenet holds two auxiliary heads
    model = pretrained(architecture, in_channels=3, weights=str(tmp_path / "rgb.pth"))
    own, theirs = model.net.state_dict(), net.state_dict()
    kept = {key: value for key, value in own.items() if value.shape == theirs[key].shape}
    assert len(own) - len(kept) == 2  # the weight and the bias of the last layer
    assert same(kept, theirs)


@pytest.mark.parametrize("architecture", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_saved_weights_come_back_whole(architecture, tmp_path):
    model = pretrained(architecture)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    in_run = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": in_run | {"loss.weight": torch.ones(10)}}, tmp_path / "run.ckpt")
    for name in ("own.pth", "run.ckpt"):
        again = pretrained(architecture, weights=str(tmp_path / name))
        assert same(model.state_dict(), again.state_dict())


def test_weights_of_another_run_fit_other_channels_and_classes(tmp_path):
    torch.save(pretrained("squeezenet1_1").state_dict(), tmp_path / "gray.pth")
    model = pretrained("squeezenet1_1", in_channels=3, num_classes=4, weights=str(tmp_path / "gray.pth"))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4)


def test_the_names_in_old_files_of_densenet_are_understood(tmp_path):
    net = stock("densenet121")
    old = {re.sub(r"(norm|conv)([12])(?=\.\w+$)", r"\1.\2", key) if "denselayer" in key else key: value
           for key, value in net.state_dict().items() if "num_batches" not in key}  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    model = pretrained("densenet121", in_channels=3, num_classes=1000, weights=str(tmp_path / "old.pth"))
    assert same(model.net.state_dict(), net.state_dict())


def test_a_gray_image_passes_as_its_three_equal_channels_would(tmp_path):
    net = stock("resnet18").eval()
    torch.save(net.state_dict(), tmp_path / "rgb.pth")
    model = pretrained("resnet18", num_classes=1000, weights=str(tmp_path / "rgb.pth")).eval()
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(model(images), net(images.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4, 7])
def test_an_adapted_kernel_keeps_the_scale(in_channels):
    adapted = adapt_kernel(torch.ones(2, 3, 5, 5), in_channels)
    assert adapted.shape == (2, in_channels, 5, 5)
    torch.testing.assert_close(adapted.sum(1), torch.full((2, 5, 5), 3.0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_frozen_backbone_does_not_change(architecture):
    model = pretrained(architecture, freeze=True)
    assert len([p for p in model.parameters() if p.requires_grad]) == 2
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    (-model(torch.randn(4, 1, 32, 32)).log_softmax(1)[:, 0].mean()).backward()
    assert_gradients(model)
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    head = "net.classifier.1" if architecture == "squeezenet1_1" else "net.fc"
    head = "net.classifier.3" if architecture == "mobilenet_v3_small" else head
    assert changed <= {f"{head}.weight", f"{head}.bias"}
    assert changed


def test_a_frozen_backbone_keeps_its_other_layers_in_train_mode():
    model = pretrained("mobilenet_v3_small", freeze=True)
    modes = {type(module): module.training for module in model.modules()}
    assert not modes[nn.BatchNorm2d]
    assert modes[nn.Dropout]
    assert not any(module.training for module in model.eval().modules())


def test_images_are_resized_inside():
    model = pretrained("squeezenet1_1", image_size=8, resize=32).eval()  # which could not take 8 x 8
    images = torch.randn(2, 1, 8, 8)
    larger = nn.functional.interpolate(images, (32, 32), mode="bilinear")
    torch.testing.assert_close(model(images), model.net(larger))
    assert pretrained("squeezenet1_1", image_size=64, resize=32)(torch.randn(2, 1, 64, 64)).shape == (2, 10)


@pytest.mark.parametrize(("architecture", "needed"), [("vit_b_32", 224), ("densenet121", 29)])
def test_a_size_that_the_network_cannot_take_is_answered_with_one_that_it_can(architecture, needed):
    message = f"'{architecture}' cannot take images of 28 pixels; use model.net.resize={needed}$"
    with pytest.raises(ValueError, match=message):
        pretrained(architecture, image_size=28)


@pytest.mark.parametrize(
    ("architecture", "weights", "message"),
    [
        ("resnet81", None, "no architecture 'resnet81'; nearest: resnet18"),
        ("resnet18", "IMAGENET1K_V9", "neither a file nor a name .* use IMAGENET1K_V1, DEFAULT, a file, or"),
        ("resnet18", "missing.pth", "'missing.pth' is neither a file nor a name"),
        ("qqqq", None, "choose one of alexnet, "),
    ],
)
def test_an_unknown_name_is_answered_with_those_that_exist(architecture, weights, message):
    with pytest.raises(ValueError, match=message):
        pretrained(architecture, weights=weights)


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"])
def test_weights_that_are_fetched_already_need_no_network(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    net = stock("squeezenet1_1")
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(net.state_dict(), tmp_path / "hub/checkpoints/squeezenet1_1-b8a52dc0.pth")
    model = pretrained("squeezenet1_1", in_channels=3, num_classes=1000, weights=name)
    assert same(model.net.state_dict(), net.state_dict())


def test_weights_of_googlenet_by_name_come_without_auxiliary_heads(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(stock("googlenet").state_dict(), tmp_path / "hub/checkpoints/googlenet-1378be20.pth")
    model = pretrained("googlenet", weights="DEFAULT")
    assert model.train()(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert not any("aux" in key for key in model.state_dict())


def test_no_network_is_answered_with_the_ways_out(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(DataError) as error:
        pretrained("resnet18", weights="DEFAULT")
    message = str(error.value)
    assert "ResNet18_Weights.IMAGENET1K_V1" in message
    assert "no route to host" in message
    assert f"save https://download.pytorch.org/models/resnet18-f37072fd.pth as {tmp_path}" in message
    assert message.endswith("or use model.net.weights=FILE or model.net.weights=null")


def test_a_file_of_another_architecture_is_refused(tmp_path):
    torch.save(stock("shufflenet_v2_x1_0").state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        DataError, match=r"other.pth do not fit 'shufflenet_v2_x0_5': other shapes: .* and \d+ more\. Use"
    ):
        pretrained("shufflenet_v2_x0_5", weights=str(tmp_path / "other.pth"))
    with pytest.raises(DataError, match="do not fit 'squeezenet1_1': it lacks"):
        pretrained("squeezenet1_1", weights=str(tmp_path / "other.pth"))


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "no_tensors", "pickled_object"])
def test_a_file_that_holds_no_weights_is_refused(damage, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": nn.Linear(2, 2)} if damage == "pickled_object" else {"a": 1}, path)
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("these are no weights\n")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=re.escape(str(path))) as error:
        pretrained("squeezenet1_1", weights=str(path))
    assert str(error.value).endswith("FILE), or use model.net.weights=null")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(dtype, memory_format):
    ones = torch.ones(64, 30, 15, 15, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    dropout = Dropout(0.3)
    torch.manual_seed(1)
    dropped = dropout(ones)
    torch.manual_seed(1)
    assert torch.equal(dropout(ones), dropped)  # the generator's seed decides
    assert not torch.equal(dropout(ones), dropped)
    assert dropped.is_contiguous(memory_format=memory_format)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.004)  # of 432,000 values: five standard deviations
    for dim in range(4):  # nowhere more than elsewhere
        assert kept.float().mean(dim=[d for d in range(4) if d != dim]).sub(0.7).abs().max() < 0.03
    assert torch.equal(dropped[kept], torch.full_like(dropped[kept], 1 / 0.7))
    dropped.backward(torch.ones_like(dropped))
    assert torch.equal(ones.grad, dropped)
    assert torch.equal(dropout.eval()(ones), ones)


@pytest.mark.parametrize("values", [0, 1, 7, 8])
def test_dropout_of_any_number_of_values(values):
    x = torch.randn(2, values)[:, ::2]  # not dense
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros_like(x))
    dropped = Dropout(0.5)(x)
    assert ((dropped == 0) | (dropped == 2 * x)).all()
