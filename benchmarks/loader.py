"""The data path alone: 60,000 training images gathered, augmented and normalised, against a worker DataLoader.

    python benchmarks/loader.py [--repeats 9] [--batch-size 256] [--device cuda] [--table]

The other side is torchvision's dataset with the same augmentation as per-image transforms and two worker processes.
fmx applies RandAugment to single images too, in this process or in two others; the other side has as many. These rows
are of fewer images and a third of the rounds, in seconds for 60,000.
"""

import argparse
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms
from torchvision.transforms import v2

from alternate import alternate, median
from claim import Claim, at_most
from extracted_data import extracted
from fmx.runs.composition import compose_config
from fmx.training.build import build_data
from machine import describe, in_words
from page_table import write_table
from result_file import load, save

AUGMENT = {
    "none": 60,
    "flip": None,
    "crop_flip": None,
    "erasing": 500,
    "affine": None,
}  # target for 60,000 images, milliseconds
PER_IMAGE: dict[str, list[Any]] = {
    "none": [],
    "flip": [transforms.RandomHorizontalFlip()],
    "crop_flip": [transforms.RandomCrop(28, padding=2), transforms.RandomHorizontalFlip()],
    "erasing": [transforms.RandomCrop(28, padding=2), transforms.RandomHorizontalFlip()],
    "affine": [transforms.RandomAffine(10, (0.1, 0.1), interpolation=transforms.InterpolationMode.BILINEAR)],
}
SINGLE = {"randaugment": [v2.RandAugment()]}  # what fmx applies to single images as well
FEWER = 12_000  # images
NUM_IMAGES = 60_000


def through(batches: Iterable[Any], finish: Any) -> float:
    """Seconds for 60,000 images."""
    began, seen = time.perf_counter(), 0
    for batch in batches:
        _, labels = finish(batch)
        seen += len(labels)
    if labels.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * NUM_IMAGES / seen


def fmx_paths(augment: str, *more: str, data: str, batch_size: int, device: str) -> dict[str, Any]:
    """The loader that a training gets, with and without what is done to its batches."""
    overrides = [
        f"augment={augment}",
        f"data.root={data}",
        "data.validation=none",
        f"data.batch_size={batch_size}",
        *more,
    ]
    module = build_data(compose_config(overrides))
    accelerator = "gpu" if device == "cuda" else "cpu"
    trainer = Trainer(accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.training = True  # what augments asks for it
    module.trainer = trainer
    loader = module.train_dataloader()
    return {
        f"{augment}: gather": lambda _: through(loader, lambda batch: batch),
        f"{augment}: whole path": lambda _: through(loader, lambda batch: module.on_after_batch_transfer(batch, 0)),
    }


def workers(augment: str, *, data: str, batch_size: int, device: str, num_workers: int = 2, images: int = 0) -> float:
    """Seconds that torchvision's way takes: a DataLoader with worker processes, for all images or the first ones."""
    steps = [*(PER_IMAGE | SINGLE)[augment], transforms.ToTensor(), transforms.Normalize((0.286041,), (0.353024,))]
    steps += [transforms.RandomErasing(0.5, (0.02, 0.2), (0.3, 3.3))] if augment == "erasing" else []
    dataset: Any = datasets.FashionMNIST(data, train=True, transform=transforms.Compose(steps))
    dataset = Subset(dataset, range(images)) if images else dataset
    batches = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=num_workers)
    return through(batches, lambda batch: [part.to(device) for part in batch])


def measure(repeats: int, batch_size: int, device: str) -> dict[str, Any]:
    data = str(extracted())
    measured = {}
    for augment, target_ms in AUGMENT.items():
        paths = fmx_paths(augment, data=data, batch_size=batch_size, device=device)
        for path in paths.values():
            path(0)  # first touch of memory
        seconds = alternate(paths, repeats)
        seconds["worker DataLoader"] = [workers(augment, data=data, batch_size=batch_size, device=device)]
        measured[augment] = {"target_ms": target_ms, "seconds": seconds}
        print(augment, {name: f"{1000 * median(values):.0f} ms" for name, values in seconds.items()}, flush=True)
    return measured | measure_single(max(1, repeats // 3), data, batch_size, device)


def measure_single(repeats: int, data: str, batch_size: int, device: str) -> dict[str, Any]:
    """Rows of what is applied to single images, without workers and with two."""
    measured = {}
    here: Any = {"data": data, "batch_size": batch_size, "device": device}
    for augment in SINGLE:
        for number in (0, 2):
            part = [f"data.validation={NUM_IMAGES - FEWER}", f"data.num_workers={number}"]
            sides = fmx_paths(augment, *part, **here)
            for path in sides.values():
                path(0)  # starts the workers, which stay
            other = partial(workers, augment, **here, num_workers=number, images=FEWER)
            seconds = alternate(sides | {"worker DataLoader": lambda _, other=other: other()}, repeats)
            name = f"{augment}, {number} workers"
            measured[name] = {"target_ms": None, "seconds": seconds}
            print(name, {side: f"{median(values):.1f} s" for side, values in seconds.items()}, flush=True)
    return measured


def claims(results: dict[str, Any]) -> list[Claim]:
    return [
        at_most(f"60,000 images, `augment={augment}`", 1000 * whole_path_s(entry), entry["target_ms"], "{:.0f} ms")
        for augment, entry in results["measured"].items()
        if entry["target_ms"]
    ]


def whole_path_s(entry: dict[str, Any]) -> float:
    return next(median(seconds) for path, seconds in entry["seconds"].items() if path.endswith("whole path"))


def write(results: dict[str, Any]) -> None:
    rows = []
    for augment, entry in results["measured"].items():
        gather, whole, other = (median(values) for values in entry["seconds"].values())
        target = f"≤ {entry['target_ms']} ms" if entry["target_ms"] else "—"
        rows.append(
            [f"`{augment}`", f"{1000 * gather:.0f} ms", f"**{1000 * whole:.0f} ms**", target,
             f"{NUM_IMAGES / whole:,.0f}", f"{1000 * other:,.0f} ms", f"{other / whole:.0f} ×"]
        )  # fmt: skip
    header = ["augment", "gather", "whole path", "target", "images a second", "torchvision's DataLoader", "ratio"]
    caption = (
        "60,000 training images in batches of 256; the whole path is gather, augmentation, conversion to float and "
        "normalisation. torchvision's DataLoader has two workers, or the number in the row; fmx's gather includes what "
        f"is done to single images. Medians. On {in_words(results['machine'])}."
    )
    write_table("loader", header, rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("loader", arguments.device)
    else:
        machine = describe(arguments.device)
        results = save("loader", machine, measure(arguments.repeats, arguments.batch_size, arguments.device))
    write(results)


if __name__ == "__main__":
    main()
