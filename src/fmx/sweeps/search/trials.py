"""The trials that one command runs: claimed as workers become free, recorded in the study when they end."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fmx.config.quoting import quoted
from fmx.errors import ConfigError, DataError
from fmx.runs.run_dir import SAVE_TIMEOUT_S, Run, has_run_to_resume, open_run, wait_for_process
from fmx.sweeps.job import Job
from fmx.sweeps.plan import Plan
from fmx.sweeps.pool import Ended
from fmx.sweeps.search.metric import read_metric
from fmx.sweeps.search.options import Options
from fmx.sweeps.search.space import Space
from fmx.sweeps.search.study import AssignedTrial, SharedStudy

__all__ = ["Trials", "pruning_overrides"]

log = logging.getLogger(__name__)


def pruning_overrides(options: Options) -> list[str]:
    """The override that adds the pruning callback."""
    if options.pruning == "none":
        return []
    monitor = options.objectives[0].metric
    return [f"+callbacks.pruning={{_target_:fmx.sweeps.search.pruning.Pruning,monitor:{monitor}}}"]


class Trials:
    """Turns claimed runs of trials into jobs, and records their outcomes in the study.

    fixed: the overrides of every trial. runs: those of each run of a trial. `failed` has the errors of this command's
    runs by number, and `in_queue` the SLURM jobs of claimed runs that need not be submitted.
    """

    def __init__(
        self,
        study: SharedStudy,
        plan: Plan,
        options: Options,
        space: Space,
        fixed: list[str],
        *,
        runs: Sequence[Sequence[str]],
    ) -> None:
        self._study = study
        self._plan = plan
        self._options = options
        self._space = space
        self._fixed = fixed
        self._runs = runs
        self._began = time.monotonic()
        self._values: dict[int, list[str]] = {}
        self.failed: dict[int, str] = {}
        self.in_queue: dict[int, str] = {}

    def claimed(self) -> Iterator[tuple[Job, list[str]] | None]:
        """Jobs with their extra arguments, until there are enough trials or the time is up.

        None while there is no run at the moment, because others decide whether their trials get further runs.
        """
        budget = self._options.timeout_s
        while budget is None or time.monotonic() - self._began < budget:
            claim = self._study.claim()
            if claim is None:
                if not self._study.has_more:
                    return
                yield None
                continue
            number = claim.number * len(self._runs) + claim.index
            if claim.slurm_job is not None:
                self.in_queue[number] = claim.slurm_job
                arguments: list[str] | None = []
            else:
                arguments = self._resume_arguments(number) if claim.begun else []
            if arguments is None or (job := self._job(claim)) is None:
                continue
            yield job, arguments

    def _resume_arguments(self, number: int) -> list[str] | None:
        """The arguments that resume a run whose command has died; None if it had ended."""
        run_dir = self._study.sweep_dir / str(number)
        if not has_run_to_resume(run_dir):
            return []
        wait_for_process(run_dir, SAVE_TIMEOUT_S)
        return None if self._settle_from_record(number) else [f"resume={quoted(str(run_dir))}"]

    def _job(self, claim: AssignedTrial) -> Job | None:
        """The job of a run; None, with the trial recorded as failed, if its values do not fit together."""
        number = claim.number * len(self._runs) + claim.index
        self._values[number] = [*self._space.overrides(claim.values), *self._runs[claim.index]]
        overrides = [*self._fixed, *self._values[number], *pruning_overrides(self._options)]
        try:
            return self._plan.job(overrides, number)
        except ConfigError as error:  # each value is valid by itself
            log.warning("%s", error)
            self._fail(number, str(error))
            return None

    def labelled(self, job: Job) -> Job:
        """The job for display, with the drawn values as its only overrides."""
        return replace(job, overrides=self._values[job.number])

    def settle(self, ended: Ended) -> None:
        """Record how a run ended; an interrupted one is left for the next command to resume."""
        number = ended.job.number
        if ended.status == "failed":
            self._fail(number, ended.error or f"the run ended as {ended.cause}")
        else:
            self._settle_from_record(number)

    def _settle_from_record(self, number: int) -> bool:
        """Record the outcome of a run from its run.json; returns whether it has ended."""
        run = open_run(self._study.sweep_dir / str(number), finished=False)
        if run.pruned:
            self._study.prune(number // len(self._runs))
        elif run.status == "completed":
            self._complete(number, run)
        elif run.status == "failed":
            self._fail(number, str(run.record.get("error")))
        else:
            return False
        return True

    def _complete(self, number: int, run: Run) -> None:
        trial, index = divmod(number, len(self._runs))
        try:
            values = [read_metric(run, each.metric) for each in self._options.objectives]
        except DataError as error:
            self._fail(number, str(error))
        else:
            self._study.complete(trial, values, index)

    def _fail(self, number: int, error: str) -> None:
        self.failed[number] = error
        several = len(self._runs) > 1
        self._study.fail(number // len(self._runs), f"run {number}: {error}" if several else error)
