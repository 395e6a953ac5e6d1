"""An Optuna study in a sweep directory, which several commands on several machines may share."""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from fmx.errors import ConfigError, DataError
from fmx.process.memory_bound import SPARE_BYTES, at_most_bytes
from fmx.process.table import printable
from fmx.runs.data_root import KEY
from fmx.sweeps import slurm_queue as queue
from fmx.sweeps.ledger import JOURNAL
from fmx.sweeps.search.heartbeat import Searcher, exclusive
from fmx.sweeps.search.options import Options
from fmx.sweeps.search.samplers import FROM, draw_value, make_pruner, make_sampler
from fmx.sweeps.search.space import Space
from fmx.sweeps.slurm_queue import is_job_id, slurm_folder

__all__ = [
    "ERROR",
    "FROM",
    "JOURNAL",
    "OWNER",
    "SETTINGS",
    "SLURM_JOB",
    "AssignedTrial",
    "RunningTrial",
    "SharedStudy",
    "is_own",
    "num_begun",
    "origin",
    "recorded_study",
    "settings_of",
    "taken_over",
]

log = logging.getLogger(__name__)

MAX_JOURNAL_BYTES = 2**27  # a few hundred per report of a trial
MAX_TRIALS = 100_000
MAX_STEPS = 2**53  # of a report
COPIES = 4  # of the journal in memory, as text and as objects
NAME = "search"
SETTINGS = "search"  # attribute of the study: its settings
OWNER = "owner"  # attribute of a trial: the command that runs it
SLURM_JOB = "slurm_job"  # attribute of a trial: the ID of its job
ERROR = "error"  # attribute of a trial: why it failed
TAKEN_OVER = "from_study"  # attribute of the study: the directories whose trials were taken over
MAX_SAME = 100  # draws in a row of what is known already


@dataclass(frozen=True)
class AssignedTrial:
    """A trial for this command: its number, its values by key, and whether another command had begun it.

    slurm_job: the ID of its job, if that may still be in SLURM's queue.
    """

    number: int
    values: Mapping[str, Any]
    begun: bool
    slurm_job: str | None = None


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
        self._left = set[str]()  # SLURM jobs that this command leaves to others
        wanted = settings_of(options, space, fixed)
        with self._locked():
            self._storage = _storage(sweep_dir)
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
                _check_same(sweep_dir, known, wanted)
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
    def num_begun(self) -> int:
        """How many trials of its own have been begun, by all commands."""
        return sum(map(is_own, self.study.get_trials(deepcopy=False)))

    def claim(self) -> AssignedTrial | None:
        """Claim a trial: one whose command has died, else a new one; None if the study has enough.

        A trial whose SLURM job may still be in the queue is claimed only if this command can wait for that.
        """
        ended = self._ended_jobs()  # before the lock: SLURM may take long to answer
        with self._locked():
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials:
                if not self._is_abandoned(trial):
                    continue
                job: str | None = trial.user_attrs.get(SLURM_JOB)
                in_queue = None if job in ended else job
                if in_queue is None or self._on_cluster:
                    return self._assign(self._trial(trial), begun=True, slurm_job=in_queue)
                if in_queue not in self._left:
                    self._left.add(in_queue)
                    log.info("#%d is left to a command with hydra/launcher=slurm: its job is %s", trial.number, job)
            known = {_point(trial.params): trial for trial in trials if not is_own(trial)}
            for _ in range(MAX_SAME):
                if self.num_trials is not None and self.num_begun >= self.num_trials:
                    return None
                self._use_sampler(len(self.study.get_trials(deepcopy=False)))
                drawn = self._assign(self.study.ask(), begun=False)
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

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        run_dir = None if trial.user_attrs.get(SLURM_JOB) else self.sweep_dir / str(trial.number)
        return trial.state == TrialState.RUNNING and not self._searcher.is_alive(trial.user_attrs.get(OWNER), run_dir)

    def _ended_jobs(self) -> set[str]:
        """The SLURM jobs of abandoned trials that are no longer in the queue; none if SLURM does not answer."""
        abandoned = [trial for trial in self.study.get_trials(deepcopy=False) if self._is_abandoned(trial)]
        jobs = {job for trial in abandoned if (job := trial.user_attrs.get(SLURM_JOB))}
        states = queue.states(jobs, slurm_folder(self.sweep_dir)) if jobs else {}
        return {job for job, state in (states or {}).items() if state not in {queue.PENDING, queue.RUNNING}}

    def submitted(self, number: int, slurm_job: str) -> None:
        """Record the SLURM job of a trial."""
        self._storage.set_trial_user_attr(_trial_id(self._storage, number), SLURM_JOB, slurm_job)

    def _trial(self, trial: FrozenTrial) -> Trial:
        self._use_sampler(trial.number)
        return Trial(self.study, _trial_id(self._storage, trial.number))

    def _assign(self, trial: Trial, *, begun: bool, slurm_job: str | None = None) -> AssignedTrial:
        """Make a trial this command's own and draw its values, except those that a killed command had drawn."""
        trial.set_user_attr(OWNER, self._searcher.name)
        if slurm_job is None and SLURM_JOB in trial.user_attrs:
            trial.set_user_attr(SLURM_JOB, None)  # that job has ended
        values = self._space.draw(partial(draw_value, trial))
        return AssignedTrial(trial.number, values, begun, slurm_job)

    def _use_sampler(self, number: int) -> None:
        options = self._options
        trials = self.study.get_trials(deepcopy=False)
        self.study.sampler = make_sampler(
            options.sampler, self._space, seed=options.seed, number=number, startup=options.startup, trials=trials
        )

    def complete(self, number: int, values: Sequence[float]) -> None:
        """Record the values of a completed trial."""
        self._tell(number, values=list(values))

    def prune(self, number: int) -> None:
        """Record that a trial was pruned."""
        self._tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, error: str) -> None:
        """Record that a trial failed, and why."""
        self._tell(number, state=TrialState.FAIL, error=error)

    def _tell(self, number: int, *, error: str | None = None, **outcome: Any) -> None:
        trial = self.study.get_trials(deepcopy=False)[number]
        if trial.state != TrialState.RUNNING:
            log.warning("#%d: another command has recorded its outcome: %s", number, trial.state.name)
            return
        if error is not None:
            self._storage.set_trial_user_attr(_trial_id(self._storage, number), ERROR, error)
        self._use_sampler(number)  # tell() updates cmaes
        self.study.tell(number, **outcome)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with exclusive(self.sweep_dir):
            _remove_torn_line(self.sweep_dir / JOURNAL)
            yield


def num_begun(sweep_dir: Path, options: Options, space: Space, *, fixed: Mapping[str, str]) -> int:
    """How many trials of its own a directory's study has; ConfigError if it has other settings. Writes nothing."""
    if not (sweep_dir / JOURNAL).is_file():
        return 0
    study = optuna.load_study(study_name=NAME, storage=_storage(sweep_dir))
    known = study.user_attrs.get(SETTINGS)
    if known is not None:
        _check_same(sweep_dir, known, settings_of(options, space, fixed))
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
    storage = _storage(sweep_dir)
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
        """The trial of a run directory; None if it is no trial of a search, or one that has ended."""
        if not (run_dir.parent / JOURNAL).is_file() or not run_dir.name.isdecimal():
            return None
        storage = _storage(run_dir.parent)
        study = optuna.load_study(study_name=NAME, storage=storage)
        study.pruner = make_pruner(study.user_attrs[SETTINGS])
        trials = study.get_trials(deepcopy=False)
        number = int(run_dir.name)
        if number >= len(trials) or trials[number].state != TrialState.RUNNING:
            return None
        return cls(study, storage, number)

    def report(self, step: int, value: float) -> bool:
        """Report a metric after the `step`-th validation; returns whether the trial should stop."""
        self._storage.set_trial_intermediate_value(self._trial_id, step, value)
        return self._study.pruner.prune(self._study, self._storage.get_trial(self._trial_id))


def _trial_id(storage: JournalStorage, number: int) -> int:
    """The storage's ID of a trial, by the trial's number."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(NAME), number)


def _check_same(sweep_dir: Path, known: object, wanted: Mapping[str, Any]) -> None:
    """ConfigError if the study in a directory has other settings; DataError if it has none."""
    if not isinstance(known, Mapping) or not isinstance(known.get("override") or {}, Mapping):
        raise DataError(f"{sweep_dir / JOURNAL} has no valid settings of its search")
    if _without_root(known) != wanted:
        raise ConfigError(_difference(sweep_dir, known, wanted))


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
    texts = all(isinstance(trial.user_attrs.get(key, ""), str) for key in (OWNER, ERROR))
    return of_study and finite and reported and texts and is_job_id(trial.user_attrs.get(SLURM_JOB) or "0")


def _is_drawn(value: object, drawn: BaseDistribution) -> bool:
    if isinstance(drawn, CategoricalDistribution):
        return value in drawn.choices
    assert isinstance(drawn, IntDistribution | FloatDistribution)
    return type(value) in {int, float} and drawn.low <= value <= drawn.high  # type: ignore[operator]


def _storage(sweep_dir: Path) -> JournalStorage:
    """Open the journal; DataError if it is invalid, or takes more memory than a journal does."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = sweep_dir / JOURNAL
    try:
        with at_most_bytes(SPARE_BYTES + COPIES * _num_bytes(journal), f"the trials of {journal}"):
            return JournalStorage(_Journal(str(journal)))
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        reason = str(error)[:200] or type(error).__name__
        raise DataError(f"{journal} cannot be read as the trials of a search: {reason}") from error


def _num_bytes(journal: Path) -> int:
    """The size of the journal, 0 if there is none; DataError if it is too large."""
    size = journal.stat().st_size if journal.exists() else 0
    if size > MAX_JOURNAL_BYTES:
        raise DataError(
            f"{journal} is larger than the {MAX_JOURNAL_BYTES:,} bytes that the trials of a search may take"
        )
    return size


class _Journal(JournalFileBackend):
    """Optuna's journal file; removes a line that a full disk cut off before it appends the next one."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._journal = Path(path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines after the last complete one."""
        _remove_torn_line(self._journal)
        super().append_logs(logs)


def settings_of(options: Options, space: Space, fixed: Mapping[str, str]) -> dict[str, Any]:
    """The settings that all commands of a study must share: everything except how long they search."""
    return {
        "metric": [each.metric for each in options.objectives],
        "direction": [each.direction for each in options.objectives],
        "distribution": space.description(),
        "override": {key: text for key, text in fixed.items() if key != KEY},  # the data may be moved
        **{name: getattr(options, name) for name in ("sampler", "seed", "startup", "pruning", "warmup", "reduction")},
    }


def _without_root(known: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a study without data.root, which earlier versions included."""
    overrides = known.get("override")
    return (
        {**known, "override": {key: text for key, text in overrides.items() if key != KEY}} if overrides else {**known}
    )


def _remove_torn_line(journal: Path) -> None:
    """Remove an incomplete last line, as a power cut leaves it: Optuna could not read beyond it."""
    _num_bytes(journal)
    if not _ends_torn(journal):
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()  # runs may append reports at the same time
    try:
        if _ends_torn(journal):
            whole = journal.read_bytes().rfind(b"\n") + 1
            os.truncate(journal, whole)
    finally:
        lock.release()


def _ends_torn(journal: Path) -> bool:
    if not journal.is_file() or not journal.stat().st_size:
        return False
    with journal.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _difference(sweep_dir: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Describe the first difference between the study in a directory and the wanted settings."""
    then, now = _flatten(_without_root(known)), _flatten(wanted)
    key = next(key for key in [*now, *then] if then.get(key) != now.get(key))
    was, is_now = (flat.get(key, "not given") for flat in (then, now))
    return (
        f"the search in {sweep_dir} is another one, so its trials do not compare: {key} was {was} and is {is_now} now. "
        "Repeat its command, or name another folder with hydra.sweep.dir=DIR"
    )


def _flatten(settings: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {str(key): str(child) for key, child in value.items()}
        else:
            flat[f"hydra.sweeper.{name}"] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat
