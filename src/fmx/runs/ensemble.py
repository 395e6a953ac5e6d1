"""ensemble.json: the runs whose mean probability an ensemble is, with the sums of their weights."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fmx.config.bounded_files import read_json
from fmx.errors import DataError
from fmx.runs.calibration import file_digest
from fmx.runs.run_dir import Run, open_run

__all__ = [
    "ENSEMBLE",
    "MAX_MEMBERS",
    "Member",
    "is_ensemble",
    "joint_digest",
    "member_of",
    "open_members",
    "read_members",
    "refuse_checkpoint",
    "weights_digest",
]

ENSEMBLE = "ensemble.json"
MAX_BYTES = 1_000_000
MAX_MEMBERS = 1000
REMEDY = "fmx ensemble makes a new one of runs that are there"


@dataclass(frozen=True)
class Member:
    """A run of an ensemble: its directory, absolute and relative to the ensemble's, and the weights that it tested.

    checkpoint: best or last; weights: the SHA-256 sum of that file.
    """

    path: str
    relative: str
    checkpoint: str
    weights: str


def is_ensemble(run_dir: Path) -> bool:
    """Whether a directory with a run.json is that of an ensemble."""
    return (run_dir / ENSEMBLE).exists()


def member_of(ensemble: Path, run: Run) -> Member:
    """What an ensemble's directory notes of a run; DataError where the run's weights are gone."""
    home = os.path.relpath(run.path, ensemble.resolve())
    return Member(str(run.path), home, run.tested, file_digest(run.checkpoint(run.tested)))


def read_members(ensemble: Path) -> list[Member]:
    """What ensemble.json says of the members; DataError where it is not what fmx writes."""
    path = ensemble / ENSEMBLE
    listed = read_json(path, at_most=MAX_BYTES).get("members")
    members = listed if isinstance(listed, list) and 1 < len(listed) <= MAX_MEMBERS else []
    names = Member.__dataclass_fields__
    sound = [
        isinstance(each, dict)
        and all(isinstance(each.get(name), str) for name in names)
        and each["checkpoint"] in {"best", "last"}
        and "\0" not in each["path"] + each["relative"]
        for each in members
    ]
    if not members or not all(sound):
        raise DataError(f"{path} is not what fmx ensemble writes: {REMEDY}")
    return [Member(**{name: each[name] for name in names}) for each in members]


def open_members(ensemble: Path) -> list[Run]:
    """The runs of an ensemble, in its order; DataError names the first that is gone or has other weights."""
    from fmx.process.table import printable  # rich draws from Python's random numbers when it is imported

    runs = []
    for member in read_members(ensemble):
        places = [ensemble / member.relative, Path(member.path)]
        place = next((each for each in places if (each / "run.json").is_file()), None)
        shown = printable(member.path)
        if place is None:
            raise DataError(f"{ensemble} has lost a member, {shown}: put it back, or {REMEDY}")
        if is_ensemble(place):
            raise DataError(f"{ensemble} names another ensemble as a member, {shown}: {REMEDY}")
        run = open_run(place)
        try:
            weights = file_digest(run.checkpoint(member.checkpoint))
        except DataError as error:
            raise DataError(
                f"{ensemble} has lost the weights of a member: {error}; put them back, or {REMEDY}"
            ) from error
        if weights != member.weights or run.tested != member.checkpoint:
            raise DataError(f"{ensemble} was made with other weights of {shown} than are there now: {REMEDY}")
        runs.append(run)
    return runs


def weights_digest(run: Run, checkpoint: str | None = None) -> str:
    """The SHA-256 sum of a run's weights, or of the sums of an ensemble's members.

    checkpoint: best, last or a file; None for the one that the run tested.
    """
    if not is_ensemble(run.path):
        return file_digest(run.checkpoint(checkpoint or run.tested))
    refuse_checkpoint(run.path, checkpoint)
    return joint_digest([member.weights for member in read_members(run.path)])


def joint_digest(weights: Sequence[str]) -> str:
    """The SHA-256 sum of the sums of several files."""
    return hashlib.sha256("\n".join(weights).encode()).hexdigest()


def refuse_checkpoint(ensemble: Path, checkpoint: str | None) -> None:
    """DataError where a checkpoint is asked for: an ensemble has the weights that its members tested."""
    if checkpoint is not None:
        raise DataError(f"{ensemble} is an ensemble of the weights that its runs tested: leave out --checkpoint")
