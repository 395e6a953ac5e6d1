"""Data sets of encoded pictures, which are decoded on demand."""

import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from fmx.data.picture import FORMATS, MODES, RESIZES, Resize, brought_to, holds_16_bits, read_original, read_picture
from fmx.errors import ConfigError, DataError

__all__ = ["PictureDataset"]

log = logging.getLogger(__name__)
NUM_CLASSES_LOOKED_AT = 32  # classes, of each of which two pictures are looked at


class PictureDataset(Dataset[tuple[Tensor, int]]):
    """Pictures as (uint8 (C, H, W), label), by the files that a subclass names.

    labels: int64 (N,), set by the subclass. Reading a picture that cannot be decoded raises DataError with its name.
    """

    labels: Tensor

    def __init__(self, *, size: tuple[int, int], in_channels: int, resize: Resize) -> None:
        if resize not in RESIZES:
            raise ConfigError(f"data.resize must be one of {', '.join(RESIZES)}, got {resize!r}")
        if in_channels not in MODES:
            raise ConfigError(f"data.in_channels must be 1 (grey) or 3 (RGB) for pictures, got {in_channels}")
        self.size = size
        self.mode = MODES[in_channels]
        self.resize = resize

    @abstractmethod
    def file(self, index: int) -> tuple[Path | IO[bytes], str]:
        """The file of a picture, or an open one, and its name in errors."""

    def begun_digest(self) -> blake2b:
        """A fingerprint's hash of what all pictures share and of the labels; the pictures are to be added."""
        digest = blake2b(repr((self.size, self.mode, self.resize)).encode(), digest_size=16)
        digest.update(self.labels.numpy().data)
        return digest

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._read(index, lambda file: read_picture(file, self.mode, self.size, self.resize))

    def original(self, index: int) -> tuple[Tensor, int]:
        """A picture at its own size, uint8 (C, H', W'), with its label."""
        return self._read(index, lambda file: read_original(file, self.mode))

    def to_size(self, picture: Tensor) -> Tensor:
        """Bring pixels uint8 (C, H', W') to the size of the others, as they are when a picture is read."""
        if tuple(picture.shape[1:]) == self.size:
            return picture
        pixels = picture.permute(1, 2, 0).contiguous().numpy()
        image = Image.fromarray(pixels[:, :, 0] if self.mode == "L" else pixels)
        return torch.from_numpy(brought_to(image, self.mode, self.size, self.resize))

    def warn_of_depth(self, where: str) -> bool:
        """Warn where a picture has 16 bits, by the headers of the first ones of each class; whether one has.

        where: `data.train`.
        """
        firsts = np.unique(self.labels.numpy(), return_index=True)[1]
        firsts = firsts[:: max(1, -(-len(firsts) // NUM_CLASSES_LOOKED_AT))]
        for index in sorted({*firsts.tolist(), *(firsts + 1).clip(max=len(self) - 1).tolist()}):
            file, name = self.file(index)
            try:
                with warnings.catch_warnings(), Image.open(file, formats=FORMATS) as image:
                    is_deep = holds_16_bits(image)
            except Exception:  # noqa: BLE001, S112 - reading the picture will say so
                continue
            if is_deep:
                log.warning(
                    "%s: pictures such as %s hold 16 bits for each value and are read as 8 (divided by 256); for all "
                    "of their depth read them in a function of your own: docs/own_parts.md", where, name
                )  # fmt: skip
                return True
        return False

    def _read(self, index: int, reader: Callable[[Path | IO[bytes]], NDArray[np.uint8]]) -> tuple[Tensor, int]:
        file, name = self.file(index)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about odd metadata; real problems raise
                pixels = reader(file)
        except UnidentifiedImageError as error:
            raise DataError(f"{name} is no image of a known kind; replace or remove it") from error
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            raise DataError(f"{name} cannot be read as an image: {error}; replace or remove it") from error
        return torch.from_numpy(pixels), int(self.labels[index])
