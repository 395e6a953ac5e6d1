"""The best plain PyTorch loop for the same model, data path, precision and metrics against fmx with everything on.

    python benchmarks/overhead.py [--repeats 2] [--epochs 8] [--only mlp] [--device cuda] [--table]

Both sides are processes of their own, alive at the same time, of which one sleeps while the other trains an epoch: what
else the machine does falls on both alike. An epoch lasts from one line that a side prints of its epochs to the next:
training, its loss and accuracy, a validation. fmx adds Lightning, TensorBoard, history.csv, two checkpoints and the
check for NaN. --repeats starts both anew, --only keeps the rows of the others.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from alternate import alternate, median, ratio
from chosen import chosen
from claim import Claim, at_most
from extracted_data import extracted
from machine import describe, in_words
from page_table import write_table
from process import ACCELERATORS
from result_file import load, measured_before, save

CASES = {  # name: overrides, target for fmx / plain loop
    "three_conv, batch 256": (["model=three_conv", "augment=none", "data.batch_size=256"], 1.05),
    "dropout_cnn, batch 256": (["model=dropout_cnn", "augment=none", "data.batch_size=256"], 1.05),
    "lenet, batch 256": (["model=lenet", "augment=none", "data.batch_size=256"], 1.05),
    "mlp, batch 32": (["experiment=mlp_sgd", "trainer.check_val_every_n_epoch=1", "trainer.val_check_interval=1.0",
                       "callbacks.history.every_step=false"], 1.10),
}  # fmt: skip
BATCH_512 = (["model=three_conv", "augment=none", "data.batch_size=512"], 1.10)
ON_GPU = {
    "three_conv, batch 512": BATCH_512,
    "three_conv, batch 512, loop without CUDA graph": BATCH_512,
    "mlp, batch 32": CASES["mlp, batch 32"],
}
PLAIN = Path(__file__).with_name("plain_loop.py")


class Side:
    """A process that trains one epoch when it is its turn, and is stopped in between.

    Entered, it has warmed up in its first epoch; it is killed at the end of the block.
    """

    def __init__(self, command: list[str]) -> None:
        self.command = " ".join(command)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        self.printed: list[str] = []

    def __enter__(self) -> Self:
        self.epoch()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def epoch(self, _: int = 0) -> float:
        """Return the seconds of the next epoch; RuntimeError with the process's output where it ends instead."""
        assert self.process.stdout is not None
        began = time.perf_counter()
        self.process.send_signal(signal.SIGCONT)
        for line in self.process.stdout:
            if line.startswith("epoch "):
                self.process.send_signal(signal.SIGSTOP)
                return time.perf_counter() - began
            self.printed.append(line)
        raise RuntimeError(f"{self.command} ended:\n{''.join(self.printed)}")


def measure(
    overrides: list[str], *, repeats: int, epochs: int, data: Path, device: str, eager: bool
) -> dict[str, list[float]]:
    # The time in which a process is stopped passes for it, too: last.ckpt would be due in the middle of an epoch.
    values = [*overrides, f"data.root={data}", f"trainer.max_epochs={epochs + 2}", "trainer.checkpoint_every_s=3600"]
    seconds: dict[str, list[float]] = {"plain loop": [], "fmx": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="fmx-bench-") as folder:
            run = ["-m", "fmx.run", f"trainer.accelerator={ACCELERATORS[device]}", f"hydra.run.dir={folder}/run"]
            loop = [str(PLAIN), "--device", device, *(["--eager"] if eager else [])]
            with Side([sys.executable, *loop, *values]) as plain, Side([sys.executable, *run, *values]) as fmx:
                for name, taken in alternate({"plain loop": plain.epoch, "fmx": fmx.epoch}, epochs).items():
                    seconds[name] += taken
    return seconds


def claims(results: dict[str, Any]) -> list[Claim]:
    return [
        at_most(f"{name}: fmx ÷ best plain loop", entry["ratio"], entry["target"], date=entry.get("date"))
        for name, entry in results["measured"].items()
    ]


def write(results: dict[str, Any]) -> None:
    rows = [
        [name, f"{median(entry['seconds']['plain loop']):.3f} s", f"{median(entry['seconds']['fmx']):.3f} s",
         f"**{entry['ratio']:.2f} ×**", f"≤ {entry['target']:.2f} ×",
         f"{len(entry['seconds']['fmx'])} {entry.get('of', 'runs in turn')}"]
        for name, entry in results["measured"].items()
    ]  # fmt: skip
    caption = f"On {in_words(results['machine'])}."
    header = ["case", "plain loop, an epoch", "fmx, an epoch", "ratio", "target", "medians of"]
    write_table("overhead", header, rows, caption, machine=results["machine"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", default="")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        results = load("overhead", arguments.device)
    else:
        machine, data = describe(arguments.device), extracted()
        measured = measured_before("overhead", machine) if arguments.only else {}
        cases = ON_GPU if arguments.device == "cuda" else CASES
        names = chosen(arguments.only, list(dict.fromkeys(name.partition(",")[0] for name in cases)))
        for name, (overrides, target) in cases.items():
            if name.partition(",")[0] not in names:
                continue
            options = {"repeats": arguments.repeats, "epochs": arguments.epochs, "device": arguments.device}
            seconds = measure(overrides, data=data, eager="without CUDA graph" in name, **options)
            measured[name] = {
                "target": target,
                "of": "epochs in turn",
                "seconds": seconds,
                "ratio": ratio(seconds["fmx"], seconds["plain loop"]),
            }
            print(f"{name}: {measured[name]['ratio']:.3f}", flush=True)
            results = save("overhead", machine, measured)
    write(results)


if __name__ == "__main__":
    main()
