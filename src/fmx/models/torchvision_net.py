"""torchvision's networks and named weights, and how their first and last layers are adapted."""

import socket
from difflib import get_close_matches
from http.client import HTTPException
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmx.errors import DataError

__all__ = [
    "adapt_first_convolution",
    "adapt_head",
    "adapt_kernel",
    "cached_download",
    "fetch_weights",
    "find_weights",
    "first_convolution",
    "head",
    "smallest_image",
    "torchvision_net",
]

DOWNLOAD_TIMEOUT_S = 15.0


def find_weights(architecture: str, weights: str | None) -> Any:
    """Return torchvision's entry for these weights, or None where `weights` is None or a file.

    ValueError: no such architecture (the nearest are named), or no such weights (all are named).
    """
    from torchvision import models  # takes seconds, and no other model needs it

    architectures = models.list_models(module=models)
    if architecture not in architectures:
        near = get_close_matches(architecture, architectures, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else f"choose one of {', '.join(architectures)}"
        raise ValueError(f"torchvision has no architecture '{architecture}'; {hint}")
    if weights is None:
        return None
    known = models.get_model_weights(architecture)
    name = weights.removeprefix(f"{known.__name__}.")
    if name in known.__members__:
        return known[name]
    path = Path(weights).expanduser()
    if path.is_file():
        return None
    what = "a folder, neither a file" if path.is_dir() else "neither a file"
    raise ValueError(
        f"weights '{weights}' is {what} nor a name that torchvision has for '{architecture}'; "
        f"use {', '.join(known.__members__)}, a file, or model.net.weights=null"
    )


def torchvision_net(architecture: str) -> nn.Module:
    """Return the network for 3 channels and 1000 classes, without auxiliary heads, with random weights."""
    from torchvision import models

    # These two warn about a slow initialisation unless it is chosen or declined.
    options = {"init_weights": False} if architecture in {"googlenet", "inception_v3"} else {}
    net: nn.Module = models.get_model(architecture, weights=None, **options)
    for auxiliary in ("aux1", "aux2", "AuxLogits"):
        if hasattr(net, auxiliary):
            setattr(net, auxiliary, None)
    for flag in ("aux_logits", "transform_input"):  # the second would index three channels
        if hasattr(net, flag):
            setattr(net, flag, False)
    return net


def fetch_weights(named_weights: Any) -> Path:
    """Return the path of torchvision's weights in torch's cache, after downloading them if needed.

    DataError: the download failed or is damaged.
    """
    url: str = named_weights.url
    name = url.rpartition("/")[2]
    return cached_download(url, name, f"{named_weights} of torchvision", hash_prefix=Path(name).stem.rpartition("-")[2])


def cached_download(url: str, name: str, what: str, hash_prefix: str | None = None) -> Path:
    """Return the path of a file in torch's cache, after downloading it from `url` if needed.

    what: the weights, for the message. hash_prefix: how their SHA-256 begins.
    DataError: the download failed or is damaged.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", name)
    if file.is_file():
        return file
    timeout_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # torch.hub sets none, so a silent firewall would block forever
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=hash_prefix)
    except (OSError, HTTPException, EOFError, RuntimeError) as error:
        raise DataError(
            f"cannot get the weights {what} ({error}); "
            f"save {url} as {file}, or use model.net.weights=FILE or model.net.weights=null"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout_s)
    return file


def smallest_image(architecture: str) -> int:
    """Return the smallest image width in pixels that torchvision states for an architecture."""
    from torchvision import models

    smallest: int = max(models.get_model_weights(architecture)["DEFAULT"].meta["min_size"])
    return smallest


def first_convolution(net: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the layer that takes the image, with its name."""
    return next((name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d))


def head(net: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the layer that makes the logits, with its name: a convolution in SqueezeNet, else linear."""
    layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return layers[-1]


def adapt_first_convolution(net: nn.Module, in_channels: int) -> None:
    """Make `net` take images of `in_channels`."""
    _, layer = first_convolution(net)
    layer.in_channels = in_channels
    layer.weight = nn.Parameter(adapt_kernel(layer.weight.detach(), in_channels))


def adapt_kernel(kernel: Tensor, in_channels: int) -> Tensor:
    """Return a kernel (O, in_channels, H, W) that responds to images much as `kernel` (O, C, H, W) does.

    One channel gets the sum over the C, which is exact for a gray image; more take the C in turn, scaled by
    C / in_channels. After adapt_input_conv of R. Wightman's timm.
    """
    old_channels = kernel.shape[1]
    if in_channels == 1:
        return kernel.sum(1, keepdim=True)
    in_turn = kernel.repeat(1, ceil(in_channels / old_channels), 1, 1)[:, :in_channels]
    return in_turn * (old_channels / in_channels)


def adapt_head(net: nn.Module, num_classes: int) -> None:
    """Make `net` give `num_classes` logits; a layer that already does keeps its weights."""
    name, layer = head(net)
    if len(layer.weight) == num_classes:
        return
    if isinstance(layer, nn.Linear):
        net.set_submodule(name, nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None))
    else:
        net.set_submodule(name, nn.Conv2d(layer.in_channels, num_classes, kernel_size=1))
