"""Augmentations: each image drawn anew, nothing invented, type and shape kept."""

import pytest
import torch

from fmx.data.augment import RandomCrop, RandomErasing, RandomHorizontalFlip

IMAGES = torch.arange(64 * 2 * 6 * 8, dtype=torch.int64).remainder(250).add(1).to(torch.uint8).view(64, 2, 6, 8)


@pytest.mark.parametrize(
    "augment",
    [
        RandomHorizontalFlip(prob=0.5),
        RandomCrop(padding=2),
        RandomErasing(prob=1.0, area=[0.1, 0.3], aspect=[0.5, 2]),
    ],
    ids=lambda module: type(module).__name__,
)
def test_shape_and_type_stay_and_images_differ_in_what_is_drawn(augment):
    torch.manual_seed(0)
    same = IMAGES[:1].expand(64, -1, -1, -1)
    out = augment(same)
    assert out.shape == same.shape
    assert out.dtype == torch.uint8
    assert len(torch.unique(out.flatten(1), dim=0)) > 1, "each image must be drawn by itself"
    torch.manual_seed(0)
    assert torch.equal(out, augment(same)), "the draw must follow torch's seed"


def test_flip_mirrors_about_half_of_the_images():
    torch.manual_seed(0)
    flipped = (RandomHorizontalFlip(prob=0.5)(IMAGES) == IMAGES.flip(3)).flatten(1).all(1)
    kept = (RandomHorizontalFlip(prob=0.0)(IMAGES) == IMAGES).all()
    assert 16 < flipped.sum() < 48
    assert kept
    assert torch.equal(RandomHorizontalFlip(prob=1.0)(IMAGES), IMAGES.flip(3))


def test_crop_is_a_shift_with_black_from_outside():
    torch.manual_seed(0)
    out = RandomCrop(padding=1)(IMAGES)
    padded = torch.nn.functional.pad(IMAGES, [1] * 4)
    seen = set()
    for before, after in zip(padded, out, strict=True):
        shifts = [(y, x) for y in range(3) for x in range(3) if torch.equal(before[:, y : y + 6, x : x + 8], after)]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) == 9


def test_erasing_blacks_out_one_rectangle_of_the_right_size():
    torch.manual_seed(0)
    images = torch.full((500, 1, 28, 28), 200, dtype=torch.uint8)
    out = RandomErasing(prob=0.5, area=[0.05, 0.2], aspect=[0.5, 2.0])(images)
    erased = (out == 0).squeeze(1)
    touched = erased.flatten(1).any(1)
    assert 200 < touched.sum() < 300
    rows, columns = erased.any(2).sum(1)[touched], erased.any(1).sum(1)[touched]
    area = erased.flatten(1).sum(1)[touched]
    assert torch.equal(area, rows * columns), "a rectangle, and only one"
    assert (area / 784).min() > 0.03
    assert (area / 784).max() < 0.25


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match="from 0 to 1"):
        RandomHorizontalFlip(prob=1.5)
    with pytest.raises(ValueError, match="at least 0"):
        RandomCrop(padding=-1)
