"""The story of a search: read what is sought, claim trials, run them, tell what they came to, report."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from fmx.check import check
from fmx.errors import ConfigError, DataError, TrainingError
from fmx.exits import Refusal
from fmx.hydra_errors import translate
from fmx.run_dir import Run, open_run
from fmx.search.figure import figure
from fmx.search.frozen_conf import frozen_context
from fmx.search.options import Options, read_options, require_optuna

if TYPE_CHECKING:
    from fmx.search.space import Space
    from fmx.search.standin import Ended, Job, Plan
    from fmx.search.study import Claim, SharedStudy

__all__ = ["search"]


def search(context: HydraContext, config: DictConfig, launcher: Any, arguments: list[str]) -> None:
    """Run a search to its end, or go on with the one in the sweep directory.

    arguments: the command line's overrides. Raises ConfigError before the first trial for anything that is wrong,
    TrainingError at the end where trials failed.
    """
    require_optuna()
    from fmx.search.claims import Searcher
    from fmx.search.command import Command
    from fmx.search.report import write_page, write_summary
    from fmx.search.space import read_space, split
    from fmx.search.standin import Ended, Plan, Pool
    from fmx.search.study import SharedStudy
    from fmx.search.summary import summarize

    sweep_dir = Path(config.hydra.sweep.dir)
    if sweep_dir.is_dir():
        context = frozen_context(context, config, sweep_dir)
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    fixed, swept = split(sweeper["params"], arguments, context.config_loader)
    composed = Composition(context, config, [str(each.input_line) for each in fixed])
    base = composed.config([])
    options = read_options(sweeper, _figures(base))
    space = read_space(swept, base)
    if options.sampler == "grid":
        space.grid()
    _rehearse(composed, options, space)

    sweep_dir.mkdir(parents=True, exist_ok=True)
    context = frozen_context(context, config, sweep_dir)
    with Searcher(sweep_dir) as searcher:
        study = SharedStudy(
            sweep_dir, options, space, searcher, fixed={each.key_or_group: str(each.input_line) for each in fixed}
        )
        command = Command(config, composed.fixed, space)
        trials = Trials(study, Plan(context, config), options, space, composed.fixed)
        try:
            for event in Pool().run(trials.claimed()):
                if isinstance(event, Ended):
                    trials.settle(event)
                    write_summary(summarize(study.study, sweep_dir, options, command))
        finally:
            summary = summarize(study.study, sweep_dir, options, command)
            write_summary(summary)
            write_page(summary)
    print("", *summary.lines(), sep="\n")
    if trials.failed:
        raise TrainingError(
            f"{len(trials.failed)} of the trials failed: {', '.join(map(str, sorted(trials.failed)))} "
            f"(trial {min(trials.failed)}: {trials.failed[min(trials.failed)]})"
        )


class Composition:
    """Composes the configuration of one run from a search's fixed overrides and others."""

    def __init__(self, context: HydraContext, config: DictConfig, fixed: list[str]) -> None:
        self._loader = context.config_loader
        self._config = config
        self.fixed = fixed

    def config(self, overrides: list[str]) -> DictConfig:
        """The composed configuration."""
        return self._loader.load_sweep_config(self._config, [*self.fixed, *overrides])


def _figures(base: DictConfig) -> list[str]:
    """What a run logs at each validation; metrics of several values are found out only by running."""
    figures = ["val/loss", *(f"val/{name}" for name in base.metrics)]
    return [*figures, "train/loss", "train/accuracy"]


def _rehearse(composed: Composition, options: Options, space: "Space") -> None:
    """Check the configuration with every choice and both ends of every interval: a typo in one stops the search."""
    first = {each.key: each.corners()[0] for each in space.parameters}
    points = [first] + [first | {each.key: value} for each in space.parameters for value in each.corners()[1:]]
    for point in points:
        overrides = space.overrides(point)
        config = composed.config([*overrides, *pruning_overrides(options)])
        check(config)
        _check_validation(str(config.data.validation), options)


def _check_validation(validation: str, options: Options) -> None:
    metrics = [each.metric for each in options.objectives if each.metric.startswith("val/")]
    if metrics and validation == "test":
        raise ConfigError(
            f"data.validation=test makes {metrics[0]} a figure of the test set, which a search must not choose by; use "
            "data.validation=COUNT"
        )
    if metrics and validation == "none":
        raise ConfigError(f"data.validation=none leaves no {metrics[0]} to search by; use data.validation=COUNT")


def pruning_overrides(options: Options) -> list[str]:
    """The callback that lets the search stop a run."""
    if options.pruning == "none":
        return []
    monitor = options.objectives[0].metric
    return [f"+callbacks.pruning={{_target_:fmx.callbacks.pruning.Pruning,monitor:{monitor}}}"]


class Trials:
    """The trials that this command runs: claimed from the study as workers get free, told when they have ended."""

    def __init__(self, study: "SharedStudy", plan: "Plan", options: Options, space: "Space", fixed: list[str]) -> None:
        self._study = study
        self._plan = plan
        self._options = options
        self._space = space
        self._fixed = fixed
        self._began = time.monotonic()
        self.failed: dict[int, str] = {}

    def claimed(self) -> Iterator[tuple["Job", list[str]]]:
        """Jobs for as long as there are trials to run and time to start them in."""
        budget = self._options.timeout_s
        while budget is None or time.monotonic() - self._began < budget:
            claim = self._study.claim()
            if claim is None:
                return
            if not (claim.begun and self._settle_from_record(claim.number)):
                job = self._job(claim)
                if job is not None:
                    yield job, []

    def _job(self, claim: "Claim") -> "Job | None":
        """The job of a trial; None, and the trial failed, where its values do not fit together."""
        overrides = [*self._fixed, *self._space.overrides(claim.values), *pruning_overrides(self._options)]
        try:
            return self._plan.job(overrides, claim.number)
        except (Refusal, Exception) as raised:  # each value was right by itself
            error = raised.error if isinstance(raised, Refusal) else translate(raised)
            if error is None:
                raise
            self._fail(claim.number, str(error))
            return None

    def settle(self, ended: "Ended") -> None:
        """Tell the study how a run ended; one that was interrupted is left for the next command to continue."""
        number = ended.job.number
        if not self._settle_from_record(number) and ended.status != "interrupted":
            self._fail(number, ended.error or f"the run ended as {ended.status}")

    def _settle_from_record(self, number: int) -> bool:
        """Tell what run.json says of a trial whose run has ended by itself; returns whether it has."""
        run_dir = self._study.sweep_dir / str(number)
        if not (run_dir / "run.json").is_file():
            return False
        run = open_run(run_dir, finished=False)
        if "pruned" in run.record:
            self._study.prune(number)
        elif run.status == "completed":
            self._complete(number, run)
        elif run.status == "failed":
            self._fail(number, str(run.record.get("error")))
        else:
            return False
        return True

    def _complete(self, number: int, run: Run) -> None:
        try:
            self._study.complete(number, [figure(run, each.metric) for each in self._options.objectives])
        except DataError as error:
            self._fail(number, str(error))

    def _fail(self, number: int, error: str) -> None:
        self.failed[number] = error
        self._study.fail(number, error)
