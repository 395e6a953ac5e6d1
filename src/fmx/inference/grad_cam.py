"""Grad-CAM: where in a picture the evidence for a class is, by the last convolution of a network.

R. R. Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017
(arXiv:1610.02391), as captum computes it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fmx.config.printed_command import printed_command
from fmx.config.suggest import nearest
from fmx.errors import ConfigError

__all__ = ["choose_layer", "heat_maps", "require_captum"]

IMAGES = 4  # dimensions of a batch of images (B, C, H, W)
AT_ONCE = 8  # images, to bound the memory for gradients
MANY = 12  # layers that an error lists
Sizes = dict[str, tuple[int, int]]  # height and width of a layer's output


def require_captum() -> Any:
    """captum.attr, which takes seconds to import; ConfigError with the command that installs it."""
    try:
        return import_module("captum.attr")
    except ImportError as error:
        how = printed_command("pip", "install", "fmx[explain]")
        raise ConfigError(f"fmx explain needs the package captum: {how}") from error


def choose_layer(net: nn.Module, images: Tensor, name: str | None, *, model: str) -> tuple[str, tuple[int, int]]:
    """The layer to explain by, and the height and width of its output.

    images: normalised (B, C, H, W). name: None for the last convolution whose output is more than one pixel large, or
    the last one. ConfigError for a network without convolutions, and for a layer that it lacks.
    """
    sizes = _outputs(net, images)
    if name is None:
        modules = dict(net.named_modules())
        convolutions = [each for each in sizes if _is_convolution(modules[each])]
        if not convolutions:
            raise ConfigError(
                f"{model} has no convolution, and Grad-CAM needs one: the networks of conf/model other than mlp, "
                "model=pretrained, model=timm and your own with a Conv2d can be explained"
            )
        name = next((each for each in reversed(convolutions) if max(sizes[each]) > 1), convolutions[-1])
    elif name not in sizes:
        known = [each for each in sizes if each]
        listed = ", ".join(known[-MANY:]) if known else "none"
        raise ConfigError(
            f"--layer {name}: {model} has no layer of that name with an output (B, C, H, W)"
            f"{nearest(name, known, cutoff=0.4)} The last of them: {listed}"
        )
    return name, sizes[name]


def _outputs(net: nn.Module, images: Tensor) -> Sizes:
    """Height and width of the output of each layer that returns (B, C, H, W), in the order in which they end."""
    sizes: Sizes = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == IMAGES and len(output) == len(images):
            sizes[name] = (output.shape[2], output.shape[3])

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in net.named_modules()
        if name
    ]
    try:
        with torch.inference_mode():
            net(images)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def _is_convolution(module: nn.Module) -> bool:
    """Whether a layer is a convolution, or has weights of such a shape itself."""
    return isinstance(module, nn.Conv2d) or any(weight.ndim == IMAGES for weight in module.parameters(recurse=False))


def heat_maps(model: nn.Module, layer: nn.Module, pixels: Tensor, classes: Sequence[int]) -> NDArray[np.float32]:
    """The evidence for a class in each image, (N, H, W) of at least 0, not scaled.

    model: maps pixels (N, C, H, W) to logits (N, K); layer: a part of it. classes: one of each image.
    """
    captum = require_captum()
    with _differentiable(model):
        cam, maps = captum.LayerGradCam(model, layer), []
        for start in range(0, len(pixels), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            coarse = cam.attribute(pixels[part], target=list(classes[part]), relu_attributions=True)  # (B, 1, h, w)
            fine = captum.LayerAttribution.interpolate(coarse, tuple(pixels.shape[2:]), interpolate_mode="bilinear")
            maps.append(fine.detach()[:, 0].float().numpy())
    return np.concatenate(maps)


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Weights with gradients, as frozen ones have none, and no layer that changes its input in place."""
    in_place = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    model.requires_grad_(requires_grad=True)
    for module in in_place:
        module.inplace = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in in_place:
            module.inplace = True  # type: ignore[assignment]
