"""`fmx lr-find`: draw the training loss over the learning rate, and print the rate to set."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from fmx.commands.verb_parser import VerbParser
from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError
from fmx.process.exits import plain_exits
from fmx.process.start import as_command

__all__ = ["lr_find", "main", "make_parser"]

DESCRIPTION = """\
Train for a hundred steps at a rate that grows from step to step (a range test: Smith, 2017, arXiv:1506.01186), draw the
loss over the rate, and print the rate at which the loss fell fastest. Nothing is kept of this training.
"""
EXAMPLES = """\
examples:
  fmx lr-find data=digits model=lenet
  fmx lr-find model=resnet20 optim=sgd --max 10 --steps 200
  fmx lr-find --config-dir my model=mine --figure curve.png
"""
LOWEST, HIGHEST, NUM_STEPS = 1e-6, 1.0, 100
FIGURES = "outputs/lr_find"


def make_parser() -> VerbParser:
    """The verb's options and arguments."""
    parser = VerbParser("lr-find", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of a run, as in `fmx OVERRIDES`")
    parser.add_argument("--min", type=float, default=LOWEST, metavar="LR", help=f"the first rate ({LOWEST:g})")
    parser.add_argument("--max", type=float, default=HIGHEST, metavar="LR", help=f"the last rate ({HIGHEST:g})")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, metavar="N", help=f"how many rates ({NUM_STEPS})")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help=f"where to draw it (a new file in {FIGURES})")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with YAML of your own, as for a run")
    return parser


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    arguments = make_parser().parse_intermixed_args()
    with plain_exits():
        lr_find(
            arguments.overrides,
            lowest=arguments.min,
            highest=arguments.max,
            num_steps=arguments.steps,
            figure=arguments.figure,
            config_dir=arguments.config_dir,
        )
    sys.stdout.flush()


def lr_find(
    overrides: Sequence[str],
    *,
    lowest: float,
    highest: float,
    num_steps: int,
    figure: Path | None = None,
    config_dir: str | None = None,
) -> float:
    """Run the test for a composed configuration, write the figure, and print and return the rate."""
    from omegaconf import OmegaConf, open_dict

    from fmx.config.check import check_config
    from fmx.config.quoting import override
    from fmx.config.typed_values import check_typed, quote_texts
    from fmx.process.distributed import start_on_machines
    from fmx.runs.composition import compose_config, stamp
    from fmx.training.check import check_parts
    from fmx.training.hardware import set_up_process

    if not (0 < lowest < highest < math.inf):
        raise ConfigError(f"--min must be above 0 and below --max, got {lowest:g} and {highest:g}")
    if num_steps < FEWEST:
        raise ConfigError(f"--steps must be at least {FEWEST}, got {num_steps}")
    if figure is not None and figure.suffix.lower() != ".png":
        raise ConfigError(f"--figure takes a file whose name ends in .png, got {figure}")
    check_typed(overrides)
    cfg = compose_config(quote_texts(overrides), config_dir=config_dir)
    check_parts(cfg, check_config(cfg))
    set_up_process(cfg.trainer)
    from fmx.reporting.figures.lr_curve import lr_curve
    from fmx.training.lr_range_test import lr_range_test

    path = figure or Path(FIGURES, f"{stamp()}_{cfg.model.name}_{cfg.data.name}.png")
    with open_dict(cfg):
        cfg.run_dir = str(path.parent)
    found = lr_range_test(cfg, lowest=lowest, highest=highest, num_steps=num_steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    lr_curve(found.rates, found.losses, found.smooth, chosen=found.steepest).savefig(path)
    last = "" if len(found.losses) >= num_steps else f"; it diverged at {found.rates[-1]:.2g}"
    print(f"the loss fell fastest at a rate of {found.steepest:.2g}, and was lowest at {found.lowest:.2g}{last}")
    print(path)
    rest = [word for word in overrides if not word.lstrip("+").startswith("optim.lr=")]
    options = [] if config_dir is None else ["--config-dir", config_dir]
    start, needs_folder = start_on_machines(cfg.trainer, "FIRST_HOST")
    folder = [override("hydra.run.dir", Path("outputs", "runs", path.stem))] if needs_folder else []
    start = start if start[0] != "python" else ["fmx"]
    print(printed_command(*start, *options, *rest, f"optim.lr={found.steepest:.2g}", *folder))
    if OmegaConf.select(cfg, "optim.lr") is None:
        print("(this optimizer's configuration has no key lr: give it one, or set its own)")
    return found.steepest


FEWEST = 20  # steps; the first ten say little


if __name__ == "__main__":
    as_command(main)
