"""Any network of timm, made to fit the channels, the classes and the image size of the data."""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmx.config.image_size import ImageSize, height_and_width, shortest_form
from fmx.errors import DataError, first_line
from fmx.models.adapted_net import AdaptedNet, describe_origin
from fmx.models.sizes import output_shape
from fmx.models.torchvision_net import cached_download
from fmx.models.weights_file import Fit

__all__ = ["TimmNet"]

# Arguments of timm.create_model that read files, fetch them, or change what the network gives; fmx has its own ways.
OWN_WAY = {
    "model_name": "model.net.architecture",
    "checkpoint_path": "model.net.weights=FILE",
    "cache_dir": "the environment variable HF_HUB_CACHE",
    "num_classes": "data.num_classes",
    "in_chans": "data.in_channels",
    "img_size": "model.net.resize or data.image_size",
    "device": "trainer.accelerator",
    "dtype": "trainer.precision",
}
SIZE_STEP = 32  # pixels; most networks halve an image five times
NOT_FOR_CLASSES = ("features_only", "feature_cls", "out_indices", "output_stride", "pruned")


class TimmNet(AdaptedNet):
    """A network of timm that takes `in_channels` and gives `num_classes`.

    Maps (B, in_channels, H, W) to logits (B, num_classes).

    architecture: its name in timm.list_models(), such as resnet18 or vit_tiny_patch16_224. A network that is made for
        one image size is made for `image_size`, or for `resize`.
    weights: None for random ones; a tag that timm has weights under, such as a1_in1k, or DEFAULT for its first; or a
        file with a state dict of the architecture, from timm or from a run. The first convolution is adapted to the
        channels, and the last layer is replaced unless it has the right number of classes. On the meta device a file
        is compared with the network, but not loaded.
    freeze: train the last layer alone; batch norm then keeps its stored mean and variance.
    resize: the size that images are stretched to first, a number of pixels or [height, width]; or None.
    options: other arguments of the architecture, such as drop_rate or patch_size. Those that name files or weights are
        refused: `weights` alone does.

    ValueError: timm is not installed, or an unknown architecture, weights or option, or an image size that the network
    does not accept. DataError: the weights cannot be fetched or read, or do not fit.
    """

    def __init__(
        self,
        *,
        architecture: str,
        in_channels: int,
        num_classes: int,
        image_size: ImageSize,
        weights: str | None,
        freeze: bool,
        resize: ImageSize | None,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(freeze=freeze, resize=resize)
        preset = _preset(architecture, weights)
        _check_options(options)
        size = self.resize or height_and_width(image_size)
        given = {**options, "in_chans": in_channels, "num_classes": num_classes}
        if preset.fixed_input_size:
            given["img_size"] = shortest_form(size)
        try:
            self.net = _make(architecture, given)
        except Exception as error:  # an option, or a small image's grid of patches, may be wrong in any way
            if isinstance(error, ValueError) or not (options or preset.fixed_input_size):
                raise
            raise _wrong_size(architecture, size, _own_size(preset), error, options) from error
        _check_size(self.net, architecture, in_channels, size, preset=preset, options=options)
        self.last = _names(self.net, preset.classifier)
        if not self.last:
            raise ValueError(f"{architecture!r} classifies nothing: it has no layer for classes")
        file = None if weights is None else Path(weights).expanduser()
        fit: Fit | None = None
        if file is not None and file.is_file():
            first = _names(self.net, preset.first_conv)
            fit = self.load_file(file, architecture, first=first[0] if first else None)
        elif weights is not None:
            self.weights_file = _fetch(preset)
            if not torch.empty(0).is_meta:
                self.net = _make(architecture, given, preset, self.weights_file)
        self.origin = describe_origin(
            architecture, weights, fit, in_channels=in_channels, num_classes=num_classes, freeze=freeze, library="timm"
        )
        self.freeze_backbone()


def _preset(architecture: str, weights: str | None) -> Any:
    """Return timm's record of an architecture: its input size, the names of its layers, its weights.

    The record is that of the tag where `weights` is one.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ValueError("model=timm needs the package timm: pip install timm") from error
    known = timm.list_models()
    if architecture not in known:
        name, _, tag = architecture.partition(".")
        near = [name] if name in known else get_close_matches(architecture, known, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else "timm.list_models() lists them"
        if tag and name in known:
            hint = f"use model.net.architecture={name}, and model.net.weights={tag} for timm's weights of that tag"
        raise ValueError(f"timm has no architecture {architecture!r}; {hint}")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if weights is None or weights == "DEFAULT" or Path(weights).expanduser().is_file():
        if weights == "DEFAULT" and not timm.is_model_pretrained(architecture):
            raise ValueError(f"timm has no weights for {architecture!r}; use model.net.weights=FILE or null")
        return timm.get_pretrained_cfg(architecture)
    if weights in tags:
        return timm.get_pretrained_cfg(f"{architecture}.{weights}")
    what = "a folder, neither a file" if Path(weights).expanduser().is_dir() else "neither a file"
    raise ValueError(
        f"weights {weights!r} is {what} nor a tag that timm has for {architecture!r}; "
        f"use {', '.join(['DEFAULT', *tags] if tags else [])}{', ' if tags else ''}a file, or model.net.weights=null"
    )


def _check_options(options: Mapping[str, Any]) -> None:
    """ValueError for an argument that fmx gives itself, that reads files or that makes no classifier."""
    for name in options:
        if name in OWN_WAY:
            raise ValueError(f"options.{name} is not taken: use {OWN_WAY[name]}")
        if name.startswith("pretrained"):
            raise ValueError(f"options.{name} is not taken: use model.net.weights, of a tag or a file")
        if name in NOT_FOR_CLASSES:
            raise ValueError(f"options.{name} is not taken: the network has to give a number for each class")


def _make(architecture: str, given: Mapping[str, Any], preset: Any = None, weights: Path | None = None) -> nn.Module:
    """Create the network, with timm's own weights from a file if there is one; timm fits them to the network."""
    import timm

    source: dict[str, Any] = {}
    if weights is not None:
        source = {
            "pretrained": True,
            "pretrained_cfg": preset,
            "pretrained_cfg_overlay": {"file": str(weights), "custom_load": False},
        }
    try:
        net: nn.Module = timm.create_model(architecture, **given, **source)
    except TypeError as error:
        wrong = next((name for name in given if f"'{name}'" in str(error)), None)
        if wrong is None:
            raise
        raise ValueError(f"{architecture!r} takes no option {wrong!r} ({error})") from error
    except Exception as error:
        if weights is None:
            raise
        raise DataError(f"{weights} does not fit {architecture!r}: {first_line(error)}") from error
    return net


def _check_size(
    net: nn.Module,
    architecture: str,
    in_channels: int,
    size: tuple[int, int],
    *,
    preset: Any,
    options: Mapping[str, Any],
) -> None:
    """ValueError where the network cannot take images of a size, or would not look at all of their pixels."""
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    width = patch[-1] if isinstance(patch, Sequence) else patch
    if isinstance(width, int) and any(side % width for side in size):
        raise ValueError(
            f"{architecture!r} cuts images into patches of {width} pixels, of which {_pixels(size)} is no multiple; "
            f"use model.net.resize={_own_size(preset)}, or +model.net.options.patch_size={_patch_for(size)}"
        )
    if error := _error_at(net, in_channels, size):
        sizes = [] if preset.fixed_input_size else range(SIZE_STEP, _own_size(preset), SIZE_STEP)
        fits = next(
            (each for each in sizes if each > max(size) and not _error_at(net, in_channels, (each, each))), None
        )
        raise _wrong_size(architecture, size, fits or _own_size(preset), error, options) from error


def _error_at(net: nn.Module, in_channels: int, size: tuple[int, int]) -> Exception | None:
    """What a network raises for an image of this size."""
    try:
        output_shape(net, in_channels, size)
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        return error
    return None


def _own_size(preset: Any) -> int:
    """The width in pixels of the images that timm made an architecture for."""
    size: int = preset.input_size[-1]
    return size


def _patch_for(size: tuple[int, int]) -> int:
    """The width of patches that a small image is cut into: the divisor that gives about 8 of them in a row."""
    divisors = [width for width in range(1, min(size) + 1) if not math.gcd(*size) % width]
    return min(divisors, key=lambda width: abs(max(size) // width - 8))


def _pixels(size: tuple[int, int]) -> str:
    height, width = size
    return f"{height}" if height == width else f"{height} x {width}"


def _wrong_size(
    architecture: str, size: tuple[int, int], needed: int, error: Exception, options: Mapping[str, Any]
) -> ValueError:
    reason = f" ({first_line(error)})" if str(error) else ""
    named = ", ".join(f"{name}={value}" for name, value in options.items())
    with_options, change = (f" with {named}", ", or change model.net.options") if options else ("", "")
    return ValueError(
        f"{architecture!r} cannot take images of {_pixels(size)} pixels{with_options}{reason}; "
        f"use model.net.resize={needed}{change}"
    )


def _names(net: nn.Module, layers: str | Sequence[str] | None) -> list[str]:
    """The names of those layers of a record that the network has and that hold a weight."""
    named = [layers] if isinstance(layers, str) else [*(layers or [])]
    modules = dict(net.named_modules())
    return [name for name in named if isinstance(getattr(modules.get(name), "weight", None), Tensor)]


def _fetch(preset: Any) -> Path:
    """Return timm's own weights in the cache of the Hugging Face hub or of torch, after downloading them if needed.

    DataError: the download failed.
    """
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    what = f"{preset.architecture}.{preset.tag} of timm"
    if not preset.hf_hub_id:
        return cached_download(preset.url, preset.url.rpartition("/")[2], what)
    repository, _, revision = preset.hf_hub_id.partition("@")
    name = preset.hf_hub_filename or "model.safetensors"
    cached = try_to_load_from_cache(repository, name, revision=revision or None)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(repository, name, revision=revision or None)
    return cached_download(url, f"{repository}-{revision}-{name}".replace("/", "-"), what)
