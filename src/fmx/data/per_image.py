"""Transforms that draw once for a whole call, applied to one image at a time, so that each image is drawn anew."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fmx.data.seeded_dataset import generators_in, kept_states, seed_generators
from fmx.errors import ConfigError, FmxError, first_line

__all__ = ["Augmentation", "PerImage", "augmentation"]

Transform = Callable[..., Any]
PICTURE_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
TRIALS = 64  # a policy draws one of a dozen changes, and some may refuse the images
LARGE = 2**18  # numbers in an image, from which on two trials must do
COLOURS = ("saturation", "hue")
OF_LABELS = {"MixUp": "mixup", "CutMix": "cutmix"}  # of torchvision, which also take labels


class Augmentation(nn.Module):
    """An augmentation in up to four parts, each of which may be missing.

    at_source: maps one image of any size, a picture as it was decoded, to uint8 (C, H', W'), before it is resized.
    per_image: maps one image, uint8 (C, H, W) or a PIL picture, to uint8 (C, H', W'); it runs where images are loaded.
    batched: maps uint8 (B, C, H, W) to the same on the training device, random for each image.
    mix: maps normalised images, integer labels (B,) and the number of classes K to mixed images and labels (B, K).
    """

    def __init__(
        self,
        *,
        at_source: "PerImage | None" = None,
        per_image: "PerImage | None",
        batched: nn.Module,
        mix: nn.Module | None,
    ) -> None:
        super().__init__()
        self.at_source = at_source
        self.per_image = per_image
        self.batched = batched
        self.mix = mix

    def forward(self, images: Tensor) -> Tensor:
        """Apply the batched part to uint8 (B, C, H, W)."""
        changed: Tensor = self.batched(images)
        return changed


class PerImage:
    """Applies transforms one after the other to one image: uint8 (C, H, W) or a PIL picture to uint8 (C, H', W').

    A transform of albumentations gets an array (H, W, C) by the keyword `image`; one of fmx a batch of one; any other a
    tensor (C, H, W), or a PIL picture if it refuses tensors. shape: of an image (C, H, W), on which all are tried.
    ConfigError: a transform fails, or does not return an image with the same type and channels.
    """

    def __init__(self, transforms: Sequence[Transform], shape: tuple[int, int, int]) -> None:
        self.transforms = list(transforms)
        self._takes_pictures = [False for _ in self.transforms]
        self._try(shape)

    @property
    def names(self) -> str:
        """The names of the transforms."""
        return ", ".join(map(_name, self.transforms))

    def __call__(self, image: Tensor | Image.Image) -> Tensor:
        """Return the changed image."""
        changed: Any = image
        for transform, takes_pictures in zip(self.transforms, self._takes_pictures, strict=True):
            changed = _applied(transform, changed, takes_pictures=takes_pictures)
        made = _as_tensor(changed)
        if isinstance(image, Tensor) and (made.dtype != image.dtype or len(made) != len(image)):
            raise ConfigError(self._wrong(made, image))
        return made

    def _try(self, shape: tuple[int, int, int]) -> None:
        """Find out what each transform takes; ConfigError where it takes none of it, at one of many draws."""
        with kept_states(own := generators_in(self.transforms)):
            for trial in range(TRIALS if np.prod(shape) < LARGE else 2):
                seed_generators([trial], own)
                image: Any = torch.randint(256, shape, dtype=torch.uint8)
                for place, transform in enumerate(self.transforms):
                    image = self._tried(place, transform, image, shape)
                if image.dtype != torch.uint8 or len(image) != shape[0]:
                    raise ConfigError(self._wrong(image, torch.empty(shape, dtype=torch.uint8)))

    def _tried(self, place: int, transform: Transform, image: Tensor, shape: tuple[int, int, int]) -> Tensor:
        try:
            return _as_tensor(_applied(transform, image, takes_pictures=self._takes_pictures[place]))
        except FmxError:
            raise
        except Exception as error:  # noqa: BLE001 - anyone's code
            refusal = error
        if shape[0] in PICTURE_CHANNELS and not self._takes_pictures[place]:
            try:
                picture = _as_tensor(_applied(transform, image, takes_pictures=True))
            except Exception:  # noqa: BLE001, S110 - the refusal of the tensor says more
                pass
            else:
                self._takes_pictures[place] = True
                return picture
        raise ConfigError(
            f"augment: {_name(transform)} cannot take an image of shape {shape} (data.in_channels, data.image_size), "
            f"neither as a tensor nor as a picture: {type(refusal).__name__}: {first_line(refusal)}. A module of your "
            "own that takes whole batches (B, C, H, W) says so by its attribute takes_batches = True"
        ) from refusal

    def _wrong(self, given: Tensor, wanted: Tensor) -> str:
        return (
            f"augment: {self.names} makes {_described(given)} of {_described(wanted)}; it must keep the type and the "
            "channels. Leave out what converts or normalises (ToTensor, ToDtype, Normalize): fmx does both "
            "afterwards (data.normalize)"
        )


def augmentation(
    transform: Transform, *, mix: nn.Module | None, shape: tuple[int, int, int], at_source: Transform | None = None
) -> nn.Module:
    """What a data module augments with: a transform as it is if it takes whole batches, else an Augmentation.

    fmx's own modules, those of torch.nn and others with the attribute `takes_batches` draw for each image of a batch.
    Any other callable is applied to one image at a time, and with it what stands before it in a torch.nn.Sequential or
    in torchvision's Compose.
    shape: of an image (C, H, W). at_source: a transform of pictures as they were decoded, or None.
    """
    steps = list(_flattened(transform))
    for step in steps:
        _check_step(step, shape[0])
    first_batched = max((place + 1 for place, step in enumerate(steps) if not _takes_batches(step)), default=0)
    batched = nn.Sequential(*cast("list[nn.Module]", steps[first_batched:]))
    if at_source is not None:
        for step in (before := list(_flattened(at_source))):
            _check_step(step, shape[0])
    if not first_batched and mix is None and at_source is None:
        return transform if isinstance(transform, nn.Module) else batched
    return Augmentation(
        at_source=None if at_source is None else PerImage(before, shape),
        per_image=PerImage(steps[:first_batched], shape) if first_batched else None,
        batched=batched,
        mix=mix,
    )


def _flattened(transform: Transform) -> Iterator[Transform]:
    inner = list(transform) if type(transform) is nn.Sequential else None
    if type(transform).__name__ == "Compose" and _is_of(transform, "torchvision.transforms"):
        inner = list(transform.transforms)  # type: ignore[attr-defined]
    if inner is None:
        yield transform
        return
    for each in inner:
        yield from _flattened(each)


def _takes_batches(transform: Transform) -> bool:
    declared = _is_of(transform, "torch") or getattr(transform, "takes_batches", False)
    return bool(declared) and isinstance(transform, nn.Module)


def _check_step(step: Transform, in_channels: int) -> None:
    """ConfigError for what can be no part of an augmentation, or would do nothing."""
    if not callable(step):
        raise ConfigError(f"augment: {type(step).__name__} is not callable")
    of_torchvision = _is_of(step, "torchvision")
    if of_torchvision and (name := type(step).__name__) in OF_LABELS:
        raise ConfigError(f"augment: torchvision's {name} mixes labels too; type augment={OF_LABELS[name]}")
    for inner in getattr(step, "transforms", None) or () if of_torchvision else ():
        _check_step(inner, in_channels)
    if of_torchvision and in_channels == 1 and any(getattr(step, key, None) for key in COLOURS):
        raise ConfigError(
            f"augment: {type(step).__name__} changes saturation and hue, and images with data.in_channels=1 have no "
            "colour; for brightness and contrast alone set its saturation and hue to 0, as in "
            "augment=color augment.saturation=0 augment.hue=0"
        )


def _applied(transform: Transform, image: Any, *, takes_pictures: bool) -> Any:
    """One transform, on an image in the form that it takes."""
    if _takes_batches(transform):
        return transform(_as_tensor(image)[None])[0]
    if _is_of(transform, "albumentations"):
        return transform(image=np.ascontiguousarray(_as_tensor(image).permute(1, 2, 0).numpy()))["image"]
    return transform(_as_picture(image) if takes_pictures else _as_tensor(image))


def _as_tensor(image: Any) -> Tensor:
    """A tensor (C, H, W) of a tensor, a PIL picture or an array (H, W, C) or (H, W)."""
    if isinstance(image, Tensor):
        plain = image.as_subclass(Tensor)
    elif isinstance(image, Image.Image | np.ndarray):
        pixels = np.asarray(image)
        plain = torch.from_numpy(np.array(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)))
    else:
        raise ConfigError(f"augment: an image became a {type(image).__name__}: a transform must return an image")
    if plain.dim() != 3:  # noqa: PLR2004
        raise ConfigError(f"augment: an image became {_described(plain)}, and must stay (C, H, W)")
    return plain


def _as_picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    pixels = _as_tensor(image)
    if pixels.dtype != torch.uint8 or len(pixels) not in PICTURE_CHANNELS:
        raise ConfigError(f"augment: it takes PIL pictures, which {_described(pixels)} cannot be")
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    return Image.fromarray(array[:, :, 0] if len(pixels) == 1 else array)


def _is_of(transform: Transform, package: str) -> bool:
    return f"{type(transform).__module__}.".startswith(f"{package}.")


def _name(transform: Transform) -> str:
    function = getattr(transform, "func", transform)  # of a partial
    return str(getattr(function, "__name__", type(function).__name__))


def _described(image: Tensor) -> str:
    return f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
