"""What a training step of each recipe spends, and what was tried to make it shorter.

    python benchmarks/steps.py [--rounds 12] [--only fast,mlp_sgd] [--table]

All ways take turns in one process, some steps each, without Lightning. "Arithmetic" is what convolutions and linear
layers alone take, forward and backward: what no framework around them can save. A ratio above 1 means slower than fmx.
A step may take LIMIT times its arithmetic: what moves memory, such as pooling, ReLU and normalisation, is in it too.
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from chosen import chosen
from claim import Claim, at_most
from fmx.models.dropout import Dropout
from fmx.models.flatten import Flatten
from fmx.runs.composition import compose_config
from fmx.training.build import build_classifier, build_data
from fmx.training.hardware import ask_for_gpus_once, keep_freed_memory, resolve_precision
from machine import describe, in_words
from page_table import write_table
from result_file import load, measured_before, save

RECIPES = ["three_conv_adam", "dropout_cnn_adam", "dilated_adam", "avgpool_adam", "lenet_mnist", "mlp_sgd", "fast"]
LIMIT = 1.6  # a step / its arithmetic
TWO_CONV = "two_conv"  # no recipe, but the least channels for which `auto` takes bf16
STEPS = 12  # of one way before the next has its turn; the first two are not counted
PRECISIONS = ["float32", "bf16"]  # of which one is fmx's own
WAYS = [
    "fmx",
    "torch's dropout",
    "torch's flatten",
    "torch.compile",
    "halves",
    "contiguous",
    *PRECISIONS,
    "ReLU in place",
    "one thread",
]


class Way:
    """A recipe's training step, changed in one respect."""

    def __init__(self, name: str, cfg: DictConfig) -> None:
        self.name = name
        self.seconds: list[float] = []
        if name == "contiguous":
            cfg.memory_format = "contiguous"
        torch.manual_seed(1)
        classifier, self.data = build_classifier(cfg), build_data(cfg)
        self.net, self.loss = classifier.net, classifier.loss
        self.optimizer = classifier.make_optimizer(self.net.parameters())
        self.images, self.labels = self.data.sources["train"].images, self.data.sources["train"].labels
        precision = resolve_precision(cfg.trainer.precision, accelerator="cpu", net=self.net)
        self.chosen = "bf16" if precision == "bf16-mixed" else "float32"  # by `auto`
        self.mixed = (name if name in PRECISIONS else self.chosen) == "bf16"
        for module in self.net.modules():
            if name == "ReLU in place" and isinstance(module, nn.ReLU):
                module.inplace = True
            if name == "torch's dropout" and isinstance(module, Dropout):
                module.forward = MethodType(nn.Dropout.forward, module)  # type: ignore[method-assign]
            if name == "torch's flatten" and isinstance(module, Flatten):
                module.forward = nn.Flatten().forward  # type: ignore[method-assign]
        if name == "torch.compile":
            self.net.compile()
        self.threads = 1 if name == "one thread" else torch.get_num_threads()

    def forward(self, chunk: Tensor) -> Tensor:
        """The loss of these images."""
        x = self.data.normalize(self.data.augment(self.images.index_select(0, chunk)))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            loss: Tensor = self.loss(self.net(x), self.labels.index_select(0, chunk))
        return loss

    def step(self, chunk: Tensor) -> None:
        """Train on these images once."""
        self.optimizer.zero_grad()
        for part in chunk.chunk(2) if self.name == "halves" else [chunk]:
            (self.forward(part) * (len(part) / len(chunk))).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def turn(self, chunks: list[Tensor]) -> None:
        """Take and time these steps."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        for chunk in chunks:
            began = time.perf_counter()
            self.step(chunk)
            self.seconds.append(time.perf_counter() - began)
        del self.seconds[-len(chunks) : 2 - len(chunks)]
        torch.set_num_threads(threads)


def arithmetic(way: Way, chunk: Tensor) -> float:
    """Seconds of the forward and backward passes of convolutions and linear layers, each by itself."""
    inputs: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    layers = [module for module in way.net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [
        layer.register_forward_hook(lambda layer, given, out: inputs.__setitem__(layer, (given[0], out)))
        for layer in layers
    ]
    way.forward(chunk)
    for handle in handles:
        handle.remove()
    total = 0.0
    for layer in layers:
        given, out = inputs[layer]
        x, gradient = given.detach().requires_grad_(given.requires_grad), torch.randn_like(out)
        total += _median_s(lambda layer=layer, x=x, gradient=gradient: _pass(layer, x, gradient, mixed=way.mixed))
    return total


def _pass(layer: nn.Module, x: Tensor, gradient: Tensor, *, mixed: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        out = layer(x)
    for parameter in layer.parameters():
        parameter.grad = None
    x.grad = None
    out.backward(gradient)


def _median_s(function: Callable[[], None], repeats: int = 40) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[5:])


def measure(recipe: str, rounds: int) -> dict[str, Any]:
    ways, cold = [], 0.0
    for name in WAYS:
        cfg = compose_config([f"{'model' if recipe == TWO_CONV else 'experiment'}={recipe}"])
        began = time.perf_counter()
        way = Way(name, cfg)
        replaced = {"torch's dropout": Dropout, "torch's flatten": Flatten}.get(name)
        if replaced and not any(isinstance(module, replaced) for module in way.net.modules()):
            continue
        if name == way.chosen:
            continue
        torch.manual_seed(1)
        order = way.data.indices["train"][torch.randperm(len(way.data.indices["train"]))]
        chunks = list(order.split(way.data.batch_size)[: 2 * STEPS])
        way.step(chunks[0])
        if name == "torch.compile":
            cold = time.perf_counter() - began
        ways.append(way)
    for number in range(rounds):
        for way in ways[:: 1 if number % 2 else -1]:
            way.turn(chunks[:STEPS])
    alone = arithmetic(ways[0], chunks[0])
    seconds = {way.name: statistics.median(way.seconds) for way in ways}
    print(recipe, {name: f"{1e3 * value:.2f} ms" for name, value in seconds.items()}, f"{1e3 * alone:.2f} ms alone")
    return {"steps_per_epoch": math.ceil(len(order) / ways[0].data.batch_size), "mixed": ways[0].mixed,
            "seconds": seconds, "arithmetic_s": alone, "compile_s": cold}  # fmt: skip


def claims(results: dict[str, Any]) -> list[Claim]:
    what = "`{}`: a step ÷ its convolutions and matrix products"
    rows = {recipe: entry for recipe, entry in results["measured"].items() if recipe in RECIPES}
    return [
        at_most(what.format(recipe), row["seconds"]["fmx"] / row["arithmetic_s"], LIMIT, date=row.get("date"))
        for recipe, row in rows.items()
    ]


def write(results: dict[str, Any]) -> None:
    rows = []
    for recipe, entry in results["measured"].items():
        seconds = entry["seconds"]
        ratios = [f"{seconds[name] / seconds['fmx']:.2f}" if name in seconds else "—" for name in WAYS[1:]]
        steps, alone = entry["steps_per_epoch"], entry["arithmetic_s"]
        name = f"`model={recipe}`" if recipe == TWO_CONV else f"`{recipe}`"
        times = f"**{seconds['fmx'] / alone:.2f} ×**"
        rows.append([name, f"{1e3 * seconds['fmx']:.2f} ms", f"{steps}", f"{alone * steps:.2f} s", times, *ratios])
    header = ["recipe", "a step", "steps", "arithmetic", "a step ÷ arithmetic", *WAYS[1:]]
    compiled = statistics.median(entry["compile_s"] for entry in results["measured"].values())
    caption = (
        f"Medians; steps of an epoch; the arithmetic's seconds of an epoch; a step as a multiple of it (target: ≤ "
        f"{LIMIT} ×); then times as long as fmx's step. Compiling took {compiled:.0f} s. On "
        f"{in_words(results['machine'])}."
    )
    write_table("steps", header, rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", default="")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("steps")
    else:
        warnings.filterwarnings("ignore")
        keep_freed_memory()
        ask_for_gpus_once()
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        machine = describe("cpu")
        measured = measured_before("steps", machine) if arguments.only else {}
        measured |= {
            recipe: measure(recipe, arguments.rounds) for recipe in chosen(arguments.only, [*RECIPES, TWO_CONV])
        }
        results = save("steps", machine, measured)
    write(results)


if __name__ == "__main__":
    main()
