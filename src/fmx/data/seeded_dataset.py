"""Random numbers inside a dataset, seeded for each batch, whichever process makes it and whenever."""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from fmx.errors import DataError, FmxError, first_line

__all__ = ["SampleKey", "SeededDataset", "generators_in", "kept_states", "seed_generators"]

Generator = random.Random | np.random.Generator | np.random.RandomState | torch.Generator
LONG = 1000  # entries; longer lists hold files or labels, no generators
PER_IMAGE = (1, 1)  # in a seed: it is for one image, and never equals the seed of a batch


class SampleKey(NamedTuple):
    """What EpochSampler yields: the index of an image, the order (seed, epoch, rank), and the position in it."""

    image: int
    seed: int
    epoch: int
    rank: int
    position: int


class SeededDataset(Dataset[tuple[Tensor, int]]):
    """A map-style dataset whose generators are seeded anew for each batch.

    What it draws, from the generators of Python, NumPy and torch or from its own, is a function of the batch's first
    key alone: neither the number of workers nor a resumed run changes it. Its own generators are found through
    attributes, lists and dicts. In the main process the states of all are restored.
    per_image: a transform of each image, uint8 (C, H, W). at_source: one that comes before, of a picture as it was
    decoded, for a source that gives it by `original(index)` and resizes the result by `to_size`; of the image for any
    other. What they draw is a function of the run's seed, the epoch and the image, and computed by one thread, so that
    the result is the same to the bit in any process.
    """

    def __init__(
        self,
        source: Dataset[tuple[Tensor, int]],
        per_image: Callable[[Tensor], Tensor] | None = None,
        at_source: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.source = source
        self.per_image = per_image
        self.at_source = at_source
        self._original = None if at_source is None else getattr(source, "original", None)
        self._own = generators_in(source)
        self._first = [_digest(each) for each in self._own]  # part of each seed, so that their own seeds matter
        self._of_transform = generators_in([each for each in (at_source, per_image) if each is not None])

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int]:
        return self.__getitems__([key])[0]  # type: ignore[no-any-return]

    def __getitems__(self, keys: Sequence[SampleKey]) -> Any:
        """Return a batch's images uint8 (C, H, W) with their labels; DataLoader calls this if it exists."""
        with nullcontext() if get_worker_info() else kept_states([*self._own, *self._of_transform]):
            first = keys[0]
            seed_generators([first.seed, first.epoch, first.rank, first.position], self._own, self._first)
            indices = [key.image for key in keys]
            if self._original is not None:
                items: Any = map(self._original, indices)  # one after the other: a picture may take 200 MB
            else:
                whole = getattr(self.source, "__getitems__", None)
                items = [self.source[index] for index in indices] if whole is None else whole(indices)
            if self.per_image is None and self.at_source is None:
                return items
            with _one_thread():
                return [(self._changed(key, image), label) for key, (image, label) in zip(keys, items, strict=True)]

    def _changed(self, key: SampleKey, image: Tensor) -> Tensor:
        seed_generators([key.seed, key.epoch, key.image, *PER_IMAGE], self._of_transform)
        wanted, changed = image.shape, image
        try:
            if self.at_source is not None:
                changed = self.at_source(changed)
            if self._original is not None:
                changed = self.source.to_size(changed)  # type: ignore[attr-defined]
                wanted = changed.shape
            if self.per_image is not None:
                changed = self.per_image(changed)
        except FmxError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {first_line(error)}"
            raise DataError(f"augment fails on training image {key.image} in epoch {key.epoch + 1}: {what}") from error
        if changed.shape != wanted:
            raise DataError(
                f"augment makes {tuple(changed.shape)} of the shape {tuple(wanted)} (training image {key.image}); "
                "the images of a batch need one shape, that of data.image_size: end with a crop or a Resize to it"
            )
        return changed


def generators_in(node: object) -> list[Generator]:
    """The generators that an object holds, directly or in its attributes, lists and dicts."""
    return list(_generators(node, set()))


def seed_generators(entropy: Sequence[int], own: Sequence[Generator] = (), more: Sequence[int] = ()) -> None:
    """Seed the generators of Python, NumPy and torch, and others, each by its number in `more` or its place."""
    words = np.random.SeedSequence(entropy).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)  # noqa: NPY002 - datasets use it
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))  # not the GPU's, which networks use
    for place, generator in enumerate(own):
        _reseed(generator, [*entropy, more[place] if more else place])


@contextmanager
def kept_states(own: Sequence[Generator] = ()) -> Iterator[None]:
    """Restore the states of Python's, NumPy's and torch's generators, and of others, after the block."""
    before = _states(own)
    try:
        yield
    finally:
        _restore(own, before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread, as in a worker: the order of a sum depends on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _generators(node: object, seen: set[int]) -> Iterator[Generator]:
    if id(node) in seen or isinstance(node, str | bytes | int | float | Tensor | np.ndarray):
        return
    seen.add(id(node))
    inner: Sequence[object] = ()
    if isinstance(node, Generator):
        yield node
    elif isinstance(node, list | tuple):
        inner = node if len(node) < LONG else ()
    elif isinstance(node, dict):
        inner = list(node.values()) if len(node) < LONG else ()
    elif isinstance(node, partial):
        inner = [node.func, *node.args, *node.keywords.values()]
    elif not isinstance(node, type | ModuleType | FunctionType):
        inner = list(getattr(node, "__dict__", {}).values())
    for each in inner:
        yield from _generators(each, seen)


def _states(generators: Sequence[Generator]) -> list[Any]:
    own = [_state(each) for each in generators]
    return [random.getstate(), np.random.get_state(), torch.default_generator.get_state(), own]  # noqa: NPY002


def _restore(generators: Sequence[Generator], states: Sequence[Any]) -> None:
    python, numpy, torchs, own = states
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.default_generator.set_state(torchs)
    for generator, state in zip(generators, own, strict=True):
        _set_state(generator, state)


def _state(generator: Generator) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state()


def _set_state(generator: Generator, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _reseed(generator: Generator, entropy: list[int]) -> None:
    sequence = np.random.SeedSequence(entropy)
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(sequence).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(sequence.generate_state(4))
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
    else:
        generator.seed(sequence.generate_state(4).tobytes())


def _digest(generator: Generator) -> int:
    state = _state(generator)
    plain = state.cpu().numpy().tobytes() if isinstance(state, Tensor) else repr(state).encode()
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest())
