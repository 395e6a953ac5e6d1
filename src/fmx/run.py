"""`python -m fmx.run`: compose a configuration, train, choose a checkpoint, test it once, leave a run directory."""

import logging
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from fmx.commands.command_line import in_hydra_order, resumed_sweep
from fmx.commands.completion import complete, is_query
from fmx.commands.verbs import verbs_in_help
from fmx.config.conf_dir import CONF_DIR
from fmx.config.quick_hydra import compose_once, list_groups_from_one_copy, list_whole_members_only, own_files_first
from fmx.config.typed_values import check_typed, quote_texts
from fmx.errors import ConfigError
from fmx.process import dry_run
from fmx.process.exits import BEFORE_ANY_JOB, advice, plain_exits
from fmx.process.start import as_command, is_own_process
from fmx.process.version import __version__
from fmx.runs.composition import register_resolvers
from fmx.runs.resume import expand_resume

if TYPE_CHECKING:
    from fmx.inference.opened_run import Run

__all__ = ["command", "main", "run", "train"]

_started = time.time()
_run_dirs: list[Path] = []  # of this process's runs: Hydra hands on nothing that a run returns
register_resolvers()
OmegaConf.register_new_resolver("verbs", verbs_in_help, replace=True, use_cache=False)  # of --help


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def run(cfg: DictConfig) -> float:
    """One run, from its composed configuration to a complete run directory; returns the validation accuracy."""
    from fmx.inference.scoring import test
    from fmx.runs.record import recording
    from fmx.training.build import build
    from fmx.training.fit import fit

    with recording(cfg, started=_started) as record:
        _run_dirs.append(record.run_dir)
        experiment = build(cfg, record)
        checkpoint = fit(experiment)
        scores = test(experiment, checkpoint)
        from fmx.reporting.results import report  # brings what draws and tabulates, for which training need not wait

        return report(experiment, scores)


def _without_dry_run(arguments: list[str]) -> list[str]:
    """The arguments without `--dry-run`, which is obeyed wherever it stands."""
    dry_run.ask(dry_run.FLAG in arguments)
    return [each for each in arguments if each != dry_run.FLAG]


def _continue_sweep(folder: Path, allow: list[str], root: str | None) -> None:
    """`--resume-sweep DIR [--allow PKG] [data.root=DIR]`: run what an earlier sweep did not complete."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    from fmx.sweeps.continuation import continue_sweep

    continue_sweep(folder, allow, root)


def _compose_and_run(arguments: list[str]) -> None:
    """Hand the command line to Hydra, which composes the configuration and calls `run`."""
    with ExitStack() as meanwhile:
        if {"--help", "-h", "--shell-completion"} & {*arguments}:
            meanwhile.enter_context(list_groups_from_one_copy())
            meanwhile.enter_context(list_whole_members_only())
        meanwhile.enter_context(compose_once())
        meanwhile.enter_context(own_files_first())
        sys.argv[1:] = arguments
        if {"-m", "--multirun"} & {*arguments}:
            meanwhile.enter_context(advice(lambda: BEFORE_ANY_JOB))
        run()


def main() -> None:
    """Run the command line and end with one of fmx's exit codes; a process that goes on gets its state back."""
    global _started  # noqa: PLW0603 - of this command, which need not be the first of its process
    if not is_own_process():
        _started = time.time()
    arguments = sys.argv[1:]
    with plain_exits():
        arguments = _without_dry_run(arguments)
        if is_query(arguments):
            if (hydras := complete(arguments)) is not None:
                _compose_and_run(hydras)
        elif sweep := resumed_sweep(arguments):
            _continue_sweep(Path(sweep[0]), *sweep[1:])
        elif "--version" in arguments:
            print(f"fmx {__version__}")
        else:
            check_typed(arguments)
            _compose_and_run(quote_texts(expand_resume(in_hydra_order(arguments))))
        sys.stdout.flush()  # here, where a reader that has seen enough is nothing wrong


def train(*overrides: str, config_dir: str | Path | None = None) -> "Run":
    """Train in this process as the command line does, and open the run; see `fmx.train`."""
    from fmx.inference.opened_run import open_run
    from fmx.process.exits import raised_errors

    given = list(overrides)
    if not all(isinstance(each, str) for each in given):
        raise ConfigError(f"overrides are texts, as on the command line: got {given!r}")
    if options := [each for each in given if each.startswith("-")]:
        raise ConfigError(f"fmx.train takes overrides alone, and trains one run: {options[0]} is for the command line")
    with raised_errors():
        global _started  # noqa: PLW0603 - of this run
        _started = time.time()
        _run_dirs.clear()
        dry_run.ask(asked=False)
        arguments = given if config_dir is None else ["--config-dir", str(config_dir), *given]
        sys.argv[:] = ["fmx.train", *arguments]
        check_typed(given)
        _compose_and_run(quote_texts(expand_resume(in_hydra_order(arguments))))
        return open_run(_run_dirs[-1])


def command() -> None:
    """Do what `main` does as a process of its own, which ends with it."""
    as_command(main)


if __name__ == "__main__":
    command()
