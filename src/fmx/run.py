"""`python -m fmx.run`: compose a configuration, train, choose a checkpoint, test it once, write a run directory."""

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
from fmx.compat import compose_once, list_groups_uncopied, own_files_first, parse_references_once
from fmx.config.conf_dir import CONF_DIR
from fmx.config.typed_values import check_typed, quote_texts
from fmx.errors import ConfigError
from fmx.process import detach, dry_run
from fmx.process.exits import BEFORE_ANY_JOB, advice, plain_exits
from fmx.process.start import as_command, is_own_process
from fmx.process.version import __version__
from fmx.runs.composition import register_resolvers
from fmx.runs.extension import expand_extend
from fmx.runs.resume import expand_resume

if TYPE_CHECKING:
    from fmx.inference.opened_run import Run

__all__ = ["command", "main", "run", "train"]

_started = time.time()
_run_dirs: list[Path] = []  # of this process's runs, since Hydra discards their return values
register_resolvers()
OmegaConf.register_new_resolver("verbs", verbs_in_help, replace=True, use_cache=False)  # for --help


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
def run(cfg: DictConfig) -> float:
    """Run a composed configuration and write a complete run directory; returns the validation accuracy."""
    from fmx.inference.scoring import test
    from fmx.runs.record import recording
    from fmx.training.build import build
    from fmx.training.fit import fit
    from fmx.training.hardware import set_up_process

    with recording(cfg, started=_started) as record:
        _run_dirs.append(record.run_dir)
        set_up_process(cfg.trainer)
        experiment = build(cfg, record)
        checkpoint = fit(experiment)
        scores = test(experiment, checkpoint)
        from fmx.reporting.results import report  # imports plotting libraries, which training does not need

        return report(experiment, scores)


def _without_flags(arguments: list[str]) -> list[str]:
    """The arguments without `--dry-run` and `--detach`, which take effect at any position."""
    dry_run.ask(dry_run.FLAG in arguments)
    detach.ask(detach.FLAG in arguments)
    return [each for each in arguments if each not in {dry_run.FLAG, detach.FLAG}]


def _continue_sweep(folder: Path, allow: list[str], root: str | None) -> None:
    """`--resume-sweep DIR [--allow PKG] [data.root=DIR]`: run the jobs that an earlier sweep did not complete."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    from fmx.sweeps.continuation import continue_sweep

    continue_sweep(folder, allow, root)


def _compose_and_run(arguments: list[str]) -> None:
    """Let Hydra compose the configuration and call `run`."""
    with ExitStack() as contexts:
        contexts.enter_context(parse_references_once())
        contexts.enter_context(compose_once())
        contexts.enter_context(own_files_first())
        contexts.enter_context(list_groups_uncopied())
        sys.argv[1:] = arguments
        if {"-m", "--multirun"} & {*arguments}:
            contexts.enter_context(advice(lambda: BEFORE_ANY_JOB))
        run()


def main() -> None:
    """Run the command line and exit with one of fmx's exit codes; restore the state of a process that lives on."""
    global _started  # noqa: PLW0603 - one process may run several commands
    if not is_own_process():
        _started = time.time()
    arguments = sys.argv[1:]
    with plain_exits():
        arguments = _without_flags(arguments)
        if is_query(arguments):
            if (hydra_arguments := complete(arguments)) is not None:
                _compose_and_run(hydra_arguments)
        elif sweep := resumed_sweep(arguments):
            _continue_sweep(Path(sweep[0]), *sweep[1:])
        elif "--version" in arguments:
            print(f"fmx {__version__}")
        else:
            check_typed(arguments)
            _compose_and_run(quote_texts(expand_extend(expand_resume(in_hydra_order(arguments)))))
        sys.stdout.flush()  # here, where a closed pipe is not an error


def train(*overrides: str, config_dir: str | Path | None = None) -> "Run":
    """Train in this process as the command line does, and open the run; see `fmx.train`."""
    from fmx.config.targets import target_nodes
    from fmx.process.exits import raised_errors

    given = list(overrides)
    if not all(isinstance(each, str) for each in given):
        raise ConfigError(f"overrides are texts, as on the command line: got {given!r}")
    if options := [each for each in given if each.startswith("-")]:
        raise ConfigError(f"fmx.train takes overrides alone, and trains one run: {options[0]} is for the command line")
    with raised_errors():
        from fmx.inference.opened_run import open_run  # imports may draw random numbers, whose state is restored

        global _started  # noqa: PLW0603 - one process may train several runs
        _started = time.time()
        _run_dirs.clear()
        dry_run.ask(asked=False)
        detach.ask(asked=False)
        arguments = given if config_dir is None else ["--config-dir", str(config_dir), *given]
        sys.argv[:] = ["fmx.train", *arguments]
        check_typed(given)
        _compose_and_run(quote_texts(expand_extend(expand_resume(in_hydra_order(arguments)))))
        run = open_run(_run_dirs[-1])
        targets = target_nodes(OmegaConf.to_container(run.config, resolve=True), "")
        packages = {str(node["_target_"]).partition(".")[0] for _, node in targets}
        return open_run(run.path, allow=packages)  # this process has run their code already


def command() -> None:
    """The entry point: `main`, ending the process if it was started for this command."""
    as_command(main)


if __name__ == "__main__":
    command()
