"""Images of any kind, as uint8 from 0 to 255 or float32 in 0..1, channels first."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fmx.errors import ConfigError, DataError

__all__ = [
    "BYTES",
    "SLACK",
    "UINT16",
    "Kind",
    "Pixels",
    "UnitRange",
    "ValueRange",
    "check_item",
    "drawable",
    "image_of",
    "images_of",
    "kind_of",
    "read",
    "value_range_of",
]

log = logging.getLogger(__name__)
ValueRange = tuple[float, float]
Kind = Literal["uint8", "float32"]
BYTES: ValueRange = (0.0, 255.0)
UNIT: ValueRange = (0.0, 1.0)
UINT16 = 65_535.0
SLACK = 1e-3  # of the range, by which interpolated values may lie outside
EXCESS = 0.5  # of the range, by which a later item may lie outside, since its transform may add noise
AT_ONCE = 2**22  # numbers that are compared or converted at a time
DIM = 10  # share of the range that images leave unused, from which a warning says so
STACK = 3  # dimensions of (N, H, W)
RANGES: Sequence[ValueRange] = (UNIT, (-1.0, 1.0), BYTES, (0.0, UINT16))
FILLED = 0.9  # share of a usual range that values must span to be taken for it
DIGITS = 3  # of the values' own range, rounded outward


@dataclass(frozen=True)
class Pixels:
    """How the values of a source are read.

    kind: `uint8` (kept as they are) or `float32` (mapped to 0..1). value_range: the values of black and white.
    """

    kind: Kind
    value_range: ValueRange


def value_range_of(value_range: str | Sequence[float]) -> ValueRange | None:
    """The setting data.value_range as two numbers; None for `auto`."""
    if value_range == "auto":
        return None
    low, high = map(float, value_range)
    if low >= high:
        raise ConfigError(f"data.value_range must be [low, high] with low below high, got [{low:g}, {high:g}]")
    return low, high


def kind_of(array: NDArray[Any], value_range: ValueRange | None, where: str) -> Pixels:
    """How to read the values of an array; DataError for values that are no pixels, or of an unknown range.

    uint8 has 0..255, uint16 0..65535 and bool black and white. Other integers, and floats that hold whole numbers of
    which some are above 1, are uint8 if they fit. Other floats must be in 0..1. value_range replaces all that.
    """
    dtype = array.dtype
    found = f"images of type {dtype}"
    if dtype.kind not in "biuf":
        remedy = "give their magnitude, or real and imaginary part as channels" if dtype.kind == "c" else "give numbers"
        raise DataError(f"{where}: {found}; {remedy}: uint8, uint16 or float32")
    if dtype == np.uint8 and value_range in {None, BYTES}:
        return Pixels("uint8", BYTES)
    if dtype.kind == "b":
        return Pixels("uint8", UNIT)
    low, high = _bounds(array, where, found)
    if value_range is not None:
        _check_within(array, low, high, value_range, f"{where}: {found} hold")
        return Pixels("uint8" if value_range == BYTES and dtype.kind in "iu" else "float32", value_range)
    if dtype == np.uint16:
        if high < UINT16 / DIM:
            log.warning(
                "%s: %s are read as 0 to %g, but the largest value is %g: if they have fewer bits, set "
                "data.value_range=%s",
                where,
                found,
                UINT16,
                high,
                _likely(0, high, whole=True),
            )
        return Pixels("float32", (0.0, UINT16))
    if dtype.kind == "f" and low >= -SLACK and high <= 1 + SLACK:
        return Pixels("float32", UNIT)
    if low >= 0 and high <= BYTES[1] and (dtype.kind in "iu" or _is_whole(array)):
        log.info("%s: %s hold whole numbers from %g to %g: they are read as uint8", where, found, low, high)
        return Pixels("uint8", BYTES)
    auto = "0 to 1" if dtype.kind == "f" else "0 to 255"
    raise DataError(
        f"{where}: {found} hold values from {low:.6g} to {high:.6g}, where {auto} are expected; say which values are "
        f"black and white: data.value_range={_likely(low, high, whole=_is_whole(array))}"
    )


def _bounds(array: NDArray[Any], where: str, found: str) -> ValueRange:
    """The smallest and the largest value; DataError for NaN and infinity."""
    if array.size == 0:
        return UNIT
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        kind = "NaN" if np.isnan([low, high]).any() else "infinity"
        bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        raise DataError(
            f"{where}: {found} hold {kind}, first in image {int(bad[0])} ({len(bad):,} images in all); leave these "
            "images out, or replace such values"
        )
    return low, high


def check_item(array: NDArray[Any], pixels: Pixels, where: str) -> None:
    """DataError where an image contradicts what was found in those that decided how values are read."""
    if (array.dtype.kind == "b") != (pixels == Pixels("uint8", UNIT)):
        others = "others are not" if array.dtype.kind == "b" else "others are bool"
        raise DataError(f"{where} is {array.dtype}, and {others}; give all items the same type")
    if array.dtype.kind == "b" or (array.dtype == np.uint8 and (pixels.kind == "uint8" or pixels.value_range == BYTES)):
        return
    if array.dtype == np.uint8:
        raise DataError(f"{where} is uint8, and others are floats; give all items the same type")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise DataError(f"{where} holds NaN or infinity; leave it out, or replace such values")
    if pixels.kind == "float32":
        _check_within(array, low, high, pixels.value_range, f"{where} holds", slack=EXCESS)
    elif low < 0 or high > BYTES[1]:
        raise DataError(f"{where} holds values from {low:g} to {high:g}, and others 0 to 255")
    elif array.dtype.kind == "f" and not _is_whole(array):
        raise DataError(
            f"{where} holds fractions, and others whole numbers, so all would be read as uint8; say which values are "
            f"black and white: data.value_range={'[0,1]' if high <= 1 else '[0,255]'}"
        )


def _check_within(
    array: NDArray[Any], low: float, high: float, value_range: ValueRange, what: str, *, slack: float = SLACK
) -> None:
    black, white = value_range
    outside = slack * (white - black)
    if low < black - outside or high > white + outside:
        raise DataError(
            f"{what} values from {low:.6g} to {high:.6g}, outside of data.value_range=[{black:g}, {white:g}]; use "
            f"data.value_range={_likely(min(low, black), max(high, white), whole=_is_whole(array))}"
        )


def _is_whole(array: NDArray[Any]) -> bool:
    flat = array.reshape(-1)
    parts = (flat[first : first + AT_ONCE] for first in range(0, flat.size, AT_ONCE))
    return all(bool((part == np.rint(part)).all()) for part in parts)


def _likely(low: float, high: float, *, whole: bool) -> str:
    """A range to suggest for values: a usual one that they fill, that of their bits, or their own, rounded outward."""
    for black, white in RANGES:
        if black <= low and high <= white and high - low >= FILLED * (white - black):
            return f"[{black:g},{white:g}]"
    if whole and low >= 0 and high <= UINT16:  # the largest value that was found is an accident
        return f"[0,{2 ** max(1, int(high).bit_length()) - 1}]"
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0)
    step = 10.0 ** (math.floor(math.log10(high - low)) + 1 - DIGITS)
    low, high = math.floor(round(low / step, DIGITS)) * step, math.ceil(round(high / step, DIGITS)) * step
    return f"[{low:.6g},{high:.6g}]"


def images_of(given: Any, shape: tuple[int, int, int], where: str, *, is_certain: bool = False) -> NDArray[Any]:
    """Images as an array (N, C, H, W) of any type, a view where that is possible; DataError for another shape.

    given: (N, C, H, W), (N, H, W, C), or with one channel (N, H, W) or (N, H * W); a tensor, an array or a list.
    is_certain: whether channels are known to come first where both layouts fit, as they do in tensors.
    """
    array = _as_array(given, where)
    if array.ndim and not len(array):
        raise DataError(f"{where} has no images")
    found = f"images of shape {array.shape} and type {array.dtype}"
    if not is_certain:
        _check_layout(given, array.shape[1:], f"{where} has {found}")
    images = _channels_first(array, shape, where, found)
    if images.shape != array.shape:
        log.info("%s: %s are taken for (N, %s)", where, found, "H, W, C" if images.ndim == array.ndim else "H, W")
    return images


def image_of(given: Any, shape: tuple[int, int, int], where: str, *, is_first: bool = True) -> NDArray[Any]:
    """One image as an array (C, H, W); see `images_of`. is_first: whether no other has the wanted shape."""
    array = _as_array(given, where)
    found = f"shape {array.shape} and type {array.dtype}"
    _check_layout(given, array.shape, f"{where} has {found}")
    return np.asarray(_channels_first(array[None], shape, where, found, suggests=is_first)[0])


def _as_array(given: Any, where: str) -> NDArray[Any]:
    if isinstance(given, Tensor):
        tensor = given.detach().to_dense() if given.layout != torch.strided else given.detach()
        return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu())
    if isinstance(given, np.ndarray) and given.dtype.kind == "O" and given.ndim == 1:
        given = list(given)  # as NumPy holds images that differ in size
    if isinstance(given, list | tuple):
        each = [np.asarray(image.detach().cpu()) if isinstance(image, Tensor) else np.asarray(image) for image in given]
        if len(shapes := {image.shape for image in each}) > 1:
            two = " and ".join(map(str, sorted(shapes)[:2]))
            raise DataError(f"{where}: images of different shapes, such as {two}; bring them to one size")
        given = np.stack(each) if each else np.empty(0)
    if np.ma.is_masked(given):
        raise DataError(f"{where}: a masked array, of which some values are missing; fill them in, as by filled(0)")
    array = np.asarray(given)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_layout(given: Any, inner: tuple[int, ...], what: str) -> None:
    """ConfigError where channels may be first or last, as in (N, 12, 12, 12); of tensors they are first."""
    is_tensor = isinstance(given, Tensor) or (isinstance(given, list | tuple) and isinstance(given[0], Tensor))
    if len(inner) == STACK and 1 < inner[0] == inner[1] == inner[2] and not is_tensor:
        raise ConfigError(
            f"{what}: are channels first or last? Return a torch tensor with channels first, (N, C, H, W) or of one "
            "item (C, H, W), or fmx.data.arrays.ImageArrays, which are taken as they are (docs/own_parts.md)"
        )


def _channels_first(
    array: NDArray[Any], shape: tuple[int, int, int], where: str, found: str, *, suggests: bool = True
) -> NDArray[Any]:
    channels, height, width = shape
    if array.dtype.kind not in "biufc":
        raise DataError(
            f"{where}: {found}; give numbers of one shape: an array (N, C, H, W) of uint8, uint16 or float32"
        )
    inner = array.shape[1:]
    if inner == shape:
        return array
    if inner == (height, width, channels):
        return np.moveaxis(array, -1, 1)
    if channels == 1 and inner in {(height, width), (height * width,)}:
        return array.reshape(len(array), *shape)
    raise ConfigError(
        f"{where} has {found}, but data.in_channels and data.image_size say {shape}: give (N, {channels}, {height}, "
        f"{width}) or (N, {height}, {width}, {channels}){_other_size(inner, shape) if suggests else ''}"
    )


def _other_size(inner: tuple[int, ...], shape: tuple[int, int, int]) -> str:
    """The settings that fit the images, where they are certain."""
    layouts = {inner} if len(inner) == STACK else {(1, *inner)} if len(inner) == STACK - 1 else set()
    layouts |= {(each[-1], *each[:-1]) for each in layouts}
    few = [each for each in layouts if each[0] in {1, 3, shape[0]} and each[0] < min(each[1:])]
    if len(few) != 1:
        return ""
    channels, height, width = few[0]
    size = str(height) if height == width else f"[{height},{width}]"
    keys = [f"data.in_channels={channels}"] if channels != shape[0] else []
    keys += [f"data.image_size={size}"] if (height, width) != shape[1:] else []
    return f", or set {' '.join(keys)}"


def read(array: NDArray[Any], pixels: Pixels) -> Tensor:
    """Values of any type as a tensor of the same shape: uint8, or float32 in 0..1."""
    if pixels.kind == "uint8":
        if array.dtype.kind == "b":
            array = array * np.uint8(255)
        return torch.from_numpy(np.require(array, np.uint8, ["C", "W"]))
    low, high = pixels.value_range
    if array.dtype == np.float32 and pixels.value_range == UNIT:
        return torch.from_numpy(np.require(array, None, ["C", "W"]))
    values = torch.from_numpy(np.ascontiguousarray(array, np.float32).copy())
    return values.sub_(low).div_(high - low)


class UnitRange(nn.Module):
    """Maps pixels of any type from low..high to float32 in 0..1, as `read` does."""

    def __init__(self, *, low: float, high: float) -> None:
        super().__init__()
        self.low = low
        self.width = high - low

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return (pixels.float() - self.low) / self.width


def drawable(image: Tensor) -> Tensor:
    """An image uint8, or float in 0..1, as uint8."""
    return image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).to(torch.uint8)
