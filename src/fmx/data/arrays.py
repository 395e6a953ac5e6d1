"""A labelled set of images that fits in memory."""

from dataclasses import dataclass
from hashlib import blake2b

from torch import Tensor

__all__ = ["ImageArrays"]


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """All images of one set and their labels, as they are in the files: not scaled, not shuffled."""

    images: Tensor  # uint8 (N, C, H, W)
    labels: Tensor  # int64 (N,)

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Hash the shapes and bytes of both tensors: equal arrays from any file give equal text."""
        digest = blake2b(repr((tuple(self.images.shape), len(self.labels))).encode(), digest_size=16)
        for tensor in (self.images, self.labels):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()
