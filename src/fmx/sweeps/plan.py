"""The jobs of a sweep: each composed, checked and frozen into a file before the first one starts."""

import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from fmx.config.bounded_files import read_json
from fmx.config.check import Checked, check_config
from fmx.config.frozen import frozen_job, write_text
from fmx.errors import ConfigError, DataError
from fmx.process.distributed import check_no_torchrun, num_processes
from fmx.process.lock import lock_folder
from fmx.runs.record import config_fingerprint, present_fingerprint
from fmx.sweeps.checkpoints import check_can_rank
from fmx.sweeps.composer import Composer
from fmx.sweeps.job import FROZEN_JOBS, Job
from fmx.sweeps.parts_check import PartsCheck, as_fmx_error
from fmx.sweeps.preparation import Preparation
from fmx.training.check import is_bounded

__all__ = ["Plan", "check_multirun", "check_sweep_config"]

log = logging.getLogger(__name__)
SUBDIR = "${hydra.job.num}"  # as in conf/config.yaml
RESUME_OPTIONS = "--resume-sweep DIR, and a search (or more jobs of a sweep) with hydra.sweep.dir=DIR"


class _Composed(NamedTuple):
    """One job whose values are checked, in a few KB: a sweep may have ten thousand."""

    position: int  # on the command line
    overrides: list[str]
    fingerprint: str
    parts: str  # what identifies its parts, as PartsCheck has it
    processes: int
    nodes: int
    accelerator: str
    frozen: bytes  # the text of its configuration, compressed


class Plan:
    """Composes the jobs of one sweep from its master configuration, and freezes each in the sweep directory.

    here: whether the jobs will run on this machine, so that devices which it lacks are errors.
    """

    def __init__(self, context: HydraContext, config: DictConfig, *, here: bool = True) -> None:
        check_multirun(config)
        self._here = here
        self._composer = Composer(context.config_loader, config)
        self._config = config
        self._composed: dict[int, _Composed] = {}  # by number
        self._checkpoint_sizes: dict[str, int] = {}
        self._rankings: dict[str, Mapping[str, Any]] = {}  # of the jobs, without duplicates
        subdir = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[call-overload,index]
        if subdir != SUBDIR:
            raise ConfigError(f"hydra.sweep.subdir={subdir} is not for sweeps of fmx, whose jobs are numbered")
        self.sweep_dir = Path(str(config.hydra.sweep.dir)).resolve()  # outputs/latest may point elsewhere later

    def jobs(self, overrides: Sequence[Sequence[str]], known: Mapping[str, int]) -> list[Job]:
        """Compose and check all jobs, without duplicates; ConfigError names the first that cannot run. Writes nothing.

        known: the numbers of an earlier sweep's jobs by fingerprint; new jobs are numbered after them.
        """
        composed = self._compose_all(overrides)
        numbers, jobs = dict(known), dict[int, Job]()
        following = max(numbers.values(), default=-1) + 1
        for each in composed:
            if each.fingerprint not in numbers:
                numbers[each.fingerprint], following = following, following + 1
        for fingerprint in dict.fromkeys(each.fingerprint for each in composed):
            refuse_another_run(self.sweep_dir / str(numbers[fingerprint]), fingerprint)
        for each in composed:
            number = numbers[each.fingerprint]
            if number in jobs:
                log.warning("%s is the same as job %d: it is run once", " ".join(each.overrides), number)
            else:
                jobs[number] = self._job(each, number)
        return list(jobs.values())

    def freeze(self, jobs: Sequence[Job]) -> None:
        """Create the sweep directory, and write each job there as a frozen configuration."""
        lock_folder(self.sweep_dir, key="hydra.sweep.dir")
        OmegaConf.save(self._config, self.sweep_dir / "multirun.yaml")  # Hydra would write it before any check
        for job in jobs:
            self._freeze(job)

    def checkpoint_sizes(self, jobs: Sequence[Job]) -> list[int]:
        """The bytes that the checkpoints of each job will take, as disk.checkpoint_bytes estimates them."""
        return [self._checkpoint_sizes[self._composed[job.number].parts] for job in jobs]

    @property
    def num_data_sets(self) -> int:
        """How many data sets the jobs are trained on."""
        return len({str(ranking["data"].get("name")) for ranking in self._rankings.values()})

    def job(self, overrides: Sequence[str], number: int) -> Job:
        """Compose, check and freeze one job; ConfigError if it cannot run."""
        with PartsCheck(here=self._here) as check:
            composed = self._compose(overrides, number, check)
            check.finish()
        refuse_another_run(self.sweep_dir / str(number), composed.fingerprint)
        job = self._job(composed, number)
        self._freeze(job)
        return job

    def _compose_all(self, overrides: Sequence[Sequence[str]]) -> list[_Composed]:
        composed = []
        with PartsCheck(here=self._here) as check:
            with Preparation(f"composing {len(overrides)} jobs", len(overrides), log.info) as preparation:
                for position, each in enumerate(overrides):
                    composed.append(self._compose(each, position, check))
                    preparation.advance()
            check_can_rank(self._config.sweep.keep_checkpoints, self._rankings.values())
            with Preparation("checking the parts of the jobs", 0, log.info):
                check.finish()
        self._checkpoint_sizes |= check.sizes
        return composed

    def _compose(self, overrides: Sequence[str], position: int, check: PartsCheck) -> _Composed:
        """Compose a job and check its values; its parts are checked by the time that `check` has finished."""
        config, checked = self._values(overrides, position)
        ranking: dict[str, Any] = {key: checked.resolved[key] for key in ("data", "sweep") if key in checked.resolved}
        self._rankings.setdefault(config_fingerprint(ranking), ranking)
        trainer = checked.resolved["trainer"]
        parts = check.add(
            checked, bounded=is_bounded(config), message=lambda why: _job_message(position, overrides, why)
        )
        return _Composed(
            position=position,
            overrides=list(overrides),
            fingerprint=config_fingerprint(checked.stored),
            parts=parts,
            processes=num_processes(trainer),
            nodes=trainer.get("num_nodes", 1),
            accelerator=str(trainer.get("accelerator")),
            frozen=zlib.compress(frozen_job(config, checked).encode()),
        )

    def _values(self, overrides: Sequence[str], position: int) -> tuple[DictConfig, Checked]:
        """Compose a job and check its values; ConfigError names it."""
        try:
            config = self._composer.compose(overrides)
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = position
            checked = check_config(config)
            check_sweep_config(checked.resolved, here=self._here)
        except Exception as error:
            plain = as_fmx_error(error)
            if plain is None:
                raise
            raise ConfigError(_job_message(position, overrides, plain)) from error
        return config, checked

    def _job(self, composed: _Composed, number: int) -> Job:
        self._composed[number] = composed
        return Job(
            number=number,
            overrides=composed.overrides,
            sweep_dir=self.sweep_dir,
            fingerprint=composed.fingerprint,
            processes=composed.processes,
            nodes=composed.nodes,
            accelerator=composed.accelerator,
        )

    def _freeze(self, job: Job) -> None:
        folder = self.sweep_dir / FROZEN_JOBS
        folder.mkdir(parents=True, exist_ok=True)
        if not (self.sweep_dir / "multirun.yaml").exists():  # of a search: Hydra writes none
            OmegaConf.save(self._config, self.sweep_dir / "multirun.yaml")
        composed = self._composed.pop(job.number)
        text = zlib.decompress(composed.frozen).decode()
        if job.number != composed.position:  # the text holds the number
            text = frozen_job(*self._values(job.overrides, job.number))
        write_text(folder / f"{job.number}.yaml", text)


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


def check_sweep_config(resolved: Mapping[str, Any], *, here: bool) -> None:
    """ConfigError for settings that no job of a sweep can have. here: whether jobs run on this machine."""
    if resolved["resume"] is not None:
        raise ConfigError(f"resume={resolved['resume']} is for a single run; a sweep is resumed with {RESUME_OPTIONS}")
    if here and isinstance(resolved["trainer"].get("devices"), list):
        raise ConfigError("trainer.devices=LIST is for a single run; a sweep divides CUDA_VISIBLE_DEVICES itself")
    if here and (nodes := resolved["trainer"].get("num_nodes", 1)) > 1:
        raise ConfigError(
            f"trainer.num_nodes={nodes}: only SLURM starts the jobs of a sweep on several machines; add "
            "hydra/launcher=slurm, or leave out trainer.num_nodes"
        )


def _job_message(number: int, overrides: Sequence[str], message: object) -> str:
    return f"job {number} ({' '.join(overrides)}): {message}"
