"""Pairs of images that are equal, or nearly so: of one set, or between two.

The measure is Pearson's correlation of all pixel values of two images: it stays the same under any change of brightness
and contrast. An image is also compared mirrored, and moved by a pixel in any direction: then over the area that both
have in common. A pair's correlation is the largest of these.

All pairs are compared, in blocks. Images are projected on few principal components p with a rest r. Of two images of
mean 0 and length 1 the correlation is p·q + r·s, which is at most p·q + |r||s| (Cauchy and Schwarz). Only pairs for
which that bound reaches the threshold are compared by all their pixels, so no pair is lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import NamedTuple

import torch
from torch import Tensor

from fmx.data.arrays import ImageArrays
from fmx.data.duplicates import hashes
from fmx.errors import DataError

__all__ = ["CHANGES", "MAX_PAIRS", "Change", "Pairs", "find_pairs", "num_flat"]

MAX_PAIRS = 500_000
NUM_COMPONENTS = 64  # of 28 × 28 pixels: of twice as many fewer pairs pass, but each block takes longer
NUM_SAMPLED = 512  # images that the components are of
BLOCK = 2048  # images
BLOCK_VALUES = 2**26  # pixel values of an image times images, to bound the memory
AT_ONCE = 2**21  # pixel values of pairs that are compared by all of them
DENSE = 0.01  # share of a block's pairs from which a matrix product is faster than reading them one by one
ROUNDING = 1e-5  # of float32, in sums of numbers below 1
EXACT_ROUNDING = 1e-9  # of float64
TINY = torch.finfo(torch.float32).tiny


class Change(NamedTuple):
    """What brings the second image of a pair onto the first: mirrored or not, then moved by so many pixels."""

    down: int
    right: int
    mirrored: bool


CHANGES = sorted(
    (Change(*each) for each in product((0, 1, -1), (0, 1, -1), (False, True))),
    key=lambda change: (change.mirrored, abs(change.down) + abs(change.right)),
)


@dataclass(frozen=True)
class Pairs:
    """Pairs of images by their positions, those with the largest correlation first; equal ones before all."""

    first: Tensor  # int64 (P,)
    second: Tensor  # int64 (P,), in the other set, or a later one of the same
    correlation: Tensor  # float64 (P,); 1 for equal images
    change: Tensor  # int64 (P,), a position in CHANGES
    equal: Tensor  # bool (P,): all bytes are equal

    def __len__(self) -> int:
        return len(self.first)


def find_pairs(first: ImageArrays, second: ImageArrays | None, *, threshold: float) -> Pairs:
    """All pairs of equal images, and of images with a correlation of at least `threshold`, in 0..1.

    second: None for the pairs within the first. An image of a single value has no correlation, but may have equals.
    Raises DataError for more than MAX_PAIRS pairs.
    """
    width = len(first if second is None else second)
    equal = _equal_pairs(first, second)
    near = _near_pairs(first.images, None if second is None else second.images, threshold)
    keys = [pairs[:, 0] * width + pairs[:, 1] for pairs in (equal, near.pairs)]
    other = ~torch.isin(keys[1], keys[0])
    pairs, correlation, change = near.pairs[other], near.correlation[other], near.change[other]
    order = torch.argsort(correlation, descending=True, stable=True)
    none = torch.zeros(len(equal), dtype=torch.int64)
    return Pairs(
        first=torch.cat([equal[:, 0], pairs[order, 0]]),
        second=torch.cat([equal[:, 1], pairs[order, 1]]),
        correlation=torch.cat([torch.ones(len(equal), dtype=torch.float64), correlation[order]]),
        change=torch.cat([none, change[order]]),
        equal=torch.cat([none + 1, 0 * order]).bool(),
    )


def num_flat(arrays: ImageArrays) -> int:
    """The number of images of a single value, which have no correlation."""
    pixels = arrays.images.flatten(1)
    return int((pixels.amin(1) == pixels.amax(1)).sum())


def _equal_pairs(first: ImageArrays, second: ImageArrays | None) -> Tensor:
    """The pairs of images whose bytes are equal, int64 (P, 2)."""
    groups: dict[bytes, tuple[list[int], list[int]]] = {}
    for side, arrays in enumerate((first, second)):
        for index, digest in enumerate([] if arrays is None else hashes(arrays)):
            groups.setdefault(digest, ([], []))[side].append(index)
    counts = [
        len(ours) * (len(ours) - 1) // 2 if second is None else len(ours) * len(theirs)
        for ours, theirs in groups.values()
    ]
    if sum(counts) > MAX_PAIRS:
        raise DataError(
            f"there are {sum(counts):,} pairs of equal images, which are more than the {MAX_PAIRS:,} that can be "
            "listed; remove copies first"
        )
    pairs = [
        pair
        for ours, theirs in groups.values()
        for pair in (combinations(ours, 2) if second is None else product(ours, theirs))
    ]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


class _Near(NamedTuple):
    """Pairs (P, 2) with their correlations (P,) and changes (P,)."""

    pairs: Tensor
    correlation: Tensor
    change: Tensor


def _near_pairs(first: Tensor, second: Tensor | None, threshold: float) -> _Near:
    """Pairs by correlation alone, of images (N, C, H, W) and (M, C, H, W), or i < j within the first."""
    other = first if second is None else second
    components = _components(first)
    found = _Near(torch.empty(0, 2).long(), torch.empty(0).double(), torch.empty(0).long())
    for number, change in enumerate(CHANGES):
        if abs(change.down) >= first.shape[2] or abs(change.right) >= first.shape[3]:
            continue
        a, b = _Part(first, change, is_second=False), _Part(other, change, is_second=True)
        parts, count = [found], 0
        for pairs in _candidates(a, b, components, threshold, within=second is None):
            correlation = _correlation(a, b, pairs)
            kept = correlation >= threshold - EXACT_ROUNDING
            count += int(kept.sum())
            if count > MAX_PAIRS:
                raise _too_many(threshold)
            parts.append(_Near(pairs[kept], correlation[kept].clamp(max=1.0), torch.full_like(pairs[kept, 0], number)))
        found = _once_each(_Near(*map(torch.cat, zip(*parts, strict=True))), len(other))
        if len(found.pairs) > MAX_PAIRS:
            raise _too_many(threshold)
    return found


def _once_each(near: _Near, width: int) -> _Near:
    """Each pair once, by its largest correlation; among equals the first."""
    order = torch.argsort(near.correlation, descending=True, stable=True)
    keys = near.pairs[:, 0] * width + near.pairs[:, 1]
    order = order[torch.argsort(keys[order], stable=True)]
    kept = order[keys[order].diff(prepend=torch.tensor([-1])) > 0]
    return _Near(near.pairs[kept], near.correlation[kept], near.change[kept])


def _too_many(threshold: float) -> DataError:
    return DataError(
        f"more than {MAX_PAIRS:,} pairs have a correlation of at least {threshold:g}; choose a --threshold closer to 1"
    )


class _Part:
    """The pixels of images that a change leaves in common with the others.

    Where the second image is moved down by a pixel, its rows 0 to H - 2 lie on the first one's rows 1 to H - 1.
    """

    def __init__(self, images: Tensor, change: Change, *, is_second: bool) -> None:
        shifts = [-n if is_second else n for n in (change.down, change.right)]
        self.rows, self.columns = (
            slice(max(0, n), length + min(0, n)) for n, length in zip(shifts, images.shape[2:], strict=True)
        )
        self.images = images
        self.mirrored = is_second and change.mirrored
        self.size = images[0, :, self.rows, self.columns].numel()
        self.block = max(1, min(BLOCK, BLOCK_VALUES // images[0].numel()))

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, at: slice | Tensor) -> Tensor:
        """The common pixels of some images, (N, P)."""
        images = self.images[at]
        return (images.flip(3) if self.mirrored else images)[:, :, self.rows, self.columns].flatten(1)

    def standardised(self, at: slice) -> Tensor:
        """The same with mean 0 and length 1, float32; zeros for images of a single value."""
        values: Tensor = self.pixels(at).float()
        values = values - values.mean(1, keepdim=True)  # in memory of its own: these may be the set's own floats
        values /= values.norm(dim=1, keepdim=True).clamp(min=TINY)
        return values

    def projected(self, basis: Tensor) -> Tensor:
        """For each image its components (K,) and the length of the rest, float32 (N, K + 1). basis: (P, K)."""
        parts = []
        for start in range(0, len(self), self.block):
            values = self.standardised(slice(start, start + self.block)) @ basis
            rest = (1 - values.square().sum(1, keepdim=True)).clamp(min=0)
            parts.append(torch.cat([values, (rest + ROUNDING).sqrt()], dim=1))
        return torch.cat(parts)


def _components(images: Tensor) -> Tensor:
    """Orthonormal principal components (K, C, H, W) of images spread over the set."""
    sample = images[torch.linspace(0, len(images) - 1, min(NUM_SAMPLED, len(images))).long()].flatten(1).float()
    sample -= sample.mean(1, keepdim=True)
    sample /= sample.norm(dim=1, keepdim=True).clamp(min=TINY)
    number = min(NUM_COMPONENTS, *sample.shape)
    vectors = torch.linalg.eigh((sample @ sample.T).double()).eigenvectors[:, -number:]
    orthonormal = torch.linalg.qr(sample.double().T @ vectors).Q
    components: Tensor = orthonormal.T.float().reshape(number, *images.shape[1:])
    return components


def _candidates(a: _Part, b: _Part, components: Tensor, threshold: float, *, within: bool) -> Iterator[Tensor]:
    """Pairs (P, 2) by blocks that may reach the threshold; all that do are among them."""
    basis = components[:, :, a.rows, a.columns].flatten(1).T.contiguous()  # b's pixels lie on a's
    ours, theirs = a.projected(basis), b.projected(basis)
    for row in range(0, len(a), a.block):
        block = ours[row : row + a.block]
        for column in range(row if within else 0, len(b), b.block):
            near = _at_least(block @ theirs[column : column + b.block].T, threshold - ROUNDING)
            if len(near) > DENSE * a.block * b.block:
                rows, columns = slice(row, row + a.block), slice(column, column + b.block)
                near = _at_least(a.standardised(rows) @ b.standardised(columns).T, threshold - ROUNDING)
            pairs = near + torch.tensor([row, column])
            if within:
                pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            if len(pairs):
                yield pairs


def _at_least(values: Tensor, least: float) -> Tensor:
    """The places (P, 2) of the values that are large enough."""
    rows = (values.amax(1) >= least).nonzero().squeeze(1)
    places = (values[rows] >= least).nonzero()
    places[:, 0] = rows[places[:, 0]]
    return places


def _correlation(a: _Part, b: _Part, pairs: Tensor) -> Tensor:
    """Pearson's correlation of each pair (P, 2), float64 (P,); NaN with an image of a single value."""
    parts = []
    for chunk in torch.split(pairs, max(1, AT_ONCE // a.size)):
        x, y = a.pixels(chunk[:, 0]).double(), b.pixels(chunk[:, 1]).double()
        is_flat = (x == x[:, :1]).all(1) | (y == y[:, :1]).all(1)
        x -= x.mean(1, keepdim=True)
        y -= y.mean(1, keepdim=True)
        correlation = (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()
        parts.append(correlation.masked_fill(is_flat, torch.nan))
    return torch.cat(parts)
