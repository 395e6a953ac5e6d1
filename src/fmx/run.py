"""`python -m fmx.run`: compose a configuration, train, choose a checkpoint, test it once, leave a run directory."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import hydra
from omegaconf import DictConfig

from fmx import __version__
from fmx.command import as_command
from fmx.composition import CONF_DIR, register_resolvers
from fmx.errors import ConfigError
from fmx.exits import plain_exits
from fmx.quick_hydra import compose_once, list_groups_from_one_copy, list_whole_members_only
from fmx.resume import retyped

__all__ = ["command", "main", "run"]

STARTED = time.time()
# How often an OpenMP thread that has nothing to do looks for work before it sleeps; read when torch is imported. GNU's
# own 300,000 keep a core from other processes that share it, for which the step itself has to wait then.
SPINS = "60000"
register_resolvers()


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def run(cfg: DictConfig) -> float:
    """One run, from its composed configuration to a complete run directory; returns the validation accuracy."""
    from fmx.build import build
    from fmx.fit import fit
    from fmx.record import recording
    from fmx.scoring import test

    with recording(cfg, started=STARTED) as record:
        experiment = build(cfg, record)
        checkpoint = fit(experiment)
        scores = test(experiment, checkpoint)
        from fmx.results import report  # brings what draws and tabulates, for which training need not wait

        return report(experiment, scores)


def _continue_sweep(arguments: list[str]) -> None:
    """`--resume-sweep DIR [--allow PKG]`: run what an earlier sweep did not complete."""
    allow = [arguments[n + 1] for n, each in enumerate(arguments[:-1]) if n and each == "--allow"]
    if len(arguments) != 1 + 2 * len(allow):
        raise ConfigError(
            "--resume-sweep takes the directory of a sweep, and what you trust in it: --resume-sweep DIR [--allow PKG]"
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    from fmx.sweep.local import continue_sweep

    continue_sweep(Path(arguments[0]), allow)


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    with plain_exits():
        if sys.argv[1:2] == ["--resume-sweep"]:
            _continue_sweep(sys.argv[2:])
        elif sys.argv[1:] == ["--version"]:
            print(f"fmx {__version__}")
        else:
            if {"--help", "-h"} & set(sys.argv):
                list_groups_from_one_copy()
                list_whole_members_only()
            compose_once()
            sys.argv[1:] = retyped(sys.argv[1:])
            run()
        sys.stdout.flush()  # here, where a reader that has seen enough is nothing wrong


def command() -> NoReturn:
    """Do what `main` does as a process of its own, which ends with it."""
    as_command(main)


if __name__ == "__main__":
    command()
