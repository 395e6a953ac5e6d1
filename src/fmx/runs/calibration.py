"""calibration.json: how far a run's probabilities can be trusted, and the temperature that corrects them."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from fmx.config.bounded_files import read_json
from fmx.config.printed_command import printed_command
from fmx.errors import DataError

__all__ = [
    "CALIBRATION",
    "HIGHEST",
    "LOWEST",
    "Calibration",
    "Reliability",
    "file_digest",
    "needed_calibration",
    "read_calibration",
]

CALIBRATION = "calibration.json"
MAX_BYTES = 200_000  # about six thousand are expected
MAX_BINS = 1000
LOWEST, HIGHEST = 1 / 20, 20.0  # temperatures


@dataclass(frozen=True)
class Reliability:
    """How confidence and accuracy agree on a set of images; shares in 0..1.

    ece: the expected calibration error, with its 95 % interval; nll: the mean negative log-likelihood; brier: the mean
    squared distance of the probabilities from the true class, 0..2. counts, confidence, accuracy: of each bin, the
    latter two None in an empty one.
    """

    ece: float
    ece_interval: list[float]
    nll: float
    brier: float
    counts: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]


@dataclass(frozen=True)
class Calibration:
    """A temperature that was fitted on validation predictions, and what it changes on each part.

    weights: the SHA-256 sum of the checkpoint. parts: `val` and `test`, each {`trained`, `calibrated`}.
    """

    temperature: float
    weights: str
    num_val: int
    parts: Mapping[str, Mapping[str, Reliability]]

    def contents(self) -> dict[str, Any]:
        """What calibration.json holds."""
        return {"format": 1, **asdict(self)}


def read_calibration(run_dir: Path) -> Calibration | None:
    """Read calibration.json; None where there is none, DataError where it is not what fmx writes."""
    path = run_dir / CALIBRATION
    if not path.exists():
        return None
    contents = read_json(path, at_most=MAX_BYTES)
    try:
        parts = {
            part: {state: Reliability(**contents["parts"][part][state]) for state in ("trained", "calibrated")}
            for part in ("val", "test")
        }
        calibration = Calibration(contents["temperature"], contents["weights"], contents["num_val"], parts)
        sound = _is_sound(calibration)
    except (AttributeError, KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise DataError(f"{path} is not what fmx evaluate --calibration writes: remove it, or fit the temperature anew")
    return calibration


def _is_sound(calibration: Calibration) -> bool:
    each = [state for states in calibration.parts.values() for state in states.values()]
    return (
        _is_number(calibration.temperature, LOWEST, HIGHEST)
        and isinstance(calibration.weights, str)
        and type(calibration.num_val) is int
        and all(_is_number(share, 0, 1) for state in each for share in [state.ece, *state.ece_interval])
        and all(len(state.ece_interval) == len("ab") for state in each)
        and all(_is_number(state.nll, 0, float("inf")) and _is_number(state.brier, 0, 2) for state in each)
        and all(
            0 < len(state.counts) == len(state.confidence) == len(state.accuracy) <= MAX_BINS
            and all(type(count) is int and count >= 0 for count in state.counts)
            and all(share is None or _is_number(share, 0, 1) for share in [*state.confidence, *state.accuracy])
            for state in each
        )
    )


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and low <= value <= high


def needed_calibration(run_dir: Path, weights: str) -> Calibration:
    """The calibration of a run for weights with this SHA-256 sum; DataError, with what to type, where there is none."""
    calibration, command = read_calibration(run_dir), printed_command("fmx", "evaluate", str(run_dir), "--calibration")
    if calibration is None:
        raise DataError(f"{run_dir} has no temperature yet: {command} fits it on the validation images")
    if calibration.weights != weights:
        raise DataError(f"the temperature in {run_dir / CALIBRATION} was fitted to other weights: {command} fits it to "
                        "those that the run tested")  # fmt: skip
    return calibration


def file_digest(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal; DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
