"""The best plain PyTorch loop for the same model, data path, precision and metrics against fmx with everything on.

    python benchmarks/overhead.py [--repeats 5] [--epochs 2] [--only mlp] [--device cuda] [--table]

Both sides are processes of their own that take turns, and both count the seconds of an epoch alone: training, its loss
and accuracy, a validation. fmx adds Lightning, TensorBoard, history.csv, two checkpoints and the check for NaN.
--only keeps the rows of the others.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from alternate import alternate, median, ratio
from chosen import chosen
from claim import Claim, at_most
from extracted_data import extracted
from machine import describe, in_words
from process import fmx_run, timed
from readme_table import write_table
from result_file import load, measured_before, save

CASES = {  # name: overrides, target for fmx / plain loop
    "three_conv, batch 256": (["model=three_conv", "augment=none", "data.batch_size=256"], 1.05),
    "dropout_cnn, batch 256": (["model=dropout_cnn", "augment=none", "data.batch_size=256"], 1.05),
    "lenet, batch 256": (["model=lenet", "augment=none", "data.batch_size=256"], 1.05),
    "mlp, batch 32": (["experiment=mlp_sgd", "trainer.check_val_every_n_epoch=1", "trainer.val_check_interval=1.0",
                       "callbacks.history.every_step=false"], 1.10),
}  # fmt: skip
ON_GPU = {"three_conv, batch 512": (["model=three_conv", "augment=none", "data.batch_size=512"], 1.10)}
PLAIN = Path(__file__).with_name("plain_loop.py")


def plain(overrides: list[str], *, device: str) -> float:
    """Median seconds of an epoch after the first, which warms caches up."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "seconds.json"
        timed([sys.executable, str(PLAIN), "--device", device, "--result", str(result), *overrides])
        return median(json.loads(result.read_text())[1:])


def fmx(overrides: list[str], *, device: str) -> float:
    history = fmx_run(*overrides, device=device)["history"]
    return median([float(row["seconds"]) for row in history][1:])


def measure(overrides: list[str], *, repeats: int, epochs: int, data: Path, device: str) -> dict[str, list[float]]:
    arguments = [*overrides, f"data.root={data}", f"trainer.max_epochs={epochs + 1}"]
    return alternate(
        {"plain loop": lambda _: plain(arguments, device=device), "fmx": lambda _: fmx(arguments, device=device)},
        repeats,
    )


def claims(measured: dict[str, Any]) -> list[Claim]:
    return [
        at_most(f"{name}: fmx ÷ best plain loop", entry["ratio"], entry["target"]) for name, entry in measured.items()
    ]


def write(results: dict[str, Any]) -> None:
    rows = [
        [name, f"{median(entry['seconds']['plain loop']):.3f} s", f"{median(entry['seconds']['fmx']):.3f} s",
         f"**{entry['ratio']:.2f} ×**", f"≤ {entry['target']:.2f} ×"]
        for name, entry in results["measured"].items()
    ]  # fmt: skip
    caption = f"Medians of {len(entry_seconds(results))} alternating runs each. On {in_words(results['machine'])}."
    write_table(
        "overhead",
        ["case", "plain loop, an epoch", "fmx, an epoch", "ratio", "target"],
        rows,
        caption,
        machine=results["machine"],
    )


def entry_seconds(results: dict[str, Any]) -> list[float]:
    first: list[float] = next(iter(results["measured"].values()))["seconds"]["fmx"]
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("overhead", arguments.device)
    else:
        machine, data = describe(arguments.device), extracted()
        measured = measured_before("overhead", machine) if arguments.only else {}
        cases = CASES | (ON_GPU if arguments.device == "cuda" else {})
        names = chosen(arguments.only, list(dict.fromkeys(name.partition(",")[0] for name in cases)))
        for name, (overrides, target) in cases.items():
            if name.partition(",")[0] not in names:
                continue
            options = {"repeats": arguments.repeats, "epochs": arguments.epochs, "device": arguments.device}
            seconds = measure(overrides, data=data, **options)
            measured[name] = {
                "target": target,
                "seconds": seconds,
                "ratio": ratio(seconds["fmx"], seconds["plain loop"]),
            }
            print(f"{name}: {measured[name]['ratio']:.3f}", flush=True)
        results = save("overhead", machine, measured)
    write(results)


if __name__ == "__main__":
    main()
