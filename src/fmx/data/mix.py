"""Label-aware augmentations: each training image becomes a mixture of two, and its label one of their labels.

A mixture takes normalised images (B, C, H, W) and integer labels (B,), and gives images of that shape and labels
(B, K), the share of each class. The partner of an image is the one before it in the batch, which is in random order.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Beta

__all__ = ["CutMix", "MixUp", "MixUpOrCutMix"]


class Mixture(nn.Module, ABC):
    """Mixes each image with the one before it, by a share for each pixel that a subclass draws."""

    @abstractmethod
    def shares(self, images: Tensor) -> Tensor:
        """Draw which share of each pixel an image keeps, (B, 1, H, W) or (B, 1, 1, 1)."""

    def forward(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return mixed images and labels float32 (B, K)."""
        shares = self.shares(images).to(images.dtype)
        partners = images.roll(1, 0)
        own = shares.float().mean((1, 2, 3)).unsqueeze(1)  # (B, 1)
        # A comparison instead of one_hot, which waits for the GPU to check the labels.
        classes = (labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)).float()  # (B, K)
        return partners + shares * (images - partners), own * classes + (1 - own) * classes.roll(1, 0)


class MixUp(Mixture):
    """A weighted mean of two images, the weight from Beta(alpha, alpha) (Zhang et al., 2018, arXiv:1710.09412)."""

    alpha: Tensor

    def __init__(self, *, alpha: float) -> None:
        super().__init__()
        self.register_buffer("alpha", _positive(alpha), persistent=False)

    def shares(self, images: Tensor) -> Tensor:
        """Draw one share for each image, (B, 1, 1, 1)."""
        return _beta(self.alpha, len(images)).view(-1, 1, 1, 1)


class CutMix(Mixture):
    """A rectangle of one image in another one (Yun et al., 2019, arXiv:1905.04899).

    The rectangle has the image's shape and a share of its area from Beta(alpha, alpha), its middle lies anywhere, and
    what falls outside is cut off; labels are mixed by the pixels that remain.
    """

    alpha: Tensor

    def __init__(self, *, alpha: float) -> None:
        super().__init__()
        self.register_buffer("alpha", _positive(alpha), persistent=False)

    def shares(self, images: Tensor) -> Tensor:
        """Draw 0 inside a rectangle of each image and 1 outside, (B, 1, H, W)."""
        (size, _, height, width), device = images.shape, images.device
        side = (1 - _beta(self.alpha, size)).sqrt().unsqueeze(1)  # (B, 1), share of the height and of the width
        y, x = torch.rand(2, size, 1, device=device)
        inside_rows = _interval(y * height, side * height, height)  # (B, H)
        inside_columns = _interval(x * width, side * width, width)  # (B, W)
        return 1 - (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]).float()


class MixUpOrCutMix(Mixture):
    """MixUp with probability `mixup_prob`, else CutMix, drawn for each image."""

    def __init__(self, *, mixup_alpha: float, cutmix_alpha: float, mixup_prob: float) -> None:
        super().__init__()
        if not 0 <= mixup_prob <= 1:
            raise ValueError(f"mixup_prob must be from 0 to 1, got {mixup_prob}")
        self.mixup, self.cutmix = MixUp(alpha=mixup_alpha), CutMix(alpha=cutmix_alpha)
        self.mixup_prob = mixup_prob

    def shares(self, images: Tensor) -> Tensor:
        """Draw the shares of one of both for each image, (B, 1, H, W)."""
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < self.mixup_prob
        return torch.where(chosen, self.mixup.shares(images), self.cutmix.shares(images))


def _positive(alpha: float) -> Tensor:
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    return torch.tensor(float(alpha))


def _beta(alpha: Tensor, size: int) -> Tensor:
    """Draw (B,) numbers from Beta(alpha, alpha); without torch's checks, which wait for the GPU."""
    drawn: Tensor = Beta(alpha, alpha, validate_args=False).sample((size,))
    return drawn


def _interval(middle: Tensor, length: Tensor, end: int) -> Tensor:
    """Which whole numbers below `end` lie in an interval around each middle, (B, end)."""
    place = torch.arange(end, device=middle.device)
    return (place >= (middle - length / 2).round()) & (place < (middle + length / 2).round())
