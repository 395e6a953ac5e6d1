"""Augmentations of batches (B, C, H, W), uint8 or floats in 0..1: random for each image, on the images' device."""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor, nn

__all__ = ["RandomAffine", "RandomCrop", "RandomErasing", "RandomHorizontalFlip"]


class RandomHorizontalFlip(nn.Module):
    """Mirrors each image left to right with a given probability."""

    takes_batches = True

    def __init__(self, *, prob: float) -> None:
        super().__init__()
        self.prob = _probability(prob, "augment.prob")

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape and type."""
        mirrored = torch.rand(len(images), device=images.device) < self.prob
        if images.is_floating_point():
            return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        # uint8 wraps around, so this is exact; torch.where handles one byte at a time, which takes twice as long.
        return images + (images.flip(3) - images) * mirrored.view(-1, 1, 1, 1)


class RandomCrop(nn.Module):
    """Shifts each image by up to `padding` pixels in each direction; pixels from outside are black."""

    takes_batches = True

    def __init__(self, *, padding: int) -> None:
        super().__init__()
        if padding < 0:
            raise ValueError(f"augment.padding must be at least 0 pixels, got {padding}")
        self.padding = padding

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape and type."""
        size, (_, _, height, width) = len(images), images.shape
        padded = nn.functional.pad(images, [self.padding] * 4)
        top, left = torch.randint(2 * self.padding + 1, (2, size, 1), device=images.device).flatten(1)
        # Views of all windows of the padded images: indexing them copies whole rows instead of pixels.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2 padding + 1, 2 padding + 1, H, W)
        image = torch.arange(size, device=images.device)
        cropped: Tensor = windows[image, :, top, left]
        return cropped


class RandomErasing(nn.Module):
    """Blacks out a random rectangle of each image with a given probability (Zhong et al., 2020, arXiv:1708.04896).

    area: smallest and largest share of the image; aspect: smallest and largest height over width, drawn on a log scale.
    """

    takes_batches = True

    def __init__(self, *, prob: float, area: Sequence[float], aspect: Sequence[float]) -> None:
        super().__init__()
        self.prob = _probability(prob, "augment.prob")
        smallest, largest = area
        if not 0 <= smallest <= largest <= 1:
            raise ValueError(f"augment.area must be two shares of the image, the smaller one first, got {list(area)}")
        flattest, tallest = aspect
        if not 0 < flattest <= tallest:
            raise ValueError(f"augment.aspect must be two numbers above 0, the smaller one first, got {list(aspect)}")
        self.area = (smallest, largest)
        self.log_aspect = (float(torch.tensor(flattest).log()), float(torch.tensor(tallest).log()))

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape and type."""
        size, (_, _, height, width), device = len(images), images.shape, images.device
        chance, area, aspect, y, x = torch.rand(5, size, 1, device=device)
        area = (self.area[0] + area * (self.area[1] - self.area[0])) * height * width  # pixels
        aspect = (self.log_aspect[0] + aspect * (self.log_aspect[1] - self.log_aspect[0])).exp()
        tall, wide = (area * aspect).sqrt().clamp(max=height), (area / aspect).sqrt().clamp(max=width)
        top, left = y * (height - tall), x * (width - wide)
        row, column = torch.arange(height, device=device), torch.arange(width, device=device)
        # Masks per row and per column keep the passes over the batch few; masked_fill would be slower.
        inside_rows = (row >= top.round()) & (row < (top + tall).round()) & (chance < self.prob)  # (B, H)
        inside_columns = (column >= left.round()) & (column < (left + wide).round())  # (B, W)
        erased = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]  # (B, 1, H, W)
        kept: Tensor = images * ~erased
        return kept


class RandomAffine(nn.Module):
    """Turns each image by up to `degrees`, either way, and shifts it by up to a share of its height and width.

    Bilinear; what comes from outside is black. As torchvision's RandomAffine, for a whole batch.
    """

    takes_batches = True

    def __init__(self, *, degrees: float, shift: float) -> None:
        super().__init__()
        if not 0 <= degrees <= 180:  # noqa: PLR2004
            raise ValueError(f"augment.degrees must be from 0 to 180, got {degrees}")
        if not 0 <= shift <= 1:
            raise ValueError(f"augment.shift must be a share of the image from 0 to 1, got {shift}")
        self.degrees = degrees
        self.shift = shift

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape and type."""
        size, (_, _, height, width) = len(images), images.shape
        angle, right, down = torch.rand(3, size, device=images.device) * 2 - 1
        angle = angle * (self.degrees * pi / 180)
        cos, sin = angle.cos(), angle.sin()
        # affine_grid measures from the middle, half a side being 1, so a turn has to mind the sides' ratio.
        x = torch.stack([cos, -sin * (height / width), 2 * self.shift * right], dim=1)
        y = torch.stack([sin * (width / height), cos, 2 * self.shift * down], dim=1)
        grid = nn.functional.affine_grid(torch.stack([x, y], dim=1), list(images.shape), align_corners=False)
        moved = nn.functional.grid_sample(images.float(), grid, align_corners=False)
        return moved.round_().to(images.dtype) if not images.dtype.is_floating_point else moved.to(images.dtype)


def _probability(prob: float, key: str) -> float:
    if not 0 <= prob <= 1:
        raise ValueError(f"{key} must be from 0 to 1, got {prob}")
    return prob
