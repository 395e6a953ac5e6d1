"""The steps of a search: read and check its settings, run trials until there are enough, report the results."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmx.config.check import Checked, check_config
from fmx.config.rules import check_values
from fmx.config.validation import validation_of
from fmx.errors import ConfigError, TrainingError
from fmx.process import dry_run
from fmx.process.exits import BEFORE_ANY_JOB, advice
from fmx.sweeps.composer import Composer
from fmx.sweeps.ending import call_callbacks_after_errors
from fmx.sweeps.ledger import LEDGER
from fmx.sweeps.preparation import Preparation
from fmx.sweeps.search.frozen_conf import CONF, frozen_context, warn_of_changes
from fmx.sweeps.search.options import Options, read_options, require_optuna
from fmx.training.check import check_resolved_parts, is_bounded

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from fmx.sweeps.search.command import Command
    from fmx.sweeps.search.heartbeat import Searcher
    from fmx.sweeps.search.space import Space
    from fmx.sweeps.search.summary import Summary

__all__ = ["search"]

log = logging.getLogger(__name__)


def search(context: HydraContext, config: DictConfig, arguments: list[str]) -> None:
    """Run a search to its end, or resume the one in the sweep directory.

    arguments: the command line's overrides. ConfigError before the first trial for anything that is wrong,
    TrainingError at the end if trials failed.
    """
    require_optuna()
    from fmx.sweeps.search.heartbeat import Searcher

    with advice(lambda: BEFORE_ANY_JOB):
        task = _prepare(context, config, arguments)
        if dry_run.is_asked():
            _preview(task)
            return
    task.sweep_dir.mkdir(parents=True, exist_ok=True)
    with call_callbacks_after_errors(context, config):
        with Searcher(task.sweep_dir) as searcher:
            failed = _run(task, searcher)
        if failed:
            first, what = min(failed), "trials" if len(task.runs) == 1 else "runs"
            raise TrainingError(f"{len(failed)} {what} failed, the first: #{first}: {failed[first]}")


@dataclass(frozen=True)
class _Task:
    """A search that has been checked."""

    context: HydraContext
    config: DictConfig
    sweep_dir: Path
    launcher: dict[str, Any]
    options: Options
    space: "Space"
    fixed: dict[str, str]  # the overrides of every trial by key
    runs: list[list[str]]  # the overrides of each run of a trial
    checked: list[Checked]  # configurations with every choice and both ends of every interval
    earlier: "dict[Path, Sequence[FrozenTrial]]"  # trials to take over by the directory of their study


def _prepare(context: HydraContext, config: DictConfig, arguments: list[str]) -> _Task:
    """Read and check everything; writes nothing."""
    from fmx.sweeps.gate import check_sweep_dir
    from fmx.sweeps.plan import check_multirun, check_sweep_config
    from fmx.sweeps.search.conditions import conditions
    from fmx.sweeps.search.distributions import choices_of_groups, read_space, split
    from fmx.sweeps.search.partial_keys import naming_partial_keys
    from fmx.sweeps.search.repeats import check_repeats, runs_of_trial
    from fmx.sweeps.search.samplers import check_sampler
    from fmx.sweeps.search.study_settings import settings_of
    from fmx.sweeps.search.workers import check_launcher, is_on_cluster
    from fmx.sweeps.warm import warm_up

    check_multirun(config)
    sweep_dir = Path(str(config.hydra.sweep.dir)).resolve()  # outputs/latest may point elsewhere later
    if (sweep_dir / LEDGER).is_file():
        raise ConfigError(f"{sweep_dir} holds a sweep that is no search: name another folder with hydra.sweep.dir=DIR")
    check_sweep_dir(sweep_dir)
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    launcher: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    check_launcher(launcher)
    if (sweep_dir / CONF).is_dir():
        warn_of_changes(config, sweep_dir)
        context = frozen_context(context, config, sweep_dir)
    constant, swept = split(sweeper["params"], arguments, context.config_loader)
    fixed = {each.key_or_group: str(each.input_line) for each in constant}
    composed = Composition(context, config, list(fixed.values()))
    sought = conditions(swept, fixed, composed.members)
    with naming_partial_keys(sought, fixed, Composition(context, config, []).config):
        space = read_space(sought, composed.config)
        base = composed.config(choices_of_groups(space))
        options = read_options(sweeper, _logged_metrics(base))
        check_sampler(options.sampler, space)
        check_repeats(options, {each.key for each in space.parameters}, fixed)
        runs = runs_of_trial(options, base.seed)
        configs = _every_choice(composed, options, space, runs)
    if sweeper["from_study"] is not None and len(runs) > 1:
        raise ConfigError(
            "hydra.sweeper.from_study takes over trials of a single run: leave it out, or hydra.sweeper.seeds and folds"
        )
    earlier = _read_earlier(sweep_dir, sweeper["from_study"], settings_of(options, space, fixed), space, composed)
    here = not is_on_cluster(launcher)
    if here:
        warm_up()
    doing = f"checking the {len(configs)} configurations with every choice and both ends of every interval"
    if len(space.branches) > 1:
        doing += f", in {len(space.checked_branches())} of {len(space.branches)} branches"
    with Preparation(doing, len(configs), log.info) as preparation:
        checked = []
        for each in configs:
            checked.append(check_config(each))
            check_sweep_config(checked[-1].resolved, here=here)
            check_resolved_parts(checked[-1], here=here, bounded=is_bounded(each))
            preparation.advance()
    return _Task(context, config, sweep_dir, launcher, options, space, fixed, runs, checked, earlier)


def _read_earlier(
    sweep_dir: Path, named: str | list[str] | None, wanted: Mapping[str, Any], space: "Space", composed: "Composition"
) -> dict[Path, "Sequence[FrozenTrial]"]:
    """The trials that fit by the directory of their study, without directories that were taken over already."""
    from fmx.sweeps.search.earlier_study import read_earlier
    from fmx.sweeps.search.study import taken_over

    paths = [] if named is None else named if isinstance(named, list) else [named]
    _, done = taken_over(sweep_dir) if paths else ([], [])
    earlier: dict[Path, Sequence[FrozenTrial]] = {}
    for path in paths:
        folder = Path(path).resolve()  # outputs/latest may point elsewhere later
        if folder == sweep_dir:
            raise ConfigError(f"hydra.sweeper.from_study={path} is this search itself: leave it out to go on with it")
        if str(folder) in done:
            log.info("the trials of %s were taken over when this search began", folder)
            continue
        read = read_earlier(folder, wanted, space, composed.config)
        read.log()
        earlier[folder] = read.trials
    return earlier


def _known(task: _Task) -> list["FrozenTrial"]:
    """The trials of earlier studies, which have been taken over or are about to be."""
    from fmx.sweeps.search.study import taken_over

    return [*taken_over(task.sweep_dir)[0], *chain.from_iterable(task.earlier.values())]


def _preview(task: _Task) -> None:
    from fmx.sweeps.search.preview import preview
    from fmx.sweeps.search.study import num_begun

    begun = num_begun(task.sweep_dir, task.options, task.space, fixed=task.fixed)
    disk = _disk(task, begun)
    preview(task.sweep_dir, task.options, task.space, known=_known(task), num_begun=begun, disk=disk, runs=task.runs)
    log.info("dry run: nothing was started or written")


def _disk(task: _Task, num_begun: int) -> str:
    """A text on the disk space that the trials take which have not begun yet."""
    from fmx.sweeps.disk import checkpoint_bytes
    from fmx.sweeps.search.preview import disk_in_words

    largest = max(checkpoint_bytes(each.resolved) for each in task.checked)
    keep = task.config.sweep.keep_checkpoints
    facts: dict[str, Any] = {"known": _known(task), "num_begun": num_begun, "largest": largest, "keep": keep}
    return disk_in_words(task.sweep_dir, task.options, task.space, **facts)


def _run(task: _Task, searcher: "Searcher") -> dict[int, str]:
    """Run trials until there are enough, and report; returns the errors of the failed ones by number."""
    from fmx.sweeps.search.command import Command

    trainers = (each.resolved["trainer"] for each in task.checked)
    on_nodes = next((each for each in trainers if each.get("num_nodes", 1) > 1), None)
    command = Command(task.config, list(task.fixed.values()), task.space, task.runs, on_nodes=on_nodes)
    with advice(lambda: f"to go on: {command.to_resume}"):
        return _run_trials(task, searcher, command)


def _run_trials(task: _Task, searcher: "Searcher", command: "Command") -> dict[int, str]:
    from fmx.sweeps.plan import Plan
    from fmx.sweeps.search.report import keep_best, write_page, write_summary
    from fmx.sweeps.search.study import SharedStudy
    from fmx.sweeps.search.summary import summarize
    from fmx.sweeps.search.trials import Trials
    from fmx.sweeps.search.workers import is_on_cluster, run_trials

    options, space, sweep_dir = task.options, task.space, task.sweep_dir
    context = frozen_context(task.context, task.config, sweep_dir)
    on_cluster = is_on_cluster(task.launcher)
    study = SharedStudy(
        sweep_dir, options, space, searcher, fixed=task.fixed, on_cluster=on_cluster, earlier=task.earlier
    )
    plan = Plan(context, task.config, here=not on_cluster)
    trials = Trials(study, plan, options, space, list(task.fixed.values()), runs=task.runs)
    # Pruning decides how many of its runs a trial gets.
    num_jobs = study.num_jobs if options.pruning == "none" or len(task.runs) == 1 else None

    def summary() -> "Summary":
        return summarize(study.study, sweep_dir, options, command, wanted=study.num_trials)

    write_summary(sweep_dir, summary)  # from here on its command can be found
    log.info("search: %s by %s, %s · %s", ", ".join(space.distributions), options.sampler, options.goal, sweep_dir)
    if study.num_trials is None or study.num_trials > study.num_begun:
        log.info("%s", _disk(task, study.num_begun))
    try:
        running = run_trials(
            trials.claimed(),
            task.launcher,
            num_jobs=num_jobs,
            num_ended=study.num_jobs_ended,
            labelled=trials.labelled,
            in_queue=trials.in_queue,
            submitted=study.submitted,
        )
        with closing(running):  # if the loop is left early, the trials save their states
            for ended in running:
                trials.settle(ended)
                write_summary(sweep_dir, summary)
    finally:
        write_summary(sweep_dir, summary)
        last = write_page(sweep_dir, summary)
        keep_best(last, task.config.sweep.keep_checkpoints)
    last.print_best()
    for line in last.lines():
        log.info("%s", line)
    return trials.failed


class Composition:
    """Composes configurations from the overrides of every trial and further ones."""

    def __init__(self, context: HydraContext, config: DictConfig, fixed: list[str]) -> None:
        self._loader = context.config_loader
        self._composer = Composer(self._loader, config)
        self.fixed = fixed

    def config(self, overrides: list[str]) -> DictConfig:
        """The composed configuration."""
        return self._composer.compose([*self.fixed, *overrides]).copy()

    def members(self, group: str) -> list[str]:
        """The members of a group; none if there is no such group."""
        return [str(each) for each in self._loader.get_group_options(group)]


def _logged_metrics(base: DictConfig) -> list[str]:
    """The metrics that a run logs at each validation."""
    vectors = [name for name, node in base.metrics.items() if str(node.get("average")) in {"None", "none"}]
    logged = ["val/loss", *(f"val/{name}" for name in base.metrics if name not in vectors)]
    return [*logged, "train/loss", "train/accuracy"]


def _every_choice(
    composed: Composition, options: Options, space: "Space", runs: Sequence[Sequence[str]]
) -> list[DictConfig]:
    """The configurations with every choice and both ends of every interval, and those of each run of a trial.

    Their values are checked here, which needs no heavy import; the caller checks their parts.
    """
    from fmx.sweeps.search.trials import pruning_overrides

    if any(each.key == "seed" for each in space.parameters):
        log.warning(
            "the search draws the seed: the best one is luck. Leave it out, and give each trial three seeds with "
            "hydra.sweeper.seeds=3"
        )
    if any(each.key == "data.fold" for each in space.parameters):
        log.warning(
            "the search draws the fold: the easiest one is luck. Leave it out, and run each trial on all folds with "
            "hydra.sweeper.folds=5"
        )
    points = [space.overrides(each) for each in space.corners()]
    configs = [composed.config([*point, *runs[0], *pruning_overrides(options)]) for point in points]
    configs += [composed.config([*points[0], *run]) for run in runs[1:]]
    for config in configs:
        ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        with suppress(OmegaConfBaseException):  # the later check reports it better
            check_values(OmegaConf.to_container(ours, resolve=True))  # type: ignore[arg-type]
        _check_validation(str(validation_of(config.data)), options)
    return configs


def _check_validation(validation: str, options: Options) -> None:
    """ConfigError if a validation metric would be one of the test set, or of no data."""
    metrics = [each.metric for each in options.objectives if each.metric.startswith("val/")]
    if metrics and validation == "test":
        raise ConfigError(
            f"data.validation=test makes {metrics[0]} a metric of the test set, which a search must not choose by; use "
            "data.validation=COUNT"
        )
    if metrics and validation == "none":
        raise ConfigError(f"data.validation=none leaves no {metrics[0]} to search by; use data.validation=COUNT")
