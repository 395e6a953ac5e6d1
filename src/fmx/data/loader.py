"""Batches of images: one indexed gather from memory, or a worker DataLoader for what does not fit in memory."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fmx.data.arrays import ImageArrays

__all__ = ["ArrayLoader", "Order", "image_loader"]

Batch = tuple[Tensor, Tensor]  # images uint8 (B, C, H, W), labels int64 (B,)


class Order(Sampler[int]):
    """The order in which one epoch visits the images: a function of seed, epoch and rank alone.

    indices: int64 (M,), the images that take part. Every rank draws the same permutation and takes its own share of
    it; with `equal_shares` the last ranks repeat a few images, so that all ranks make the same number of steps, and
    without it no image is seen twice.
    """

    def __init__(
        self, indices: Tensor, *, shuffle: bool, seed: int, rank: int, world_size: int, equal_shares: bool
    ) -> None:
        self.all_indices = indices
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.equal_shares = equal_shares
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def indices(self) -> Tensor:
        """Return the images of this rank in the order of this epoch, int64."""
        order = self.all_indices
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
            order = order[torch.randperm(len(order), generator=generator)]
        if self.equal_shares and len(order) % self.world_size:
            order = torch.cat([order, order[: self.world_size - len(order) % self.world_size]])
        return order[self.rank :: self.world_size]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices().tolist())

    def __len__(self) -> int:
        total = len(self.all_indices)
        share = len(range(self.rank, total, self.world_size))
        return -(-total // self.world_size) if self.equal_shares else share


class ArrayLoader:
    """Iterates over batches that are gathered from arrays held on the training device.

    Yields images uint8 (B, C, H, W) and labels int64 (B,). `sampler` is where Lightning looks for set_epoch.
    """

    batch_sampler = None  # Lightning looks here too

    def __init__(
        self, arrays: ImageArrays, order: Order, *, batch_size: int, drop_last: bool, device: torch.device
    ) -> None:
        self.images = arrays.images.to(device)
        self.labels = arrays.labels.to(device)
        self.sampler = order
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[Batch]:
        order = self.sampler.indices().to(self.images.device)
        for chunk in torch.split(order, self.batch_size)[: len(self)]:
            yield self.images.index_select(0, chunk), self.labels.index_select(0, chunk)

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1


def image_loader(
    source: ImageArrays | Dataset[tuple[Tensor, int]],
    order: Order,
    *,
    batch_size: int,
    drop_last: bool,
    num_workers: int,
    device: torch.device,
) -> "ArrayLoader | DataLoader[tuple[Tensor, int]]":
    """The right loader for a source: a gather for arrays, worker processes for a dataset that reads files."""
    if isinstance(source, ImageArrays):
        return ArrayLoader(source, order, batch_size=batch_size, drop_last=drop_last, device=device)
    return DataLoader(
        source,
        batch_size=batch_size,
        sampler=order,
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
    )
