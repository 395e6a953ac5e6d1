"""An Optuna study in a sweep directory, which several commands on several machines may share."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from fmx.errors import DataError
from fmx.process.table import printable
from fmx.sweeps import slurm_queue as queue
from fmx.sweeps.ledger import JOURNAL
from fmx.sweeps.search.heartbeat import Searcher, exclusive
from fmx.sweeps.search.journal import open_journal, remove_torn_line
from fmx.sweeps.search.options import Options
from fmx.sweeps.search.repeats import is_poor, mean
from fmx.sweeps.search.samplers import FROM, draw_value, make_pruner, make_sampler
from fmx.sweeps.search.space import Space
from fmx.sweeps.search.study_settings import check_same, settings_of
from fmx.sweeps.slurm_queue import SUBMITTING, is_job_id, slurm_folder

__all__ = [
    "ERROR",
    "FROM",
    "JOURNAL",
    "OWNER",
    "SETTINGS",
    "SLURM_JOB",
    "VALUES",
    "AssignedTrial",
    "RunningTrial",
    "SharedStudy",
    "attribute",
    "is_own",
    "num_begun",
    "num_given",
    "origin",
    "recorded_study",
    "run_values",
    "runs_per_trial",
    "taken_over",
]

log = logging.getLogger(__name__)

MAX_TRIALS = 100_000
MAX_STEPS = 2**53  # of a report
NAME = "search"
SETTINGS = "search"  # attribute of the study: its settings
OWNER = "owner"  # attribute of a trial's run: the command that runs it
SLURM_JOB = "slurm_job"  # attribute of a trial's run: the ID of its job
VALUES = "values"  # attribute of a trial's run that has completed: a list, by objective
ERROR = "error"  # attribute of a trial: why it failed
TAKEN_OVER = "from_study"  # attribute of the study: the directories whose trials were taken over
MAX_SAME = 100  # draws in a row of what is known already


@dataclass(frozen=True)
class AssignedTrial:
    """A run for this command: its trial's number and values by key, and whether another command had begun it.

    slurm_job: the ID of its job, if that may still be in SLURM's queue. index: of the run in the trial.
    """

    number: int
    values: Mapping[str, Any]
    begun: bool
    slurm_job: str | None = None
    index: int = 0


class SharedStudy:
    """The study of a sweep directory, with the trials that this command has claimed."""

    def __init__(
        self,
        sweep_dir: Path,
        options: Options,
        space: Space,
        searcher: Searcher,
        *,
        fixed: Mapping[str, str],
        on_cluster: bool = False,
        earlier: Mapping[Path, Sequence[FrozenTrial]] | None = None,
    ) -> None:
        """Open or create the study; ConfigError if the directory has one with other settings.

        fixed: the overrides of every trial, by key. on_cluster: whether this command's trials are SLURM jobs, so that
        it can wait for those of commands that have ended. earlier: trials to take over by the directory of their study.
        """
        self.sweep_dir = sweep_dir
        self._options = options
        self._space = space
        self._searcher = searcher
        self._on_cluster = on_cluster
        self._left = set[int]()  # runs of SLURM jobs that this command leaves to others
        wanted = settings_of(options, space, fixed)
        with self._locked():
            self._storage = open_journal(sweep_dir)
            self.study = optuna.create_study(
                storage=self._storage,
                study_name=NAME,
                directions=[each.direction for each in options.objectives],
                load_if_exists=True,
            )
            known = self.study.user_attrs.get(SETTINGS)
            if known is None:
                self.study.set_user_attr(SETTINGS, wanted)
            else:
                check_same(sweep_dir, known, wanted)
            self._check_trials()
            self._take_over(earlier or {})
        self.study.pruner = make_pruner(wanted)

    def _check_trials(self) -> None:
        """DataError for a trial with a value that the search cannot have drawn, or with an impossible outcome.

        Values become overrides, so those of an untrusted journal could change any key.
        """
        trials = self.study.get_trials(deepcopy=False)
        if len(trials) > MAX_TRIALS:
            raise DataError(f"{self.sweep_dir / JOURNAL} has {len(trials):,} trials; a search may have {MAX_TRIALS:,}")
        for trial in trials:
            if not _is_plausible(trial, len(self._options.objectives)):
                raise DataError(f"{self.sweep_dir / JOURNAL}: trial {trial.number} has an impossible outcome")
            sought = self._space.draw(lambda each, drawn=trial.params: drawn.get(each.name))  # type: ignore[misc]
            ended = trial.state in {TrialState.COMPLETE, TrialState.PRUNED}
            for key in [*trial.params, *(sought if ended else [])]:
                value = trial.params.get(key)
                if key not in sought or not _is_drawn(value, self._space.distributions[key]):
                    raise DataError(
                        f"{self.sweep_dir / JOURNAL}: trial {trial.number} has {printable(key)}={printable(value)[:80]}"
                        ", which this search cannot have drawn; name another folder with hydra.sweep.dir=DIR"
                    )

    def _take_over(self, earlier: Mapping[Path, Sequence[FrozenTrial]]) -> None:
        """Add the trials of earlier studies, each study once; a command that died meanwhile is continued."""
        known = [trial.user_attrs.get(FROM) for trial in self.study.get_trials(deepcopy=False)]
        done = _taken_over_from(self.study)
        for path, trials in earlier.items():
            if str(path) not in done:
                self.study.add_trials([trial for trial in trials if trial.user_attrs[FROM] not in known])
                self.study.set_user_attr(TAKEN_OVER, done := [*done, str(path)])

    @property
    def num_trials(self) -> int | None:
        """How many trials of its own the study should have; None if only a time limit ends it."""
        limit: float = self._options.n_trials or math.inf
        if self._options.sampler == "grid":
            taken = {_point(trial.params) for trial in self.study.get_trials(deepcopy=False) if not is_own(trial)}
            limit = min(limit, self._space.num_points - len(taken))
        return None if limit == math.inf else int(limit)

    @property
    def num_jobs(self) -> int | None:
        """How many runs the trials have, if all get all of theirs; None if only a time limit ends the search."""
        return None if self.num_trials is None else self.num_trials * self._options.runs_per_trial

    @property
    def num_jobs_ended(self) -> int:
        """How many runs have ended, by all commands."""
        running = TrialState.RUNNING
        return sum(len(run_values(each)) if each.state == running else num_given(each) for each in self._own())

    @property
    def num_begun(self) -> int:
        """How many trials of its own have been begun, by all commands."""
        return len(self._own())

    def _own(self) -> list[FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if is_own(trial)]

    def claim(self) -> AssignedTrial | None:
        """Claim a run: one whose command has died, else the next of a begun trial, else the first of a new one.

        A run whose SLURM job may still be in the queue is claimed only if this command can wait for that. None if there
        is none at the moment, or, unless `has_more`, for good.
        """
        ended, found = self._ended_jobs(), self._found_jobs()  # before the lock: SLURM may take long to answer
        with self._locked():
            trials = self.study.get_trials(deepcopy=False)
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            for trial, index in self._abandoned(running):
                job: str | None = trial.user_attrs.get(attribute(SLURM_JOB, index))
                number = self._run_number(trial, index)
                if job == SUBMITTING and self._on_cluster:
                    job = (found if number in found else self._found_jobs()).get(number)  # it may have died just now
                in_queue = None if job in ended else job
                if in_queue is None or self._on_cluster:
                    return self._assign(self._trial(trial), index, begun=True, slurm_job=in_queue)
                if number not in self._left:
                    self._left.add(number)
                    what = "its command died while it submitted it" if job == SUBMITTING else f"its job is {job}"
                    log.info("#%d is left to a command with hydra/launcher=slurm: %s", number, what)
            for trial in running:
                if not self._conclude(trial) and (following := self._following(trial)) is not None:
                    return self._assign(self._trial(trial), following, begun=False)
            known = {_point(trial.params): trial for trial in trials if not is_own(trial)}
            for _ in range(MAX_SAME):
                if self.num_trials is not None and self.num_begun >= self.num_trials:
                    return None
                self._use_sampler(len(self.study.get_trials(deepcopy=False)))
                drawn = self._assign(self.study.ask(), 0, begun=False)
                if (same := known.get(_point(drawn.values))) is None:
                    return drawn
                self._repeat(drawn.number, same)
            log.warning("%d draws in a row are known from the earlier study: the search ends here", MAX_SAME)
            return None

    def _repeat(self, number: int, same: FrozenTrial) -> None:
        """Record a drawn trial with the outcome of one that was taken over, instead of running it again."""
        trial_id = _trial_id(self._storage, number)
        self._storage.set_trial_user_attr(trial_id, FROM, same.user_attrs[FROM])
        for step, value in same.intermediate_values.items():
            self._storage.set_trial_intermediate_value(trial_id, step, value)
        is_complete = same.state == TrialState.COMPLETE
        self._tell(number, state=same.state, values=same.values if is_complete else None)
        log.info("#%d is %s again: it is not run", number, origin(same))

    @property
    def has_more(self) -> bool:
        """Whether there may be a run to claim once others have ended."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return any(num_given(trial) < self._options.runs_per_trial for trial in running)

    def _run_number(self, trial: FrozenTrial, index: int) -> int:
        return trial.number * self._options.runs_per_trial + index

    def _abandoned(self, running: Iterable[FrozenTrial]) -> Iterator[tuple[FrozenTrial, int]]:
        """The runs without a result whose command has died; those of SLURM jobs may still be at work."""
        for trial in running:
            known = trial.user_attrs
            for index in range(max(1, num_given(trial))):
                is_job = known.get(attribute(SLURM_JOB, index))
                run_dir = None if is_job else self.sweep_dir / str(self._run_number(trial, index))
                if attribute(VALUES, index) not in known and not self._searcher.is_alive(
                    known.get(attribute(OWNER, index)), run_dir
                ):
                    yield trial, index

    def _following(self, trial: FrozenTrial) -> int | None:
        """The next run of a trial: with pruning it is given only when the earlier ones have ended."""
        index = num_given(trial)
        waits = self._options.pruning != "none" and len(run_values(trial)) < index
        return None if waits or index >= self._options.runs_per_trial else index

    def _conclude(self, trial: FrozenTrial) -> bool:
        """Tell the outcome of a trial that has all its runs, or gets no more; returns whether it has ended."""
        values = run_values(trial)
        if len(values) < max(1, num_given(trial)):
            return False
        means = mean([*values.values()])
        if len(values) == self._options.runs_per_trial:
            self._tell(trial.number, values=means)
            return True
        if self._options.pruning == "none":
            return False
        trials = self.study.get_trials(deepcopy=False)
        firsts = [list(run_values(each).values())[: len(values)] for each in trials if each.number != trial.number]
        others = [mean(each)[0] for each in firsts if len(each) == len(values)]
        num_completed = sum(each.state == TrialState.COMPLETE for each in trials)
        poor = is_poor(means[0], others, len(values), num_completed, self._options)
        if poor:
            self._tell(trial.number, state=TrialState.PRUNED)
        return poor

    def _ended_jobs(self) -> set[str]:
        """The SLURM jobs of abandoned runs that are no longer in the queue; none if SLURM does not answer."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        jobs = {
            job
            for trial, index in self._abandoned(running)
            if (job := trial.user_attrs.get(attribute(SLURM_JOB, index))) and job != SUBMITTING
        }
        states = queue.states(jobs, slurm_folder(self.sweep_dir)) if jobs else {}
        return {job for job, state in (states or {}).items() if state not in {queue.PENDING, queue.RUNNING}}

    def _found_jobs(self) -> dict[int, str | None]:
        """The SLURM jobs, by run, of commands that died before they recorded them; None if SLURM has none that can run.

        DataError if SLURM does not answer.
        """
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        lost = {
            self._run_number(trial, index)
            for trial, index in self._abandoned(running)
            if trial.user_attrs.get(attribute(SLURM_JOB, index)) == SUBMITTING
        }
        if not lost or not self._on_cluster:
            return {}
        jobs = queue.in_queue(slurm_folder(self.sweep_dir))
        if jobs is None:
            raise DataError(queue.NO_ANSWER)
        queue.cancel([job.name for number, job in jobs.items() if number in lost and not job.has_task])
        return {number: job.name if (job := jobs.get(number)) and job.has_task else None for number in lost}

    def submitted(self, number: int, slurm_job: str) -> None:
        """Record the SLURM job of a run, by the run's number."""
        trial, index = divmod(number, self._options.runs_per_trial)
        self._storage.set_trial_user_attr(_trial_id(self._storage, trial), attribute(SLURM_JOB, index), slurm_job)

    def _trial(self, trial: FrozenTrial) -> Trial:
        self._use_sampler(trial.number)
        return Trial(self.study, _trial_id(self._storage, trial.number))

    def _assign(self, trial: Trial, index: int, *, begun: bool, slurm_job: str | None = None) -> AssignedTrial:
        """Make a trial this command's own and draw its values, except those that a killed command had drawn."""
        trial.set_user_attr(attribute(OWNER, index), self._searcher.name)
        recorded = slurm_job or (SUBMITTING if self._on_cluster else None)
        if trial.user_attrs.get(attribute(SLURM_JOB, index)) != recorded:
            trial.set_user_attr(attribute(SLURM_JOB, index), recorded)
        values = self._space.draw(partial(draw_value, trial))
        return AssignedTrial(trial.number, values, begun, slurm_job, index)

    def _use_sampler(self, number: int) -> None:
        options = self._options
        trials = self.study.get_trials(deepcopy=False)
        self.study.sampler = make_sampler(
            options.sampler, self._space, seed=options.seed, number=number, startup=options.startup, trials=trials
        )

    def complete(self, number: int, values: Sequence[float], index: int = 0) -> None:
        """Record the values of a completed run of a trial, and the outcome of the trial if it gets no further run."""
        with self._locked():
            if not self._is_running(number):
                return
            attr = attribute(VALUES, index)
            self._storage.set_trial_user_attr(_trial_id(self._storage, number), attr, list(values))
            self._conclude(self.study.get_trials(deepcopy=False)[number])

    def prune(self, number: int) -> None:
        """Record that a trial was pruned."""
        self._tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, error: str) -> None:
        """Record that a trial failed, and why."""
        self._tell(number, state=TrialState.FAIL, error=error)

    def _tell(self, number: int, *, error: str | None = None, **outcome: Any) -> None:
        if not self._is_running(number):
            return
        if error is not None:
            self._storage.set_trial_user_attr(_trial_id(self._storage, number), ERROR, error)
        self._use_sampler(number)  # tell() updates cmaes
        self.study.tell(number, **outcome)

    def _is_running(self, number: int) -> bool:
        """Whether a trial has no outcome yet; another command, or another run of it, may have one recorded."""
        state = self.study.get_trials(deepcopy=False)[number].state
        if state != TrialState.RUNNING:
            log.warning("trial %d: its outcome has been recorded before: %s", number, state.name)
        return state == TrialState.RUNNING

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with exclusive(self.sweep_dir):
            remove_torn_line(self.sweep_dir / JOURNAL)
            yield


def num_begun(sweep_dir: Path, options: Options, space: Space, *, fixed: Mapping[str, str]) -> int:
    """How many trials of its own a directory's study has; ConfigError if it has other settings. Writes nothing."""
    if not (sweep_dir / JOURNAL).is_file():
        return 0
    study = optuna.load_study(study_name=NAME, storage=open_journal(sweep_dir))
    known = study.user_attrs.get(SETTINGS)
    if known is not None:
        check_same(sweep_dir, known, settings_of(options, space, fixed))
    return sum(map(is_own, study.get_trials(deepcopy=False)))


def taken_over(sweep_dir: Path) -> tuple[list[FrozenTrial], list[str]]:
    """The trials that a directory's study took over, and the directories of their studies. Writes nothing."""
    if not (sweep_dir / JOURNAL).is_file():
        return [], []
    try:
        study = recorded_study(sweep_dir)
    except DataError:  # another command is just creating it; of a damaged one the search itself tells
        return [], []
    return [trial for trial in study.get_trials(deepcopy=False) if not is_own(trial)], _taken_over_from(study)


def _taken_over_from(study: Study) -> list[str]:
    paths = study.user_attrs.get(TAKEN_OVER)
    return [each for each in paths if isinstance(each, str)] if isinstance(paths, list) else []


def is_own(trial: FrozenTrial) -> bool:
    """Whether a trial is one that its study runs, not one that it took over."""
    return FROM not in trial.user_attrs


def origin(trial: FrozenTrial) -> Path:
    """The run directory of a trial that was taken over."""
    made = trial.user_attrs[FROM]
    return Path(made["study"]) / str(made["trial"])


def _point(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items()))


def recorded_study(sweep_dir: Path) -> Study:
    """Read the study of a directory that may come from anyone; DataError for anything no search writes. Writes nothing.

    Its metrics and directions are those of its settings, all of which are valid names.
    """
    journal = sweep_dir / JOURNAL
    storage = open_journal(sweep_dir)
    try:
        study = optuna.load_study(study_name=NAME, storage=storage)
    except KeyError:
        raise DataError(f"{journal} holds no search yet") from None
    settings = study.user_attrs.get(SETTINGS)
    metrics = settings.get("metric") if isinstance(settings, Mapping) else None
    if not isinstance(metrics, list) or len(metrics) != len(study.directions) or not all(map(_is_text, metrics)):
        raise DataError(f"{journal} has no valid settings of its search")
    trials = study.get_trials(deepcopy=False)
    plausible = all(_is_plausible(each, len(metrics)) and _has_possible_values(each) for each in trials)
    if len(trials) > MAX_TRIALS or not plausible:
        raise DataError(f"{journal} has trials that no search has")
    return study


def _has_possible_values(trial: FrozenTrial) -> bool:
    """Whether a trial's values are of its own distributions, by names that are texts."""
    return all(_is_text(key) and _is_drawn(value, trial.distributions[key]) for key, value in trial.params.items())


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


class RunningTrial:
    """A trial as its own run sees it: takes reports, and says when to stop."""

    def __init__(self, study: Study, storage: JournalStorage, number: int) -> None:
        self._study = study
        self._storage = storage
        self._trial_id = _trial_id(storage, number)

    @classmethod
    def of_run(cls, run_dir: Path) -> "RunningTrial | None":
        """The trial of a run directory; None unless that is the first run of a trial that has not ended."""
        if not (run_dir.parent / JOURNAL).is_file() or not run_dir.name.isdecimal():
            return None
        storage = open_journal(run_dir.parent)
        study = optuna.load_study(study_name=NAME, storage=storage)
        study.pruner = make_pruner(study.user_attrs[SETTINGS])
        trials = study.get_trials(deepcopy=False)
        number, index = divmod(int(run_dir.name), runs_per_trial(study.user_attrs[SETTINGS]))
        if index or number >= len(trials) or trials[number].state != TrialState.RUNNING:
            return None
        return cls(study, storage, number)

    def report(self, step: int, value: float) -> bool:
        """Report a metric after the `step`-th validation; returns whether the trial should stop."""
        self._storage.set_trial_intermediate_value(self._trial_id, step, value)
        return self._study.pruner.prune(self._study, self._storage.get_trial(self._trial_id))


def attribute(name: str, index: int) -> str:
    """The name of an attribute of one run of a trial."""
    return f"{name}.{index}" if index else name


def num_given(trial: FrozenTrial) -> int:
    """How many runs of a trial have been given to commands: the first ones."""
    return next(index for index in count() if attribute(OWNER, index) not in trial.user_attrs)


def run_values(trial: FrozenTrial) -> dict[int, list[float]]:
    """The values of a trial's completed runs, by their index."""
    known = trial.user_attrs
    found = {index: known.get(attribute(VALUES, index)) for index in range(num_given(trial))}
    return {index: values for index, values in found.items() if values is not None}


def runs_per_trial(settings: Mapping[str, Any]) -> int:
    """How many runs a trial has, by the settings of its study, which may be untrusted, or of an earlier version."""
    counts = [settings.get("seeds"), settings.get("folds")]
    return math.prod(each for each in counts if type(each) is int and each > 0)


def _trial_id(storage: JournalStorage, number: int) -> int:
    """The storage's ID of a trial, by the trial's number."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(NAME), number)


def _is_plausible(trial: FrozenTrial, num_objectives: int) -> bool:
    """Whether a trial from an untrusted file has valid values and reports, texts as owner and error, and a job ID."""
    values, reports = trial.values, trial.intermediate_values
    if trial.state == TrialState.COMPLETE and (values is None or len(values) != num_objectives):
        return False
    finite = all(type(value) in {int, float} and math.isfinite(value) for value in values or [])
    # A report may be NaN: a loss can be.
    reported = all(0 <= step < MAX_STEPS and type(value) in {int, float} for step, value in reports.items())
    made = trial.user_attrs.get(FROM, {"study": "", "trial": 0})
    of_study = isinstance(made, dict) and _is_text(made.get("study")) and type(made.get("trial")) is int
    known = all(_is_valid(key.partition(".")[0], value, num_objectives) for key, value in trial.user_attrs.items())
    return of_study and finite and reported and known


def _is_valid(name: str, value: object, num_objectives: int) -> bool:
    """Whether an attribute of a trial is one that a search records."""
    if name == VALUES:
        is_list = isinstance(value, list) and len(value) == num_objectives
        return is_list and all(type(each) in {int, float} and math.isfinite(each) for each in value)  # type: ignore[attr-defined]
    if name == SLURM_JOB:
        return value is None or value == SUBMITTING or is_job_id(value)
    return name not in {OWNER, ERROR} or isinstance(value, str)


def _is_drawn(value: object, drawn: BaseDistribution) -> bool:
    if isinstance(drawn, CategoricalDistribution):
        return value in drawn.choices
    assert isinstance(drawn, IntDistribution | FloatDistribution)
    return type(value) in {int, float} and drawn.low <= value <= drawn.high  # type: ignore[operator]
