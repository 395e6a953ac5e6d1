"""Peak memory of a run against its imports, its arrays and its model; and an image folder larger than the limit.

    python benchmarks/memory.py [--repeats 3] [--limit-mb 128] [--device cuda] [--table]

The first part is measured from outside, as the kernel counts it. "Model" is what one plain training step of the same
network holds on top: weights, gradients, optimizer, activations. For the second part, images are written until
their pixels take more than --limit-mb; a run on them may take that much more than a run on a tenth of them at most.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from alternate import alternate, median
from claim import Claim, at_most
from extracted_data import extracted
from machine import describe, in_words
from page_table import write_table
from process import fmx_run, timed
from result_file import load, save

PYTHON = sys.executable
RUN = ["model=three_conv", "augment=none", "trainer.max_epochs=1", "trainer.limit_train_batches=40"]
# What a run has imported by its end, and the step that its model needs at least, on arrays of no size.
IMPORTS = """
import fmx.training.build, fmx.training.fit, fmx.inference.scoring, fmx.reporting.results
import torch.utils.tensorboard, torch._dynamo
"""
STEP = """
import torch
from fmx.training.build import build_classifier
from fmx.runs.composition import compose_config
from fmx.training.hardware import keep_freed_memory, resolve_precision
keep_freed_memory()
cfg = compose_config({overrides!r})
parts = build_classifier(cfg)
device = torch.device({device!r})
parts = parts.to(device)
bf16 = resolve_precision("auto", accelerator={device!r}, net=parts.net) == "bf16-mixed"
optimizer = parts.make_optimizer(parts.net.parameters())
images, labels = torch.rand(250, 1, 28, 28, device=device), torch.zeros(128, dtype=torch.int64, device=device)
for _ in range(3):
    optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        parts.loss(parts.net(images[:128]), labels).backward()
    optimizer.step()
with torch.inference_mode():
    parts.net.eval()(images)
"""
SIZE, NUM_CLASSES = 64, 10  # pixels of a side in the image folder


def peak(code: str) -> float:
    return timed([PYTHON, "-c", code]).peak_mb


def measure(repeats: int, device: str) -> dict[str, Any]:
    data = extracted()
    overrides = [*RUN, f"data.root={data}"]
    peaks = alternate(
        {
            "imports": lambda _: peak(IMPORTS),
            "imports and model": lambda _: peak(IMPORTS + STEP.format(overrides=overrides, device=device)),
            "run": lambda _: fmx_run(*overrides, device=device)["peak_mb"],
        },
        repeats,
    )
    arrays = 70_000 * (28 * 28 + 8) / 2**20
    imports, with_model, run = (median(values) for values in peaks.values())
    allowed = with_model + 1.5 * arrays
    return {"peaks_mb": peaks, "arrays_mb": arrays, "model_mb": with_model - imports, "allowed_mb": allowed,
            "of_allowed": run / allowed}  # fmt: skip


def write_images(root: Path, limit_mb: float) -> int:
    """PNG files whose pixels take a quarter more than the limit; returns their number."""
    import numpy as np
    from PIL import Image

    rng, count = np.random.default_rng(0), 0
    total = int(1.25 * limit_mb * 2**20 / (3 * SIZE * SIZE))
    for part, share in (("train", total), ("test", total // 20)):
        for number in range(share):
            folder = root / part / f"class{number % NUM_CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            colours = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)  # few, so that the files stay small
            Image.fromarray(colours.repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)).save(folder / f"{number}.png")
            count += 1
    return count


def folder_larger_than_memory(limit_mb: int, device: str) -> dict[str, Any]:
    """The same training on few images and on more than fit into the limit: what the peak grows by."""
    peaks, counts = {}, {}
    for name, share in (("small", 0.1), ("large", 1.0)):
        with tempfile.TemporaryDirectory() as folder:
            counts[name] = write_images(Path(folder), share * limit_mb)
            overrides = ["data=image_folder", f"data.root={folder}", "data.in_channels=3", f"data.image_size={SIZE}",
                         "data.num_workers=1", "model=lenet", "augment=none", "trainer.max_epochs=1"]  # fmt: skip
            peaks[name] = fmx_run(*overrides, device=device)["peak_mb"]
    pixels = counts["large"] * 3 * SIZE * SIZE / 2**20
    return {"images": counts["large"], "pixels_mb": pixels, "limit_mb": limit_mb,
            "added_mb": peaks["large"] - peaks["small"]}  # fmt: skip


def claims(results: dict[str, Any]) -> list[Claim]:
    run, folder = results["measured"]["run"], results["measured"]["folder"]
    return [
        at_most("peak memory of a run", median(run["peaks_mb"]["run"]), run["allowed_mb"], "{:.0f} MiB"),
        at_most("more memory for ten times the image files", folder["added_mb"], folder["limit_mb"], "{:.0f} MiB"),
    ]


def write(results: dict[str, Any]) -> None:
    measured, folder = results["measured"]["run"], results["measured"]["folder"]
    medians = {name: median(values) for name, values in measured["peaks_mb"].items()}
    rows = [
        ["a run on Fashion-MNIST", f"**{medians['run']:.0f} MiB**",
         (f"≤ {measured['allowed_mb']:.0f} MiB = imports {medians['imports']:.0f} + 1.5 × arrays "
         f"{measured['arrays_mb']:.0f} + model {measured['model_mb']:.0f}")],
        [f"{folder['images']:,} image files, {folder['pixels_mb']:.0f} MiB of pixels",
         f"**{folder['added_mb']:.0f} MiB** more than on a tenth of them", f"≤ {folder['limit_mb']} MiB"],
    ]  # fmt: skip
    write_table(
        "memory",
        ["what", "peak", "target"],
        rows,
        f"Medians. On {in_words(results['machine'])}.",
        machine=results["machine"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit-mb", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("memory", arguments.device)
    else:
        machine = describe(arguments.device)
        measured = {
            "run": measure(arguments.repeats, arguments.device),
            "folder": folder_larger_than_memory(arguments.limit_mb, arguments.device),
        }
        results = save("memory", machine, measured)
    write(results)


if __name__ == "__main__":
    main()
