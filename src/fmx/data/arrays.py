"""A labelled set of images that fits in memory."""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

__all__ = ["ImageArrays", "mean_and_std"]


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """All images of one set and their labels, unscaled and in file order."""

    images: Tensor  # uint8 (N, C, H, W), or float32 in 0..1
    labels: Tensor  # int64 (N,)

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Hash the shapes and bytes of both tensors, whatever files they came from."""
        digest = blake2b(repr((tuple(self.images.shape), len(self.labels))).encode(), digest_size=16)
        for tensor in (self.images, self.labels):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def mean_and_std(arrays: ImageArrays) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all images, in 0..1, rounded to six digits."""
    channels = arrays.images.transpose(0, 1).flatten(1)  # (C, N H W)
    if channels.is_floating_point():
        exact = channels.double()
        mean, std = exact.mean(1), exact.std(1, correction=0)
    else:
        levels = torch.arange(256, dtype=torch.float64) / 255
        shares = torch.stack([channel.bincount(minlength=256).double() / channel.numel() for channel in channels])
        mean = shares @ levels
        std = (shares @ levels**2 - mean**2).sqrt()
    return [round(value, 6) for value in mean.tolist()], [round(value, 6) for value in std.tolist()]
