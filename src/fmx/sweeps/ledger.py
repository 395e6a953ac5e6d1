"""sweep.json: the jobs of a sweep and their status, from which the sweep can be resumed."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fmx.config.bounded_files import read_json
from fmx.errors import DataError
from fmx.process.table import printable
from fmx.runs.record import present_fingerprint, write_atomically
from fmx.runs.run_dir import open_run
from fmx.sweeps.job import Job
from fmx.sweeps.slurm_queue import is_job_id

__all__ = ["JOURNAL", "LEDGER", "Entry", "Ledger"]

LEDGER = "sweep.json"
MAX_BYTES = 256_000_000  # a job takes a few hundred
MAX_PROCESSES = 100_000
JOURNAL = "study.journal"  # Optuna's, which a search has instead of a ledger
MAX_CHECKPOINT_BYTES = 2**60


@dataclass
class Entry:
    """One job and its status."""

    number: int
    overrides: list[str]
    fingerprint: str
    processes: int
    nodes: int
    accelerator: str
    status: str = "waiting"  # or running, completed, failed, interrupted
    cause: str | None = None  # as in Ended
    error: str | None = None
    seconds: float | None = None
    slurm_job: str | None = None  # SLURM's job ID
    checkpoint_bytes: int | None = None  # estimated; None in sweeps of earlier versions


def _entry(plain: dict[str, Any]) -> Entry:
    """Read an entry and make its texts printable; ValueError or TypeError where it is invalid."""
    entry = Entry(**plain)
    counts = (entry.number, entry.processes, entry.nodes)
    if any(type(count) is not int for count in counts) or entry.number < 0:
        raise ValueError("a job's number and processes must be counts")
    if not (1 <= entry.processes <= MAX_PROCESSES and 1 <= entry.nodes <= entry.processes):
        raise ValueError(f"job {entry.number} has {entry.processes} processes on {entry.nodes} machines")
    size = entry.checkpoint_bytes
    if size is not None and not (type(size) is int and 0 <= size < MAX_CHECKPOINT_BYTES):
        raise ValueError(f"job {entry.number} cannot take {printable(size)} bytes")
    entry.overrides = [printable(each) for each in entry.overrides]
    entry.fingerprint, entry.accelerator, entry.status = map(str, (entry.fingerprint, entry.accelerator, entry.status))
    entry.error = None if entry.error is None else printable(entry.error)
    entry.slurm_job = None if entry.slurm_job is None else str(entry.slurm_job)
    if entry.slurm_job and not is_job_id(entry.slurm_job):
        raise ValueError(f"job {entry.number} cannot have SLURM's number {printable(entry.slurm_job)}")
    return entry


class Ledger:
    """The entries of one sweep; the file is replaced atomically at each change."""

    def __init__(self, sweep_dir: Path, settings: dict[str, Any]) -> None:
        self.sweep_dir = sweep_dir
        self.settings = settings
        self.entries: dict[int, Entry] = {}
        self._texts: dict[int, str] = {}  # of the entries, as they were written last

    @classmethod
    def read(cls, sweep_dir: Path) -> "Ledger":
        """Read the ledger of a sweep, with each job's status from its run directory; DataError if there is none."""
        ledger = cls.as_written(sweep_dir)
        for entry in ledger.entries.values():
            entry.fingerprint = present_fingerprint(entry.fingerprint, sweep_dir / str(entry.number))
            entry.status = ledger.status(entry)
        return ledger

    @classmethod
    def as_written(cls, sweep_dir: Path) -> "Ledger":
        """Read the ledger of a sweep alone, which may be older than its run directories; DataError if there is none."""
        path = sweep_dir / LEDGER
        if not path.exists():
            search = sweep_dir / "search.json"
            hint = f"; {search} has the command that resumes this search" if search.is_file() else ""
            raise DataError(f"{sweep_dir} is no sweep of fmx: it has no {LEDGER}{hint}")
        contents = read_json(path, at_most=MAX_BYTES)
        try:
            ledger = cls(sweep_dir, dict(contents["settings"]))
            ledger.entries = {each["number"]: _entry(each) for each in contents["jobs"]}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read as the ledger of a sweep: {error}") from error
        return ledger

    def status(self, entry: Entry) -> str:
        """The present status of an entry's job, from its run directory."""
        try:
            run = open_run(self.sweep_dir / str(entry.number), finished=False)
        except DataError:
            return entry.status if entry.status == "failed" else "waiting"
        same = present_fingerprint(run.record.get("config_fingerprint"), run.path) == entry.fingerprint
        return run.status if same else "waiting"

    def job(self, entry: Entry) -> Job:
        """The job of an entry."""
        return Job(
            number=entry.number,
            overrides=entry.overrides,
            sweep_dir=self.sweep_dir,
            fingerprint=entry.fingerprint,
            processes=entry.processes,
            nodes=entry.nodes,
            accelerator=entry.accelerator,
        )

    def add(self, jobs: Sequence[Job]) -> None:
        """Add jobs."""
        for job in jobs:
            plain = asdict(job)
            del plain["sweep_dir"]
            entry = self.entries[job.number] = Entry(**plain)
            entry.status = self.status(entry)  # another launcher may have run it already

    def update(self, job: Job, **fields: Any) -> None:
        """Set an entry's fields and write the ledger."""
        for name, value in fields.items():
            setattr(self.entries[job.number], name, value)
        self._texts.pop(job.number, None)
        self._write()

    def write(self) -> None:
        """Write sweep.json."""
        self._texts.clear()
        self._write()

    def _write(self) -> None:
        """Write sweep.json, with the texts of entries that have not changed: each start and end of a job writes it."""
        self.sweep_dir.mkdir(parents=True, exist_ok=True)
        for number in self.entries.keys() - self._texts.keys():
            self._texts[number] = json.dumps(asdict(self.entries[number]), ensure_ascii=False)
        facts = {"written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "settings": self.settings}
        head = json.dumps(facts, ensure_ascii=False)[:-1]
        jobs = ",\n".join(self._texts[number] for number in sorted(self.entries))
        write_atomically(self.sweep_dir / LEDGER, f'{head}, "jobs": [\n{jobs}\n]}}\n')
