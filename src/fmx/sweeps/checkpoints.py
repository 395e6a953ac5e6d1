"""sweep.keep_checkpoints: delete the checkpoints of all completed runs of a sweep except the best."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmx.config.validation import validation_of
from fmx.errors import ConfigError

if TYPE_CHECKING:
    from fmx.sweeps.ledger import Ledger

__all__ = ["check_can_rank", "keep_best", "remove_checkpoints"]

log = logging.getLogger(__name__)
FILES = ("*.ckpt", "SHA256SUMS")


def check_can_rank(count: int | None, configs: Iterable[Mapping[str, Any]]) -> None:
    """ConfigError where jobs cannot be ranked, so that sweep.keep_checkpoints would delete by chance.

    count: sweep.keep_checkpoints. configs: the resolved configurations of the jobs.
    """
    validations = set[str]()
    for config in configs:
        own = config.get("sweep", {}).get("keep_checkpoints")
        if own != count:
            raise ConfigError(
                f"sweep.keep_checkpoints counts the jobs of the whole sweep, so one of them cannot set it to {own}: "
                "give it one value on the command line"
            )
        validations.add(str(validation_of(config["data"])))
    if count is None or count == 0:
        return
    if "none" in validations:
        raise ConfigError(
            f"sweep.keep_checkpoints={count} keeps the jobs with the best validation accuracy, and "
            "data.validation=none leaves none: use data.validation=COUNT, or sweep.keep_checkpoints=null to keep all"
        )
    if "test" in validations and len(validations) > 1:
        raise ConfigError(
            f"sweep.keep_checkpoints={count} ranks the jobs by validation accuracy, which is the accuracy on "
            "the test set where data.validation=test: use one data.validation for all, or sweep.keep_checkpoints=null"
        )
    if "test" in validations:
        log.warning("sweep.keep_checkpoints=%d chooses by the test set, since data.validation=test", count)


def keep_best(ledger: "Ledger", count: int | None) -> None:
    """Delete the checkpoints of all completed jobs except the `count` best of each data set; None keeps all.

    Jobs are ranked by validation accuracy, then by validation loss, then by number. A job that has not completed keeps
    its checkpoints, since it resumes from them. So does one whose metrics cannot be read.
    """
    if count is None:
        return
    ranked: dict[str, list[tuple[float, float, int, Path]]] = {}  # by data set
    for entry in ledger.entries.values():
        run_dir = ledger.job(entry).run_dir
        if entry.status != "completed":
            continue
        if count == 0:
            remove_checkpoints(run_dir)
            continue
        try:
            val = _read(run_dir / "metrics.json")["val"]
            data = _read(run_dir / "run.json")["data"]
            data = f"{data['name']} {data['fingerprint']}"
            place = (-float(val["accuracy"]), float(val["loss"]), entry.number, run_dir)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        ranked.setdefault(data, []).append(place)
    for places in ranked.values():
        for *_, run_dir in sorted(places)[count:]:
            remove_checkpoints(run_dir)


def remove_checkpoints(run_dir: Path) -> None:
    """Delete a run's checkpoints and their checksums, and no other file of the folder."""
    for pattern in FILES:
        for path in (run_dir / "checkpoints").glob(pattern):
            path.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
