"""The jobs of a sweep: each composed, checked and frozen into a file before the first one starts."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from fmx.config.bounded_files import read_json
from fmx.config.check import check_names
from fmx.config.from_environment import to_stored
from fmx.config.frozen import freeze_job
from fmx.config.hydra_errors import translate
from fmx.errors import ConfigError, DataError, FmxError
from fmx.process.distributed import check_no_torchrun, num_processes
from fmx.process.lock import lock_folder
from fmx.runs.composition import register_resolvers
from fmx.runs.record import config_fingerprint, present_fingerprint
from fmx.sweeps.checkpoints import check_can_rank
from fmx.sweeps.job import FROZEN_JOBS, Job
from fmx.sweeps.preparation import Preparation
from fmx.sweeps.warm import in_subprocess
from fmx.training.check import check_parts

__all__ = ["Plan", "check_multirun"]

log = logging.getLogger(__name__)
SUBDIR = "${hydra.job.num}"  # as in conf/config.yaml
RESUME_OPTIONS = "--resume-sweep DIR, and a search (or more jobs of a sweep) with hydra.sweep.dir=DIR"


class _Composed(NamedTuple):
    position: int  # on the command line
    overrides: list[str]
    config: DictConfig
    resolved: dict[str, Any]
    fingerprint: str


class Plan:
    """Composes the jobs of one sweep from its master configuration, and freezes each in the sweep directory.

    here: whether the jobs will run on this machine, so that devices which it lacks are errors.
    """

    def __init__(self, context: HydraContext, config: DictConfig, *, here: bool = True) -> None:
        check_multirun(config)
        self._here = here
        self._context = context
        self._config = config
        self._checked: set[str] = set()
        self._configs: dict[int, DictConfig] = {}  # by number
        subdir = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[call-overload,index]
        if subdir != SUBDIR:
            raise ConfigError(f"hydra.sweep.subdir={subdir} is not for sweeps of fmx, whose jobs are numbered")
        self.sweep_dir = Path(str(config.hydra.sweep.dir)).resolve()  # outputs/latest may point elsewhere later

    def jobs(self, overrides: Sequence[Sequence[str]], known: Mapping[str, int]) -> list[Job]:
        """Compose and check all jobs, without duplicates; ConfigError names the first that cannot run. Writes nothing.

        known: the numbers of an earlier sweep's jobs by fingerprint; new jobs are numbered after them.
        """
        composed = self._compose_all(overrides)
        check_can_rank(self._config.sweep.keep_checkpoints, [each.resolved for each in composed])
        with Preparation("checking the parts of the jobs", 0, log.info):
            self._check(composed)
        numbers, jobs = dict(known), dict[int, Job]()
        fingerprints = [each.fingerprint for each in composed]
        for fingerprint in fingerprints:
            numbers.setdefault(fingerprint, max(numbers.values(), default=-1) + 1)
        for fingerprint in fingerprints:
            refuse_another_run(self.sweep_dir / str(numbers[fingerprint]), fingerprint)
        for each, fingerprint in zip(composed, fingerprints, strict=True):
            number = numbers[fingerprint]
            if number in jobs:
                log.warning("%s is the same as job %d: it is run once", " ".join(each.overrides), number)
            else:
                jobs[number] = self._job(each, number, fingerprint)
        return list(jobs.values())

    def freeze(self, jobs: Sequence[Job]) -> None:
        """Create the sweep directory, and write each job there as a frozen configuration."""
        lock_folder(self.sweep_dir, key="hydra.sweep.dir")
        OmegaConf.save(self._config, self.sweep_dir / "multirun.yaml")  # Hydra would write it before any check
        for job in jobs:
            self._freeze(job)

    def configs(self, jobs: Sequence[Job]) -> list[DictConfig]:
        """The composed configurations of jobs."""
        return [self._configs[job.number] for job in jobs]

    def job(self, overrides: Sequence[str], number: int) -> Job:
        """Compose, check and freeze one job; ConfigError if it cannot run."""
        composed = self._compose(overrides, number)
        self._check([composed])
        fingerprint = composed.fingerprint
        refuse_another_run(self.sweep_dir / str(number), fingerprint)
        job = self._job(composed, number, fingerprint)
        self._freeze(job)
        del self._configs[number]  # keeps the memory of a long search bounded
        return job

    def _compose_all(self, overrides: Sequence[Sequence[str]]) -> list[_Composed]:
        composed = []
        with Preparation(f"composing {len(overrides)} jobs", len(overrides), log.info) as preparation:
            for position, each in enumerate(overrides):
                composed.append(self._compose(each, position))
                preparation.advance()
        return composed

    def _compose(self, overrides: Sequence[str], position: int) -> _Composed:
        try:
            config: DictConfig = self._context.config_loader.load_sweep_config(self._config, list(overrides))
            _set_number(config, position)
            resolved = check_names(config)
            _check_sweep_config(resolved, here=self._here)
            return _Composed(position, list(overrides), config, resolved, config_fingerprint(to_stored(config)))
        except Exception as error:
            plain = _as_fmx_error(error)
            if plain is None:
                raise
            raise ConfigError(_job_message(position, overrides, plain)) from error

    def _check(self, composed: Sequence[_Composed]) -> None:
        """Check the parts of configurations; those that differ only in the seed are checked once."""
        new: dict[str, _Composed] = {}
        for each in composed:
            new.setdefault(config_fingerprint({**each.resolved, "seed": None}), each)
        unknown = [each for fingerprint, each in new.items() if fingerprint not in self._checked]
        if unknown:
            parts = [(each.config, each.resolved) for each in unknown]
            invalid = in_subprocess(_first_invalid, parts) if self._here else _first_invalid(parts, here=False)
            if invalid:
                position, why = invalid
                raise ConfigError(_job_message(unknown[position].position, unknown[position].overrides, why))
        self._checked |= new.keys()

    def _job(self, composed: _Composed, number: int, fingerprint: str) -> Job:
        trainer = composed.resolved["trainer"]
        self._configs[number] = composed.config
        return Job(
            number=number,
            overrides=composed.overrides,
            sweep_dir=self.sweep_dir,
            fingerprint=fingerprint,
            processes=num_processes(trainer),
            nodes=trainer.get("num_nodes", 1),
            accelerator=str(trainer.get("accelerator")),
        )

    def _freeze(self, job: Job) -> None:
        folder = self.sweep_dir / FROZEN_JOBS
        folder.mkdir(parents=True, exist_ok=True)
        if not (self.sweep_dir / "multirun.yaml").exists():  # of a search: Hydra writes none
            OmegaConf.save(self._config, self.sweep_dir / "multirun.yaml")
        config = self._configs[job.number]
        _set_number(config, job.number)
        freeze_job(config, folder / f"{job.number}.yaml")


def check_multirun(config: DictConfig) -> None:
    """ConfigError for settings of single runs, and under torchrun, where every process would run all jobs."""
    check_no_torchrun()
    if named := [text for text in config.hydra.overrides.hydra if str(text).startswith("hydra.run.")]:
        raise ConfigError(f"{named[0]} is for a single run; the folder of a multirun is hydra.sweep.dir=DIR")


def refuse_another_run(run_dir: Path, fingerprint: str) -> None:
    """ConfigError if the folder of a job holds a run of another configuration, which must not be overwritten."""
    path = run_dir / "run.json"
    try:
        recorded = read_json(path).get("config_fingerprint") if path.is_file() else fingerprint
        same = present_fingerprint(recorded, run_dir) == fingerprint
    except DataError:
        same = False
    if not same:
        raise ConfigError(
            f"{run_dir} holds a run that is no job of this sweep; name another folder: hydra.sweep.dir=DIR"
        )


def _set_number(config: DictConfig, number: int) -> None:
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number


def _check_sweep_config(resolved: Mapping[str, Any], *, here: bool) -> None:
    if resolved["resume"] is not None:
        raise ConfigError(f"resume={resolved['resume']} is for a single run; a sweep is resumed with {RESUME_OPTIONS}")
    if here and isinstance(resolved["trainer"].get("devices"), list):
        raise ConfigError("trainer.devices=LIST is for a single run; a sweep divides CUDA_VISIBLE_DEVICES itself")


def _first_invalid(
    configs: Sequence[tuple[DictConfig, Mapping[str, Any]]], *, here: bool = True
) -> tuple[int, str] | None:
    """The position of the first configuration whose parts cannot be instantiated, and the reason.

    configs: pairs of a composed configuration and its resolved values.
    """
    register_resolvers()
    for position, (config, resolved) in enumerate(configs):
        try:
            check_parts(config, resolved, here=here)
        except Exception as error:
            plain = _as_fmx_error(error)
            if plain is None:
                raise
            return position, str(plain)
    return None


def _as_fmx_error(error: Exception) -> FmxError | None:
    return error if isinstance(error, FmxError) else translate(error)


def _job_message(number: int, overrides: Sequence[str], message: object) -> str:
    return f"job {number} ({' '.join(overrides)}): {message}"
