"""Arrays written as IDX files, or as CSV files in the layout of Kaggle's Fashion-MNIST."""

import struct
from pathlib import Path

import numpy as np
from torch import Tensor

from fmx.data.arrays import ImageArrays

__all__ = ["write_csv", "write_idx"]

UNSIGNED_BYTES = 0x08  # the type code of IDX


def write_idx(path: Path, tensor: Tensor) -> None:
    """Write images (N, 1, H, W) or labels (N,), all in 0..255, as an IDX file of unsigned bytes."""
    array = tensor.numpy().astype(np.uint8)
    if array.ndim > 1:
        array = array.squeeze(1)  # (N, H, W)
    with path.open("wb") as file:
        file.write(struct.pack(f">HBB{array.ndim}I", 0, UNSIGNED_BYTES, array.ndim, *array.shape))
        file.write(np.ascontiguousarray(array).data)


def write_csv(path: Path, arrays: ImageArrays) -> None:
    """Write a header `label,pixel1..pixelN` and one line per image: its label, then its pixels row by row."""
    pixels = arrays.images.flatten(1).numpy()
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write(",".join(["label", *(f"pixel{number}" for number in range(1, pixels.shape[1] + 1))]) + "\n")
        for label, row in zip(arrays.labels.tolist(), pixels.tolist(), strict=True):
            file.write(f"{label},{','.join(map(str, row))}\n")
