"""Print the loss sequence of the six published recipes' first 50 steps, to compare two forms of fmx to the bit.

    python benchmarks/loss_sequences.py [--python OTHER/.venv/bin/python] [--only NAME ...]

Needs Fashion-MNIST and MNIST. With --python, each recipe is run by this environment and by another one, in turn, and
the last column says whether steps, history, metrics and the weights of last.ckpt are the same.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

RECIPES = ["three_conv_adam", "dilated_adam", "avgpool_adam", "lenet_mnist", "dropout_cnn_adam", "mlp_sgd"]
STEPS = 50
WEIGHTS = """
import hashlib, sys, torch
state = torch.load(sys.argv[1], weights_only=True)["state_dict"]
digest = hashlib.sha256()
for name in sorted(state):
    digest.update(name.encode() + state[name].contiguous().view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


def main() -> None:
    """Run the recipes and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="of another environment, to compare with")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=RECIPES)
    arguments = parser.parse_args()
    pythons = [sys.executable, *([arguments.python] if arguments.python else [])]
    for recipe in arguments.only:
        traces = [trace(python, recipe) for python in pythons]
        first, last = traces[0]["losses"][0], traces[0]["losses"][-1]
        same = ("the same" if traces[0] == traces[1] else "DIFFERENT") if len(traces) > 1 else ""
        print(
            f"{recipe:<18} {len(traces[0]['losses'])} steps, {first!r} … {last!r} {traces[0]['digest'][:16]} {same}",
            flush=True,
        )


def trace(python: str, recipe: str) -> dict[str, object]:
    """The losses of a recipe's first steps, and a hash of all that came of them."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        overrides = [
            f"trainer.limit_train_batches={STEPS}",
            "trainer.max_epochs=1",
            f"trainer.val_check_interval={STEPS}",
            "callbacks.history.every_step=true",
        ]
        command = [python, "-m", "fmx.run", f"experiment={recipe}", *overrides, "logger=none", f"hydra.run.dir={run}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        steps = pd.read_csv(run / "steps.csv", dtype=str)
        history = pd.read_csv(run / "history.csv", dtype=str).drop(columns="seconds")
        weights = subprocess.run(
            [python, "-c", WEIGHTS, run / "checkpoints/last.ckpt"], check=True, capture_output=True, text=True
        ).stdout
        told = steps.to_csv() + history.to_csv() + (run / "metrics.json").read_text() + weights
        losses = [
            text for text in steps[next(name for name in steps if name.endswith("loss"))] if isinstance(text, str)
        ]
        return {"losses": losses, "digest": hashlib.sha256(told.encode()).hexdigest()}


if __name__ == "__main__":
    main()
