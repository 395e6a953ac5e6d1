"""The input and the output of a trained model, as exported files store them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from fmx.config.image_size import height_and_width, is_image_size, shortest_form
from fmx.data.picture import Resize
from fmx.errors import ConfigError, DataError

if TYPE_CHECKING:  # an ONNX file is read without torch
    from omegaconf import DictConfig
    from torch import Tensor, nn

    from fmx.data.module import Normalize

__all__ = ["Signature", "Where", "signature_of"]

Where = Literal["inside", "outside"]
DARK = 0.4  # mean of all pixels in 0..1 below which grey pictures show light objects on a dark ground
IMAGE_FOLDER = "fmx.data.folder.ImageFolder"  # mostly photographs, which are not inverted when dark
STRETCHING = {IMAGE_FOLDER, "fmx.data.in_memory.in_memory"}
MAX_SIDE = 4096
MAX_CLASSES = 100_000
MAX_CHANNELS = 16
BYTES = [0.0, 255.0]


@dataclass(frozen=True)
class Signature:
    """Classes, input and preparation of one model.

    mean, std: one number per channel, of pixels in 0..1. `normalize` says whether the model applies them itself
    (inside: it takes pixels as the data set has them) or its caller does. `fit` and `light_on_dark` say how the
    training pictures looked: how they were brought to the image's size, and whether they show light objects on a dark
    ground. dtype and value_range are of the pixels: uint8 from 0 to 255, or float32 from black to white.
    temperature: what the model divides its logits by; 1 unless it is calibrated.
    """

    model: str
    data: str
    class_names: list[str]
    english_names: list[str] | None
    in_channels: int
    image_size: int | list[int]  # a square, or height and width
    mean: list[float]
    std: list[float]
    normalize: Where
    fit: Resize
    light_on_dark: bool
    dtype: Literal["uint8", "float32"] = "uint8"  # files of earlier versions lack what follows
    value_range: list[float] = field(default_factory=lambda: [*BYTES])
    temperature: float = 1.0

    @property
    def input_dtype(self) -> str:
        """The type of numbers that the model takes."""
        return self.dtype if self.normalize == "inside" else "float32"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return self.in_channels, *height_and_width(self.image_size)

    def as_input(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The model's input for pixels (N, C, H, W): unchanged, or normalised float32 of the same shape."""
        if self.normalize == "inside":
            return pixels
        mean, std = (np.array(v, dtype=np.float32).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        normalised: NDArray[Any] = (self.in_unit_range(pixels) - mean) / std
        return normalised

    def in_unit_range(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Pixels as the data set has them, as float32 in 0..1."""
        low, high = map(np.float32, self.value_range)
        unit: NDArray[np.float32] = (pixels - low) / (high - low)
        return unit

    def as_in_data(self, unit: Any) -> Any:
        """An array or a tensor in 0..1 with the data set's black and white."""
        low, high = self.value_range
        return unit if (low, high) == (0, 1) else unit * (high - low) + low

    def normalization(self) -> "nn.Module":
        """The module that normalises pixels (N, C, H, W) as in training."""
        from torch import nn

        from fmx.data.module import Normalize
        from fmx.data.pixels import UnitRange

        if self.dtype == "uint8":
            return Normalize(mean=self.mean, std=self.std)
        low, high = self.value_range
        return nn.Sequential(UnitRange(low=low, high=high), Normalize(mean=self.mean, std=self.std, white=1))

    def stored(self, image: "Tensor") -> "Tensor":
        """An image of the data module, uint8 or float in 0..1, with the values that the data set has."""
        return image if self.dtype == "uint8" else self.as_in_data(image)

    def to_texts(self) -> dict[str, str]:
        """One JSON text per field."""
        return {name: json.dumps(value, ensure_ascii=False) for name, value in asdict(self).items()}

    def to_json(self) -> str:
        """All fields as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], source: object) -> Self:
        """The inverse of to_texts; DataError, which names `source`, for invalid texts."""
        try:
            given = {each.name: json.loads(texts[each.name]) for each in fields(cls) if each.name in texts}
            signature = cls(**given)
        except (KeyError, ValueError, TypeError, RecursionError):
            raise DataError(f"{source} is not from fmx export: it lacks its classes and its input") from None
        if not signature.is_sound():
            raise DataError(f"{source} has classes or an input that cannot be right")
        return signature

    def is_sound(self) -> bool:
        """Whether every field is of the right type and within bounds."""
        names = [self.class_names, *([] if self.english_names is None else [self.english_names])]
        return (
            isinstance(self.model, str)
            and isinstance(self.data, str)
            and all(_is_list(n, str) and 1 < len(n) <= MAX_CLASSES for n in names)
            and len({len(n) for n in names}) == 1
            and len(set(self.class_names)) == len(self.class_names)
            and _is_whole(self.in_channels, MAX_CHANNELS)
            and is_image_size(self.image_size)
            and max(self.shape[1:]) <= MAX_SIDE
            and all(_is_list(v, float) and len(v) in {1, self.in_channels} for v in (self.mean, self.std))
            and min(self.std) > 0
            and self.normalize in get_args(Where)
            and self.fit in get_args(Resize)
            and isinstance(self.light_on_dark, bool)
            and self.dtype in {"uint8", "float32"}
            and _is_range(self.value_range)
            and (self.dtype == "float32" or self.value_range == BYTES)
            and isinstance(self.temperature, float)
            and 0 < self.temperature < inf
        )


def signature_of(config: "DictConfig", *, normalize: Where, record: Mapping[str, Any]) -> Signature:
    """The signature of a run's model, from its configuration and its run.json: no data set is needed."""
    from omegaconf import OmegaConf

    data: Any = OmegaConf.to_container(config.data, resolve=True)
    try:
        recorded = record.get("data", {})
        signature = replace(
            _from_data(config.model.name, data, normalize),
            dtype=recorded.get("dtype", "uint8"),
            value_range=recorded.get("value_range", BYTES),
        )
    except (ArithmeticError, AttributeError, ConfigError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"the run's configuration of its data is damaged: {error!r:.300}") from error
    if not signature.is_sound():
        raise DataError("the run's configuration of its data has classes or an input that cannot be right")
    return signature


def _from_data(model: str, data: Any, normalize: Where) -> Signature:
    """The signature for a resolved `data` node."""
    from fmx.data.module import english_names, names_of_classes, normalization

    applied = normalization(data["normalize"], data["mean"], data["std"], data["in_channels"])
    mean, std = _mean_and_std(applied)
    target = data["train"]["_target_"]
    grey, brightness = data["in_channels"] == 1, sum(data["mean"]) / len(data["mean"])
    return Signature(
        model=model,
        data=data["name"],
        class_names=names_of_classes(data["class_names"], data["translations"], data["num_classes"]),
        english_names=english_names(data["translations"], data["num_classes"]),
        in_channels=data["in_channels"],
        image_size=shortest_form(data["image_size"]),
        mean=mean,
        std=std,
        normalize=normalize,
        fit=data["train"].get("resize", "stretch" if target in STRETCHING else "pad"),
        light_on_dark=target != IMAGE_FOLDER and grey and brightness < DARK,
    )


def _mean_and_std(applied: "Normalize") -> tuple[list[float], list[float]]:
    """The mean and std of a Normalize, to six digits: float32 has hardly more."""
    scale, shift = applied.scale.double().flatten(), applied.shift.double().flatten()
    std = 1 / (255 * scale)
    return _six_digits((0 - shift * std).tolist()), _six_digits(std.tolist())


def _six_digits(values: list[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_range(value: object) -> bool:
    return (
        isinstance(value, list)
        and [type(each) for each in value] == [float, float]
        and -inf < value[0] < value[1] < inf
    )


def _is_whole(value: object, at_most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= at_most
