"""Images a second of a trained network: as `fmx evaluate` scores it, and as `fmx export` hands it to ONNX Runtime.

    python benchmarks/inference.py [--model three_conv] [--repeats 5] [--device cuda] [--table]

Both take pixels and give logits in float32, the test set in order, in batches of 1, 32 and 1024. The network is
trained for a few steps only: its speed does not depend on its weights.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alternate import alternate, median
from extracted_data import extracted
from fmx.inference.export.onnx_model import open_onnx
from fmx.inference.scoring import predict
from fmx.runs.composition import compose_config
from fmx.training.build import build_classifier, build_data
from machine import describe, in_words
from page_table import write_table
from process import timed
from result_file import load, save

BATCHES = {1: 1000, 32: 9984, 1024: 10_000}  # batch size: images that it is timed on
PYTHON = sys.executable


def of_evaluate(overrides: list[str], batch: int, images: int, device: str) -> Callable[[int], float]:
    cfg = compose_config([*overrides, f"data.eval_batch_size={batch}"])
    classifier, data = build_classifier(cfg).eval(), build_data(cfg)
    where = torch.device("cuda:0" if device == "cuda" else "cpu")

    def rate(_: int) -> float:
        began = time.perf_counter()
        predict(classifier, data, "test", device=where, limit=-(-images // batch))
        return images / (time.perf_counter() - began)

    return rate


def of_onnx(file: Path, overrides: list[str], batch: int, images: int) -> Callable[[int], float]:
    _, logits = open_onnx(file)
    pixels = build_data(compose_config(overrides)).sources["test"].images[:images].numpy()

    def rate(_: int) -> float:
        began = time.perf_counter()
        for start in range(0, images, batch):
            logits(pixels[start : start + batch])
        return images / (time.perf_counter() - began)

    return rate


def measure(model: str, repeats: int, device: str) -> dict[str, Any]:
    overrides = [f"model={model}", f"data.root={extracted()}"]
    with tempfile.TemporaryDirectory() as folder:
        run, file = f"{folder}/run", f"{folder}/model.onnx"
        timed([PYTHON, "-m", "fmx.run", *overrides, "trainer=smoke", f"hydra.run.dir={run}"])
        timed([PYTHON, "-m", "fmx.commands.export", run, "--out", file])
        measured = {}
        for batch, images in BATCHES.items():
            sides = {
                "evaluate": of_evaluate(overrides, batch, images, device),
                "ONNX Runtime": of_onnx(Path(file), overrides, batch, images),
            }
            for side in sides.values():
                side(0)
            measured[str(batch)] = alternate(sides, repeats)
            print(batch, {name: round(median(rates)) for name, rates in measured[str(batch)].items()}, flush=True)
    return {"model": model, "images_per_s": measured}


def write(results: dict[str, Any]) -> None:
    measured = results["measured"]
    rows = [
        [batch, *(f"{median(rates):,.0f}" for rates in sides.values())]
        for batch, sides in measured["images_per_s"].items()
    ]
    caption = f"Images a second of {measured['model']}, float32, medians. On {in_words(results['machine'])}."
    write_table("inference", ["batch", "`fmx evaluate`", "ONNX Runtime"], rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="three_conv")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("inference", arguments.device)
    else:
        machine = describe(arguments.device)
        results = save("inference", machine, measure(arguments.model, arguments.repeats, arguments.device))
    write(results)


if __name__ == "__main__":
    main()
