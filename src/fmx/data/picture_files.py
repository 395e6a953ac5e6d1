"""Pictures in files of any names, each with its label."""

from collections.abc import Sequence
from functools import cached_property
from hashlib import file_digest
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fmx.config.image_size import shortest_form
from fmx.data.picture import FORMATS, Resize
from fmx.data.picture_dataset import PictureDataset
from fmx.errors import DataError

__all__ = ["NUM_LOOKED_AT", "PictureFiles", "size_and_channels", "usual_shape"]

NUM_LOOKED_AT = 100  # pictures, by their headers
MAX_OWN_SIZE = 128  # pixels; pictures of one larger size, or of several, become USUAL_SIZE
USUAL_SIZE = 64


class PictureFiles(PictureDataset):
    """Picture files as (uint8 (C, H, W), label), decoded on demand as ImageFolder does.

    labels: int64 (N,). root: the folder to which the fingerprint's names are relative. what: the set's name in errors.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: NDArray[np.int64],
        *,
        root: str,
        size: tuple[int, int],
        in_channels: int,
        resize: Resize,
        what: str,
    ) -> None:
        super().__init__(size=size, in_channels=in_channels, resize=resize)
        self.files = list(files)
        self.labels = torch.from_numpy(np.asarray(labels, dtype=np.int64))
        self.root = root
        self.what = what

    def file(self, index: int) -> tuple[Path, str]:
        """The path of a picture, and its name in errors."""
        return self.files[index], f"{self.files[index]} of {self.what}"

    def fingerprint(self) -> str:
        """Hash names, contents, labels and the shape; reads every file, once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = self.begun_digest()
        for path in self.files:
            try:
                with path.open("rb") as file:
                    contents = file_digest(file, "sha256").digest()
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
            digest.update(f"{name}\0".encode(errors="surrogateescape") + contents)
        return digest.hexdigest()


def size_and_channels(files: Sequence[Path]) -> tuple[int, int | list[int]]:
    """Channels, and the size of small pictures that are all alike, by their headers; else 64 pixels."""
    headers = []
    for path in files[:: max(1, len(files) // NUM_LOOKED_AT)]:
        try:
            with Image.open(path, formats=FORMATS) as image:
                headers.append((image.height, image.width, image.mode))
        except OSError as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error
    return usual_shape(headers)


def usual_shape(headers: Sequence[tuple[int, int, str]]) -> tuple[int, int | list[int]]:
    """Channels and size of pictures by the height, width and mode of some; 64 pixels where they differ or are large."""
    sizes = {(height, width) for height, width, _ in headers}
    channels = 1 if {mode for _, _, mode in headers} <= {"1", "L"} else 3
    if len(sizes) > 1 or max(max(sizes)) > MAX_OWN_SIZE:
        return channels, USUAL_SIZE
    return channels, shortest_form(sizes.pop())
