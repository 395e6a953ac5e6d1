"""The first training images are augmented and normalised before training, and what comes out is checked."""

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn

from fmx.data.module import ImageDataModule
from fmx.data.picture_dataset import PictureDataset
from fmx.data.seeded_dataset import generators_in, kept_states, seed_generators
from fmx.errors import ConfigError, FmxError, first_line

__all__ = ["check_first_batch"]

log = logging.getLogger(__name__)
NUM_IMAGES = 32
FLAT, FAR = 0.1, 10.0  # standard deviation and mean of normalised pixels that no usual mean and std give
FROM_FILES = "fmx data prints their mean and deviation; read files of another range yourself: docs/own_parts.md"
EXCESS = 0.5  # of the range, by which noise and interpolation may leave it


def check_first_batch(data: ImageDataModule) -> None:
    """ConfigError where augmentation or normalisation make no images of the first ones; a warning if they are odd.

    It works on copies, on the CPU, and restores the states of all generators: a run is the same to the bit without it.
    """
    with kept_states():
        images, labels = data.first_images(min(NUM_IMAGES, data.batch_size))
    augment, normalize = _copied(data.augment), copy.deepcopy(data.normalize).cpu()
    with torch.no_grad(), kept_states(generators_in(augment)):
        seed_generators([data.seed])
        augmented = _augmented(augment, images.clone())
        _check_augmented(augmented, images, data)
        made: Tensor = normalize(augmented)
        mix = getattr(augment, "mix", None)
        if mix is not None:
            made = _mixed(mix, made, labels, data.num_classes)
    _check_normalised(made, data)


def _copied(augment: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(augment).cpu()
    except Exception:  # noqa: BLE001 - a user's module may hold what cannot be copied
        return augment


def _augmented(augment: nn.Module, images: Tensor) -> Any:
    try:
        return augment(images)
    except FmxError:
        raise
    except Exception as error:
        raise ConfigError(
            f"augment fails on the first training images, {_described(images)}: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def _mixed(mix: nn.Module, images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The mixed images; ConfigError where the labels are neither shares of the classes nor classes."""
    try:
        mixed, shares = mix(images, labels, num_classes)
        given = f"{_described(mixed)} and {_described(shares)}"
        fits = mixed.shape == images.shape and tuple(shares.shape) in {(len(labels), num_classes), (len(labels),)}
        fits = fits and shares.is_floating_point() == (shares.dim() == 2)  # noqa: PLR2004 - images and classes
    except FmxError:
        raise
    except Exception as error:
        raise ConfigError(
            f"augment.mix: {type(mix).__name__} fails on the first training images, {_described(images)}, their labels "
            f"and the number of classes: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not fits:
        raise ConfigError(
            f"augment.mix: {type(mix).__name__} makes {given} of the first training images, {_described(images)}; it "
            f"must give images of that shape, and labels: floats ({len(labels)}, {num_classes}), or classes "
            f"({len(labels)},)"
        )
    made: Tensor = mixed
    return made


def _check_augmented(augmented: Any, images: Tensor, data: ImageDataModule) -> None:
    given = f"augment makes {_described(augmented)} of the first training images, {_described(images)}"
    wanted = "it must keep their number, shape and range"
    if not isinstance(augmented, Tensor) or augmented.shape != (len(images), *data.input_shape):
        raise ConfigError(f"{given}; {wanted}")
    if augmented.is_floating_point() and not augmented.isfinite().all():
        raise ConfigError(f"{given}, some of which are NaN or infinite")
    if images.is_floating_point() and not augmented.is_floating_point():
        raise ConfigError(f"{given}; {wanted}: floats in 0..1")
    low, high = _bounds(augmented)
    if not images.is_floating_point() and augmented.is_floating_point() and high <= 1 < _bounds(images)[1]:
        raise ConfigError(
            f"{given}, with values from {low:.3g} to {high:.3g}: pixels from 0 to 255 are expected, which are divided "
            "by 255 afterwards. Leave out what converts or normalises (ToTensor, ToDtype, Normalize): fmx does both "
            "(data.normalize)"
        )
    white = data.normalize.white
    if low < -EXCESS * white or high > (1 + EXCESS) * white:
        log.warning(
            "%s, with values from %.3g to %.3g where 0 to %g are expected: leave out what normalises, which fmx does "
            "afterwards (data.normalize)", given, low, high, white
        )  # fmt: skip


def _check_normalised(made: Tensor, data: ImageDataModule) -> None:
    if made.shape[1:] != data.input_shape or not made.is_floating_point() or not made.isfinite().all():
        raise ConfigError(
            f"augment and data.normalize make {_described(made)} of the first training images, where finite floats "
            f"(N, {', '.join(map(str, data.input_shape))}) are needed"
        )
    values = made.double()
    mean, std = float(values.mean()), float(values.std(correction=0))
    if std < FLAT or abs(mean) > FAR:
        low, high = _bounds(data.first_images(min(NUM_IMAGES, data.batch_size))[0])
        files = isinstance(data.sources["train"], PictureDataset)
        log.warning(
            "the first training images have a mean of %.3g and a standard deviation of %.3g after normalisation, where "
            "about 0 and 1 are usual, and may teach little. Their pixels run from %.4g to %.4g of %g (%s); "
            "data.mean and data.std are of pixels in 0..1, or data.normalize=unit",
            mean, std, low, high, data.normalize.white, FROM_FILES if files else "data.value_range says what is white",
        )  # fmt: skip


def _bounds(images: Tensor) -> tuple[float, float]:
    low, high = images.aminmax()
    return float(low), float(high)


def _described(made: Any) -> str:
    if isinstance(made, Tensor):
        return f"{str(made.dtype).removeprefix('torch.')} {tuple(made.shape)}"
    return f"a {type(made).__name__}"
