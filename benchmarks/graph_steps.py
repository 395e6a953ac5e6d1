"""A training step on a GPU: launched kernel by kernel, and as one CUDA graph; with --compile, of a compiled network.

    python benchmarks/graph_steps.py [--batches 256,1024] [--compile] [--kernels 30] [OVERRIDE...]

Without overrides it is the step of `cosine_resnet` as for 94 %. --kernels lists what takes most of a graph's time, by
torch.profiler. Prints milliseconds a step, of 60; the optimizer's step is launched by itself.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from extracted_data import extracted
from fmx.runs.composition import compose_config
from fmx.training.build import build_classifier, build_data
from fmx.training.step_graph import StepGraph
from time_to_accuracy import TARGETS

STEPS = 60


def milliseconds(step: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began) / STEPS


def measure(overrides: list[str], batch_size: int, *, compiled: bool, kernels: int) -> None:
    cfg, device = compose_config([*overrides, f"data.root={extracted()}"]), torch.device("cuda")
    classifier, data = build_classifier(cfg).to(device).train(), build_data(cfg)
    normalize, augment, source = data.normalize.to(device), data.augment.to(device), data.sources["train"]
    batch = source.images[:batch_size].to(device), source.labels[:batch_size].to(device)
    optimizer = classifier.make_optimizer(classifier.parameters())
    if compiled:
        classifier.net.compile()

    def loss_and_logits(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = normalize(augment(images))
        with torch.autocast("cuda", torch.bfloat16):
            return classifier.loss_and_logits(images, labels)

    def launched() -> None:
        optimizer.zero_grad()
        loss_and_logits(*batch)[0].backward()
        optimizer.step()

    def replayed() -> None:
        graph(batch)
        optimizer.step()

    began = time.perf_counter()
    for _ in range(3):
        launched()
    torch.cuda.synchronize()
    first_s, launched_ms = time.perf_counter() - began, milliseconds(launched)
    graph = StepGraph(loss_and_logits, batch, list(classifier.parameters()))
    replayed()
    print(f"batch {batch_size}: launched {launched_ms:.2f} ms, replayed {milliseconds(replayed):.2f} ms; "
          f"the first three steps {first_s:.1f} s", flush=True)  # fmt: skip
    if kernels:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            replayed()
            torch.cuda.synchronize()
        print(profiled.key_averages().table(sort_by="cuda_time_total", row_limit=kernels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="256,512,1024,2048")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--kernels", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
    torch.use_deterministic_algorithms(mode=True, warn_only=True)  # as trainer.deterministic=warn has it
    torch.utils.deterministic.fill_uninitialized_memory = False
    for batch_size in map(int, arguments.batches.split(",")):
        overrides = arguments.overrides or TARGETS["94"]
        measure(overrides, batch_size, compiled=arguments.compile, kernels=arguments.kernels)


if __name__ == "__main__":
    main()
