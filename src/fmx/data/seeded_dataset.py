"""Random numbers inside a dataset, seeded for each batch, whichever process makes it and whenever."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

__all__ = ["SampleKey", "SeededDataset"]

Generator = random.Random | np.random.Generator | np.random.RandomState | torch.Generator
LONG = 1000  # entries; longer lists hold files or labels, no generators


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
    """

    def __init__(self, source: Dataset[tuple[Tensor, int]]) -> None:
        self.source = source
        self._own = list(_generators(source, set()))
        self._first = [_digest(each) for each in self._own]  # part of each seed, so that their own seeds matter

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int]:
        return self.__getitems__([key])[0]  # type: ignore[no-any-return]

    def __getitems__(self, keys: Sequence[SampleKey]) -> Any:
        """Return a batch's images uint8 (C, H, W) with their labels; DataLoader calls this if it exists."""
        in_main_process = get_worker_info() is None
        before = _states(self._own) if in_main_process else None
        self._seed(keys[0])
        try:
            indices = [key.image for key in keys]
            whole = getattr(self.source, "__getitems__", None)
            return [self.source[index] for index in indices] if whole is None else whole(indices)
        finally:
            if before is not None:
                _restore(self._own, before)

    def _seed(self, key: SampleKey) -> None:
        entropy = [key.seed, key.epoch, key.rank, key.position]
        words = np.random.SeedSequence(entropy).generate_state(4)
        random.seed(words.tobytes())
        np.random.seed(words)  # noqa: NPY002 - datasets use it
        torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))  # not the GPU's, which networks use
        for generator, first in zip(self._own, self._first, strict=True):
            _reseed(generator, [*entropy, first])


def _generators(node: object, seen: set[int]) -> Iterator[Generator]:
    """The generators that an object holds, directly or in its attributes, lists and dicts."""
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
