"""`fmx explain`: heat maps that equal a computation by hand, for every network with convolutions; what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fmx.config.conf_dir import CONF_DIR
from fmx.data.digits import load_digits
from fmx.errors import ConfigError
from fmx.inference.grad_cam import choose_layer, heat_maps
from fmx.runs.composition import compose_config
from fmx.training.build import make

MODELS = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
MORE = {
    "pretrained": [
        "model.net.architecture=squeezenet1_1",
        "model.net.resize=64",
        "model.net.freeze=true",
    ],  # ReLU in place
    "timm": ["model.net.architecture=mobilenetv3_small_050", "model.net.resize=32"],
    "cosine_resnet": ["model.net.widths=[8,8,8]"],
}


def by_hand(net, layer, images, labels):
    """Equations 1 and 2 of Selvaraju et al.: the weights are mean gradients, and negative evidence is cut."""
    outputs = []
    hook = layer.register_forward_hook(lambda _, __, output: outputs.append(output) or output.clone())
    net.requires_grad_(requires_grad=True)
    scores = net(images)
    hook.remove()
    (gradients,) = torch.autograd.grad(scores[range(len(labels)), labels].sum(), outputs[0])
    coarse = (gradients.mean(dim=(2, 3), keepdim=True) * outputs[0]).sum(dim=1, keepdim=True).relu()
    fine = nn.functional.interpolate(coarse, images.shape[2:], mode="bilinear")
    return fine[:, 0].detach().numpy()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "mlp"])
def test_a_heat_map_is_that_of_a_computation_by_hand(name):
    torch.manual_seed(0)
    net = make(compose_config(["data=digits", f"model={name}", *MORE.get(name, [])]).model.net).eval()
    images, labels = torch.randn(2, 1, 28, 28).repeat(5, 1, 1, 1), [*range(10)]
    chosen, size = choose_layer(net, images[:1], None, model=name)
    layer = net.get_submodule(chosen)
    assert isinstance(layer, nn.Conv2d)
    assert max(size) > 1
    maps = heat_maps(net, layer, images, labels)
    assert maps.shape == (10, 28, 28)
    assert (maps.max(axis=(1, 2)) > 0).sum() > 1
    assert np.allclose(maps, by_hand(net, layer, images, labels), atol=1e-6, rtol=1e-4)


class Own(nn.Module):
    """A convolution by hand, then one whose output is one pixel large; its output is an object."""

    def __init__(self):
        super().__init__()
        self.by_hand = ByHand()
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.pooled(self.by_hand(x)).flatten(1))


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1, 3, 3))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight)


def test_the_layer_is_chosen_and_named():
    net, images = Own(), torch.randn(2, 1, 9, 9)
    assert choose_layer(net, images, None, model="own") == ("by_hand", (7, 7))
    assert choose_layer(net, images, "pooled.0", model="own") == ("pooled.0", (1, 1))
    with pytest.raises(ConfigError, match=r"--layer by_hnd: own has no layer .*; did you mean 'by_hand'\?"):
        choose_layer(net, images, "by_hnd", model="own")
    with pytest.raises(ConfigError, match="--layer head: own has no layer of that name with an output"):
        choose_layer(net, images, "head", model="own")
    with pytest.raises(ConfigError, match="mlp has no convolution, and Grad-CAM needs one: the networks of conf/model"):
        choose_layer(nn.Sequential(nn.Flatten(), nn.Linear(81, 3)), images, None, model="mlp")


def test_the_command_draws_and_refuses(digits_run, command, tmp_path):
    test = load_digits(part="test", num_test=360, test_seed=0, image_size=28)
    for number, image in enumerate(test.images[test.labels == 3][:3]):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{number}.png")
    run = str(digits_run)
    done = command(run, "0.png", "1.png", "2.png", "--grid", "why.png", "--class", "3", module="explain",
                   cwd=tmp_path)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("for 3") == 3
    assert "Grad-CAM of lenet at features.3 (11 x 11)" in done.stdout
    with Image.open(tmp_path / "why.png") as drawn:
        colors = np.asarray(drawn.convert("RGB"), int)
    assert (np.ptp(colors, axis=2) > 60).mean() > 0.02  # heat, beside pictures that are grey
    (tmp_path / "hidden/captum").mkdir(parents=True)
    (tmp_path / "hidden/captum/__init__.py").write_text("raise ImportError('hidden', name='captum')")
    for words, env, what in [
        (["0.png"], {}, "--grid is missing; for example: fmx explain"),
        (["0.png", "--grid", "why.png"], {}, "why.png exists; replace it with --force"),
        (["0.png", "--grid", "a.jpg"], {}, "--grid writes PNG: name it a.png"),
        (["0.png", "--grid", "a.png", "--class", "33"], {}, "--class 33: there is no such class"),
        (["no.png", "--grid", "a.png"], {}, "there are no pictures to explain"),
        (["0.png", "--grid", "a.png"], {"PYTHONPATH": str(tmp_path / "hidden")}, "pip install 'fmx[explain]'"),
    ]:
        done = command(run, *words, module="explain", cwd=tmp_path, env=env)
        assert done.returncode in {1, 2}, words
        assert what in done.stderr
        assert done.stderr.count("\n") == 1 + ("no.png" in words)
        assert not (tmp_path / "a.png").exists()
