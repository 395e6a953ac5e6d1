"""The best plain loop for a configuration: no Lightning, no logging, the same parts, losses and accuracy.

    python benchmarks/plain_loop.py --device cpu model=three_conv data.batch_size=256

The network, loss, optimizer, schedule and arrays are those that fmx builds; what is measured is the loop around them.
On a GPU, steps are one CUDA graph, as fmx's are, but for the first and what is left of an epoch; with --eager none is.
"""

import argparse
import math
import os
from contextlib import nullcontext

from fmx.run import SPINS

os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported

import torch
from torch import Tensor

from fmx.runs.composition import compose_config
from fmx.training.build import build_classifier, build_data
from fmx.training.hardware import ask_for_gpus_once, keep_freed_memory, resolve_precision
from fmx.training.step_graph import StepGraph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--eager", action="store_true")
    arguments, overrides = parser.parse_known_args()
    keep_freed_memory()
    ask_for_gpus_once()
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    cfg = compose_config(overrides)
    torch.manual_seed(cfg.seed)
    parts, data, device = build_classifier(cfg), build_data(cfg), torch.device(arguments.device)
    net, loss_of = parts.net.to(device), parts.loss.to(device)
    precision = resolve_precision(cfg.trainer.precision, accelerator=arguments.device, net=net)
    autocast = (lambda: torch.autocast(device.type, torch.bfloat16)) if precision == "bf16-mixed" else nullcontext
    images, labels = data.sources["train"].images.to(device), data.sources["train"].labels.to(device)
    train, val = data.indices["train"].to(device), data.indices["val"].to(device)
    normalize, augment = data.normalize.to(device), data.augment.to(device)
    epochs, steps = cfg.trainer.max_epochs, math.ceil(len(train) / data.batch_size)
    optimizer = parts.make_optimizer(net.parameters())
    entries = parts.make_schedule(optimizer, steps_per_epoch=steps, epochs=epochs, total_steps=steps * epochs)

    def loss_and_logits(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = normalize(augment(x))
        with autocast():
            return loss_of(logits := net(x), y), logits

    graph = None
    for epoch in range(1, epochs + 1):
        net.train()
        total, right = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        for chunk in train[torch.randperm(len(train), device=device)].split(data.batch_size):
            x, y = images.index_select(0, chunk), labels.index_select(0, chunk)
            if graph is not None and graph.fits((x, y)):
                loss, logits = graph((x, y))
            else:
                loss, logits = loss_and_logits(x, y)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                loss, logits = loss.detach(), logits.detach()
                if device.type == "cuda" and graph is None and not arguments.eager:
                    graph = StepGraph(loss_and_logits, (x, y), list(net.parameters()))
            optimizer.step()
            for entry in entries:
                if entry["interval"] == "step":
                    entry["scheduler"].step()
            total += loss.detach() * len(y)
            right += (logits.detach().argmax(1) == y).sum()
        net.eval()
        val_total, val_right = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        with torch.inference_mode(), autocast():
            for chunk in val.split(data.eval_batch_size):
                y = labels.index_select(0, chunk)
                logits = net(normalize(images.index_select(0, chunk))).float()
                val_total += loss_of(logits, y) * len(y)
                val_right += (logits.argmax(1) == y).sum()
        figures = [total / len(train), right / len(train), val_total / len(val), val_right / len(val)]
        print(f"epoch {epoch}:", " ".join(f"{float(figure):.4f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
