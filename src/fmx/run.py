"""`python -m fmx.run`: compose a configuration, train, choose a checkpoint, test it once, leave a run directory."""

import time

import hydra
from omegaconf import DictConfig

from fmx.composition import CONF_DIR, register_resolvers
from fmx.exits import plain_exits

__all__ = ["main", "run"]

STARTED = time.time()
register_resolvers()


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def run(cfg: DictConfig) -> float:
    """One run, from its composed configuration to a complete run directory; returns the validation accuracy."""
    from fmx.build import build
    from fmx.fit import fit
    from fmx.record import recording
    from fmx.results import report
    from fmx.scoring import test

    with recording(cfg, started=STARTED) as record:
        experiment = build(cfg, record)
        checkpoint = fit(experiment)
        scores = test(experiment, checkpoint)
        return report(experiment, scores)


def main() -> None:
    """Run the command line and end with one of fmx's exit codes."""
    with plain_exits():
        run()


if __name__ == "__main__":
    main()
