"""Batches of images: one indexed gather from memory, or a worker DataLoader for what does not fit in memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fmx.data.arrays import ImageArrays
from fmx.data.sampling import drawn
from fmx.data.seeded_dataset import SampleKey, SeededDataset

__all__ = ["ArrayLoader", "EpochSampler", "ImageLoader", "image_loader"]

Batch = tuple[Tensor, Tensor]  # images uint8 (B, C, H, W), labels int64 (B,)


class EpochSampler(Sampler[SampleKey]):
    """The order in which one epoch visits the images: a function of seed, epoch and rank alone.

    indices: int64 (M,), the images that take part. weights: float64 (M,); an epoch with weights draws M images with
    replacement, in proportion to them. Every rank draws the same permutation and takes its own share of
    it; with `equal_shares` the last ranks repeat a few images, so that all ranks make the same number of steps, and
    without it no image is seen twice.
    """

    def __init__(
        self,
        indices: Tensor,
        *,
        shuffle: bool,
        seed: int,
        rank: int,
        world_size: int,
        equal_shares: bool,
        weights: Tensor | None = None,
    ) -> None:
        self.all_indices = indices
        self.weights = weights
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.equal_shares = equal_shares
        self.epoch = 0
        self.first = 0  # position of the first image that an iteration serves

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each."""
        self.epoch = epoch

    def indices(self, later: int = 0) -> Tensor:
        """Return the images of this rank in the order of this epoch, or of the one `later` epochs on, int64."""
        order = self.all_indices
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch + later)
            if self.weights is None:
                order = order[torch.randperm(len(order), generator=generator)]
            else:
                order = order[drawn(self.weights, generator)]
        if self.equal_shares and len(order) % self.world_size:
            order = torch.cat([order, order[: self.world_size - len(order) % self.world_size]])
        return order[self.rank :: self.world_size]

    def __iter__(self) -> Iterator[SampleKey]:
        served = self.indices()[self.first :].tolist()
        return (
            SampleKey(index, self.seed, self.epoch, self.rank, position)
            for position, index in enumerate(served, start=self.first)
        )

    def __len__(self) -> int:
        total = len(self.all_indices)
        share = len(range(self.rank, total, self.world_size))
        return -(-total // self.world_size) if self.equal_shares else share


class LoaderPosition:
    """The number of batches that an iteration has served, which Lightning saves and loads to resume within an epoch."""

    def __init__(self, order: EpochSampler) -> None:
        self._order = order
        self._start = self._served = 0
        self._epoch = -1  # of the batches that were served

    def begin(self) -> int:
        """Return the number of batches of this epoch that were served before an interruption; else 0."""
        self._served, self._start = self._start, 0
        self._epoch = self._order.epoch
        return self._served

    def step(self) -> None:
        """Count a batch."""
        self._served += 1

    def state_dict(self) -> dict[str, int]:
        """The current or next epoch, and the number of its batches that were served."""
        served = self._served if self._epoch == self._order.epoch else 0
        return {"epoch": self._order.epoch, "served": served}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next iteration there."""
        self._order.set_epoch(state_dict["epoch"])
        self._start = state_dict["served"]


class ArrayLoader:
    """Iterates over batches that are gathered from arrays held on the training device.

    Yields images uint8 (B, C, H, W) and labels int64 (B,). `sampler` is where Lightning looks for set_epoch.
    """

    batch_sampler = None  # Lightning reads this too

    def __init__(
        self, arrays: ImageArrays, order: EpochSampler, *, batch_size: int, drop_last: bool, device: torch.device
    ) -> None:
        self.images = arrays.images.to(device)
        self.labels = arrays.labels.to(device)
        self.sampler = order
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.position = LoaderPosition(order)
        self.state_dict, self.load_state_dict = self.position.state_dict, self.position.load_state_dict
        self._next: tuple[int, Tensor] | None = None  # an epoch and its order, drawn in advance

    def __iter__(self) -> Iterator[Batch]:
        first, epoch = self.position.begin(), self.sampler.epoch
        order = self._next[1] if self._next and self._next[0] == epoch else self._order()
        chunks = torch.split(order, self.batch_size)[first : len(self)]
        for number, chunk in enumerate(chunks, start=1):
            self.position.step()
            if number == len(chunks) and self.images.is_cuda and self.sampler.shuffle:
                self._next = epoch + 1, self._order(later=1)  # while the GPU is still busy
            yield self.images.index_select(0, chunk), self.labels.index_select(0, chunk)

    def _order(self, later: int = 0) -> Tensor:
        order = self.sampler.indices(later)
        if self.images.is_cuda:
            order = order.pin_memory()  # for an asynchronous copy
        return order.to(self.images.device, non_blocking=True)

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1


class ArrayItems(Dataset[tuple[Tensor, int]]):
    """Arrays as a dataset of single images uint8 (C, H, W) with their labels, for a DataLoader."""

    def __init__(self, arrays: ImageArrays) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return a batch's images, gathered at once, with their labels."""
        chosen = torch.tensor(indices)
        images, labels = self.arrays.images.index_select(0, chosen), self.arrays.labels.index_select(0, chosen)
        return list(zip(images.unbind(), labels.tolist(), strict=True))


class ImageLoader(DataLoader[tuple[Tensor, int]]):
    """A DataLoader over an EpochSampler that can resume within an epoch and leaves the global generator alone.

    Yields images uint8 (B, C, H, W) and labels int64 (B,).
    """

    def __init__(self, source: Dataset[tuple[Tensor, int]], order: EpochSampler, **options: Any) -> None:
        super().__init__(source, sampler=order, generator=torch.Generator().manual_seed(order.seed), **options)
        self.position = LoaderPosition(order)
        self.state_dict, self.load_state_dict = self.position.state_dict, self.position.load_state_dict

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        order, batch_size = self.sampler, self.batch_size
        assert isinstance(order, EpochSampler)
        assert batch_size is not None
        order.first = self.position.begin() * batch_size
        for batch in super().__iter__():
            self.position.step()
            yield batch


def image_loader(
    source: ImageArrays | Dataset[tuple[Tensor, int]],
    order: EpochSampler,
    *,
    batch_size: int,
    drop_last: bool,
    num_workers: int,
    device: torch.device,
    resumable: bool,
    per_image: Callable[[Tensor], Tensor] | None = None,
    at_source: Callable[[Tensor], Tensor] | None = None,
) -> "ArrayLoader | DataLoader[tuple[Tensor, int]]":
    """The loader for a source: a gather for arrays, worker processes for a dataset that reads files.

    The generators of a dataset are seeded for each batch (`seeded_dataset.py`).
    per_image, at_source: transforms of each image and of each picture before it is resized, for which arrays go
    through a DataLoader as well.
    resumable: whether it can start within an epoch. For predictions Lightning re-creates a DataLoader, which works only
    for a class without its own constructor.
    """
    if isinstance(source, ImageArrays):
        if per_image is None and at_source is None:
            return ArrayLoader(source, order, batch_size=batch_size, drop_last=drop_last, device=device)
        source = ArrayItems(source)
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "drop_last": drop_last,
        "num_workers": num_workers,
        "pin_memory": device.type == "cuda",
        "persistent_workers": num_workers > 0,
        "prefetch_factor": 4 if num_workers else None,
    }
    drawn = SeededDataset(source, per_image, at_source)
    if resumable:
        return ImageLoader(drawn, order, **options)
    return DataLoader(drawn, sampler=order, generator=torch.Generator().manual_seed(order.seed), **options)
