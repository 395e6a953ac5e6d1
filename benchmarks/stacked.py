"""A prototype: N networks of different seeds as one stacked network, against N separate ones on the same cores.

    python benchmarks/stacked.py [--rounds 3] [--only mlp] [--networks 2 8 32] [--batches 32 64 256]

Separate: what a sweep does, one process per core with one thread each, which trains its share of the networks one after
the other. vmap: torch.func over stacked weights. By hand: batched matrix products and grouped convolutions. All take
AdamW's fused step; all are plain loops over the same made-up images, with no Lightning and no start of a process.

Every network has its own weights and its own order of images, as seeds have. "one order": all see the same batches,
which seeds do not. "N rates": a learning rate of its own for each, for which no fused step exists.

Medians of rounds in turn. Processor seconds are compared first: on a machine with other users the clock says little,
since two processes get more of it than one. Then 200 steps of four networks, once separate and once stacked: how far
their losses part.
"""

import argparse
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.connection import Connection
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait take no processor time from others

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional
from torch.optim import AdamW

from alternate import alternate, median
from fmx.models.lenet import LeNet
from fmx.models.mlp import MLP
from machine import describe, in_words
from page_table import write_table
from result_file import save

CORES = len(os.sched_getaffinity(0))
IMAGES = 4096
ENOUGH = 4_000  # images over all networks in one turn of a side
LR, DECAY, BETAS, EPS = 2e-3, 0.01, (0.9, 0.999), 1e-8  # of conf/optim/adamw.yaml
SHAPE = {"in_channels": 1, "num_classes": 10, "image_size": 28}
NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(**SHAPE, hidden_sizes=[300, 100]),
    "lenet": lambda: LeNet(**SHAPE, widths=[6, 16], hidden_sizes=[120, 84]),
}
SIDES = ["separate", "vmap", "by hand", "by hand, one order", "by hand, N rates"]


@cache
def made_up() -> tuple[Tensor, Tensor]:
    """Images (IMAGES, 1, 28, 28) of ten patterns in noise, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (IMAGES,), generator=generator)
    patterns = torch.randn(10, 1, 28, 28, generator=generator)
    return patterns[labels] + 2 * torch.randn(IMAGES, 1, 28, 28, generator=generator), labels


def network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return NETS[name]().to(memory_format=torch.channels_last)


def orders(seed: int, batch: int) -> Iterator[Tensor]:
    """Batches of indices, epoch after epoch, in the seed's own order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(IMAGES, generator=generator).split(batch)


def separate(name: str, seeds: range, batch: int) -> Callable[[int], list[list[float]]]:
    """A function that trains each network for so many steps, one after the other; returns the losses by network."""
    images, labels = made_up()
    nets = [network(name, seed) for seed in seeds]
    optimizers = [AdamW(net.parameters(), lr=LR, weight_decay=DECAY, fused=True) for net in nets]
    loaders = [orders(seed, batch) for seed in seeds]

    def train(steps: int) -> list[list[float]]:
        losses: list[list[Tensor]] = [[] for _ in nets]
        for net, optimizer, loader, its_losses in zip(nets, optimizers, loaders, losses, strict=True):
            for chosen in itertools.islice(loader, steps):
                loss = functional.cross_entropy(net(images[chosen]), labels[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                its_losses.append(loss.detach())
        return [torch.stack(its).tolist() for its in losses]

    return train


class RatedAdamW:
    """AdamW on stacked tensors (N, …) with a learning rate for each network."""

    def __init__(self, parameters: list[Tensor], rates: Tensor) -> None:
        self.parameters = parameters
        self.rates = [rates.view(-1, *[1] * (each.dim() - 1)) for each in parameters]
        self.means = [torch.zeros_like(each) for each in parameters]
        self.squares = [torch.zeros_like(each) for each in parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters by their gradients."""
        self.steps += 1
        one, two = (1 - beta**self.steps for beta in BETAS)
        for each, rate, mean, square in zip(self.parameters, self.rates, self.means, self.squares, strict=True):
            assert each.grad is not None
            each.mul_(1 - DECAY * rate)
            mean.lerp_(each.grad, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(each.grad, each.grad, value=1 - BETAS[1])
            each.sub_(mean / square.sqrt().div_(two**0.5).add_(EPS) * (rate / one))


def by_hand(name: str, weights: list[Tensor], x: Tensor) -> Tensor:
    """The logits (N, B, 10) of stacked networks.

    x: (N, B, 784) or (B, 784) for the MLP, (B, N, 28, 28) or (B, 1, 28, 28) for LeNet; without an N, all see the same.
    """
    num = len(weights[0])
    if name == "lenet":
        kernels, weights = weights[:4], weights[4:]
        first = kernels[0].flatten(0, 1)  # (N * 6, 1, 3, 3)
        groups = 1 if x.shape[1] == 1 else num
        x = functional.conv2d(x, first, kernels[1].flatten(), padding=2, groups=groups)
        x = functional.relu(functional.max_pool2d(x, 2))
        x = functional.relu(
            functional.max_pool2d(functional.conv2d(x, kernels[2].flatten(0, 1), kernels[3].flatten(), groups=num), 2)
        )
        x = x.unflatten(1, (num, 16)).permute(1, 0, 3, 4, 2).flatten(2)  # (N, B, 400), pixel by pixel as fmx's Flatten
    elif x.dim() == 2:  # one product for all: (B, 784) x (784, N * 300)
        x = functional.linear(x, weights[0].flatten(0, 1), weights[1].flatten()).unflatten(1, (num, -1)).transpose(0, 1)
        x, weights = functional.relu(x), weights[2:]
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for number, (weight, bias) in enumerate(pairs, start=1):
        x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        x = x if number == len(pairs) else functional.relu(x)
    return x


def hand_losses(name: str, weights: list[Tensor], chosen: list[Tensor], *, one_order: bool) -> Tensor:
    """The losses (N,) of stacked networks, after a backward pass of their sum; chosen: each network's indices (B,)."""
    images, labels = made_up()
    num = len(chosen)
    if one_order:
        x, y = images[chosen[0]], labels[chosen[0]].repeat(num)
        x = x.flatten(1) if name == "mlp" else x
    elif name == "mlp":
        index = torch.stack(chosen)  # (N, B)
        x, y = images[index].flatten(2), labels[index.flatten()]
    else:
        index = torch.stack(chosen, 1)  # (B, N)
        x, y = images[index].flatten(1, 2), labels[index.T.flatten()]
    logits = by_hand(name, weights, x)
    losses = functional.cross_entropy(logits.flatten(0, 1), y, reduction="none").view(num, -1).mean(1)
    losses.sum().backward()
    return losses.detach()


def vmap_step(net: nn.Module, names: list[str], weights: list[Tensor]) -> Callable[[list[Tensor]], Tensor]:
    """A function as `hand_losses`, by torch.func."""
    images, labels = made_up()

    def loss_of(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(net, parameters, (x,)), y)

    gradients = vmap(grad_and_value(loss_of))

    def step(chosen: list[Tensor]) -> Tensor:
        index = torch.stack(chosen)
        found, losses = gradients(dict(zip(names, weights, strict=True)), images[index], labels[index])
        for key, weight in zip(names, weights, strict=True):
            weight.grad = found[key].detach()
        return torch.as_tensor(losses).detach()

    return step


def stacked(
    name: str, seeds: range, batch: int, *, vmapped: bool = False, one_order: bool = False, rates: bool = False
) -> Callable[[int], list[list[float]]]:
    """As `separate`, but all networks take each step together."""
    nets = [network(name, seed) for seed in seeds]
    names = [each for each, _ in nets[0].named_parameters()]
    state, _ = stack_module_state(nets)
    weights = [state[each].detach().requires_grad_() for each in names]
    optimizer: Any = AdamW(weights, lr=LR, weight_decay=DECAY, fused=True)
    if rates:
        optimizer = RatedAdamW(weights, torch.full((len(seeds),), LR))
    loaders = [orders(seeds[0] if one_order else seed, batch) for seed in seeds]
    step = partial(hand_losses, name, weights, one_order=one_order)
    if vmapped:
        step = vmap_step(nets[0], names, weights)  # type: ignore[assignment]

    def train(steps: int) -> list[list[float]]:
        losses = []
        for _ in range(steps):
            for weight in weights:
                weight.grad = None
            losses.append(step([next(loader) for loader in loaders]))
            optimizer.step()
        by_network: list[list[float]] = torch.stack(losses, 1).tolist()
        return by_network

    return train


STACKED: dict[str, dict[str, bool]] = {
    "vmap": {"vmapped": True},
    "by hand": {},
    "by hand, one order": {"one_order": True},
    "by hand, N rates": {"rates": True},
}


def worker(pipe: Connection) -> None:
    """A process that trains what it is told, and answers with its processor seconds."""
    trains: dict[str, Callable[[int], object]] = {}
    while True:
        try:
            order = pipe.recv()
        except EOFError:  # the benchmark has ended
            return
        if order[0] == "make":
            _, side, threads, name, seeds, batch = order
            torch.set_num_threads(threads)
            make = separate if side == "separate" else stacked
            trains = {side: make(name, seeds, batch, **STACKED.get(side, {}))}
            trains[side](2)
            pipe.send(0.0)
        else:
            began = time.process_time()
            next(iter(trains.values()))(order[1])
            pipe.send(time.process_time() - began)


@dataclass
class Workers:
    """The processes of one side: one per core for separate networks, else one with a thread per core."""

    side: str
    pipes: list[Connection]

    def make(self, name: str, num: int, batch: int) -> None:
        """Build the networks and take two steps."""
        threads = max(1, CORES // len(self.pipes))
        for rank, pipe in enumerate(self.pipes):
            first, end = (num * at // len(self.pipes) for at in (rank, rank + 1))
            pipe.send(("make", self.side, threads, name, range(first, end), batch))
        for pipe in self.pipes:
            pipe.recv()

    def train(self, steps: int, _: int) -> tuple[float, float]:
        """Wall and processor seconds of so many steps of every network."""
        began = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(("train", steps))
        processor = [pipe.recv() for pipe in self.pipes]
        return time.perf_counter() - began, sum(processor)


def start(side: str) -> Workers:
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(CORES if side == "separate" else 1):
        ours, theirs = context.Pipe()
        context.Process(target=worker, args=(theirs,), daemon=True).start()
        pipes.append(ours)
    return Workers(side, pipes)


def measure(names: list[str], numbers: list[int], batches: list[int], rounds: int) -> list[dict[str, Any]]:
    sides = {side: start(side) for side in SIDES}
    cells = []
    for name, batch, num in itertools.product(names, batches, numbers):
        for each in sides.values():
            each.make(name, num, batch)
        steps = max(3, ENOUGH // (num * batch))
        seconds = alternate({side: partial(each.train, steps) for side, each in sides.items()}, rounds)
        images = num * batch * steps
        cell: dict[str, Any] = {"net": name, "networks": num, "batch": batch}
        for side, pairs in seconds.items():
            wall, cpu = (median([pair[kind] for pair in pairs]) for kind in (0, 1))
            cell[side] = {"images_per_s": images / wall, "images_per_cpu_s": images / cpu}
        cells.append(cell)
        print(*row(cell), sep=" | ", flush=True)
    return cells


def histories(names: list[str], steps: int = 200) -> list[dict[str, Any]]:
    """How far the losses of four stacked networks part from those of four separate ones, on one thread."""
    torch.set_num_threads(1)
    found = []
    for name in names:
        alone = torch.tensor(separate(name, range(4), 64)(steps), dtype=torch.float64)
        for side in ("vmap", "by hand"):
            parts = (
                torch.tensor(stacked(name, range(4), 64, **STACKED[side])(steps), dtype=torch.float64) - alone
            ).abs()
            found.append(
                {
                    "net": name,
                    "side": side,
                    "equal_steps": int((parts.amax(0) > 0).int().argmax()) if parts.any() else steps,
                    "first_10": float(parts[:, :10].max()),
                    "all": float(parts.max()),
                    "last_loss": float(alone[:, -1].mean()),
                }
            )
    return found


def row(cell: dict[str, Any]) -> list[str]:
    base = cell["separate"]
    ratios = [
        f"{cell[side]['images_per_cpu_s'] / base['images_per_cpu_s']:.2f} × "
        f"({cell[side]['images_per_s'] / base['images_per_s']:.1f})"
        for side in SIDES[1:]
    ]
    return [cell["net"], str(cell["batch"]), str(cell["networks"]), f"{base['images_per_cpu_s']:,.0f}", *ratios]


def write(results: dict[str, Any]) -> None:
    header = ["network", "batch", "N", "separate, images per processor second", *SIDES[1:]]
    parted = "; ".join(
        f"{each['net']} {each['side']}: equal to the bit for {each['equal_steps']} steps, at most "
        f"{each['first_10']:.0e} apart in the first ten and {each['all']:.0e} in all"
        for each in results["measured"]["histories"]
    )
    write_table(
        "stacked",
        header,
        [row(cell) for cell in results["measured"]["cells"]],
        "Images per processor second over all networks, as a multiple of the separate ones'; in brackets by the clock. "
        f"Losses of four networks over 200 steps against separate ones: {parted}. On {in_words(results['machine'])}, "
        f"load {results['machine']['load_before']} before. Printed by `python benchmarks/stacked.py`.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", choices=["", *NETS])
    parser.add_argument("--networks", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 256])
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(NETS)
    machine = describe()
    parted = histories(names)
    cells = measure(names, arguments.networks, arguments.batches, arguments.rounds)
    write(save("stacked", machine, {"histories": parted, "cells": cells}))


if __name__ == "__main__":
    main()
