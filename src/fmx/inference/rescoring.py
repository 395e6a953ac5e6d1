"""Evaluate a run again from its directory, and compare the metrics with the recorded ones."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from fmx.config.validation import validation_of
from fmx.data.module import ImageDataModule, Part
from fmx.errors import ConfigError, DataError
from fmx.inference.calibration import calibrate
from fmx.inference.ensemble import combined, score_mean
from fmx.inference.other_data import changed_data, other_data
from fmx.inference.scoring import Predictions, predict, score
from fmx.process.memory_bound import at_most_bytes
from fmx.runs.calibration import HIGHEST, LOWEST, Calibration
from fmx.runs.ensemble import is_ensemble, open_members, refuse_checkpoint, weights_digest
from fmx.runs.run_dir import Run, open_run
from fmx.runs.trusted_config import checked_config, trusted_config
from fmx.training.classifier import Classifier
from fmx.training.restore import restore_classifier, restore_data

__all__ = ["Evaluation", "Request", "changes_of_data", "predict_part", "reevaluate"]

FEW = 100  # validation images
SLACK = 1.001  # of a temperature from the ends of its range
SCORE_BYTES = 768 << 20
SCORE_COPIES = 16  # of the logits, as probabilities and sorted, and in float64
OTHER_METRICS = "metrics.json holds other metrics"
MEMBERS = "members"  # the checkpoint of an ensemble
IDENTICAL = "identical to metrics.json, to the last digit"


@dataclass(frozen=True)
class Request:
    """What to evaluate. checkpoint: `best`, `last`, a file, or None for the one that the run tested.

    data: another data group, found in config_dir or conf/, or None for the run's own; changes: of its keys.
    allow: packages whose code the user trusts. calibration: fit a temperature on the run's validation images.
    """

    checkpoint: str | None = None
    data: str | None = None
    changes: Sequence[Override] = ()
    config_dir: Path | None = None
    allow: Sequence[str] = ()
    calibration: bool = False


@dataclass(frozen=True)
class Evaluation:
    """A run's new metrics (val and test, as in metrics.json), and how they compare with the recorded ones.

    identical: None if there is nothing to compare with. differs: whether a figure that both have is another one now,
    by as much as the verdict says. validated_on_test: whether val's images are the test set's.
    """

    run: str
    data: str
    checkpoint: str
    figures: Mapping[str, Any]
    identical: bool | None
    verdict: str
    validated_on_test: bool
    notes: list[str] = field(default_factory=list)
    calibration: Calibration | None = None
    differs: bool = False


@dataclass(frozen=True)
class _Scored:
    """A run or an ensemble scored anew: metrics of val and test, the predictions, and what has changed since."""

    checkpoint: str
    data: ImageDataModule
    data_name: str
    metrics: dict[str, Any]
    predictions: Predictions
    held_out: Predictions | None
    note: str | None
    changes: list[str]  # of the run's own data


def reevaluate(path: Path, request: Request) -> Evaluation:
    """Evaluate a run or an ensemble; DataError if it, a checkpoint or the data is missing, damaged, or does not fit."""
    run = open_run(path)
    scored = (_score_ensemble if is_ensemble(run.path) else _score_run)(path, run, request)
    notes = [] if scored.note is None else [scored.note]
    identical = None
    if request.data is not None:
        verdict = f"the test set of {scored.data_name}, {len(scored.predictions.labels):,} images"
    else:
        notes += scored.changes
        if scored.checkpoint in {run.tested, MEMBERS}:
            identical, verdict = _compare(run, scored.metrics, scored.predictions)
            notes += [] if identical else _changes_of_environment(run)
        else:
            verdict = f"the run's own metrics are those of {run.tested}.ckpt"
    on_test = bool(scored.metrics["val"]) and scored.data.validation == "test"
    calibration = None
    if request.calibration:
        calibration = _calibration(run, scored)
        notes += _notes_on_temperature(calibration)
    return Evaluation(
        run=str(path),
        data=scored.data_name,
        checkpoint=scored.checkpoint,
        figures=scored.metrics,
        identical=identical,
        verdict=verdict,
        validated_on_test=on_test,
        notes=notes,
        calibration=calibration,
        differs=identical is False and verdict != OTHER_METRICS and _asks_for_the_same(request),
    )


def _asks_for_the_same(request: Request) -> bool:
    """Whether no key of the data is another one than the run's, but for its folder."""
    return all(change.key_or_group == "data.root" for change in request.changes)


def _score_run(path: Path, run: Run, request: Request) -> _Scored:
    config, note = _configuration(path, run, request)
    checkpoint = request.checkpoint or run.tested
    classifier, data = restore_classifier(config, run.checkpoint(checkpoint)), restore_data(config)
    metrics, predictions, held_out = _score(run, config, classifier, data, own=request.data is None)
    changes = changes_of_data(run, data) if request.data is None else []
    return _Scored(checkpoint, data, config.data.name, metrics, predictions, held_out, note, changes)


def _score_ensemble(path: Path, ensemble: Run, request: Request) -> _Scored:
    """Run every member over the images, one member in memory at a time, and score the mean of their probabilities."""
    refuse_checkpoint(path, request.checkpoint)
    members = open_members(ensemble.path)
    validated = request.data is None and ensemble.metrics.get("val") is not None
    parts: dict[Part, list[Predictions]] = {"test": []}
    if validated:
        parts["val"] = []
    notes: dict[str, None] = {}
    changes: dict[str, None] = {}
    for member in members:
        config, note = _configuration(path, member, request)
        classifier, data = restore_classifier(config, member.checkpoint(member.tested)), restore_data(config)
        for part, predicted in parts.items():
            predicted.append(predict_part(member, config, classifier, data, part, own=request.data is None))
        notes |= {} if note is None else {note: None}
        changes |= dict.fromkeys(changes_of_data(member, data) if request.data is None else [])
    means = {part: combined(each, [member.path for member in members]) for part, each in parts.items()}
    scores = {part: score_mean(means[part], classifier.val_metrics, data.class_names) for part in means}
    return _Scored(
        checkpoint=MEMBERS,
        data=data,
        data_name=config.data.name,
        metrics={"val": scores.get("val"), "test": scores["test"]},
        predictions=means["test"],
        held_out=means.get("val"),
        note="; ".join(notes) or None,
        changes=[*changes],
    )


def _configuration(path: Path, run: Run, request: Request) -> tuple[DictConfig, str | None]:
    """The configuration to score a run with, and a note if it has classes of other names."""
    config = trusted_config(run, request.allow, trains=False)
    if request.calibration:
        _check_can_calibrate(path, run, config, request)
    if request.data is not None:
        return other_data(config, request.data, request.changes, request.config_dir)
    if request.changes:
        config = checked_config(changed_data(run, config, request.changes), run, request.allow)
    return config, None


def _check_can_calibrate(path: Path, run: Run, config: DictConfig, request: Request) -> None:
    """DataError where a temperature would be fitted on the test set, or to other weights than those that are used."""
    validation = validation_of(config.data)
    train_again = "train it with data.validation=0.1 (or data.folds, or images of their own in data.val)"
    if validation in {"none", 0}:
        raise DataError(f"{path} held no validation images out, and a temperature fitted on the test set would "
                        f"flatter: {train_again}")  # fmt: skip
    if validation == "test" or config.data.val == config.data.test:
        raise DataError(f"{path} was validated on its test set, and a temperature fitted there would flatter: "
                        f"{train_again}")  # fmt: skip
    if request.data is not None:
        raise ConfigError("--calibration is of the run's own data: leave out --data")
    if request.checkpoint not in {None, run.tested}:
        raise ConfigError("--calibration is of the weights that the run tested: leave out --checkpoint")


def _calibration(run: Run, scored: _Scored) -> Calibration:
    if scored.changes:
        raise DataError(f"{run.path} cannot be calibrated: {'; '.join(scored.changes)}")
    if scored.held_out is None:
        raise DataError(f"{run.path} cannot be calibrated: there are no validation images that no member trained on")
    val, test = ((each.logits.numpy(), each.labels.numpy()) for each in (scored.held_out, scored.predictions))
    try:
        return calibrate(val, test, weights=weights_digest(run))
    except DataError as error:
        raise DataError(f"{run.path} cannot be calibrated: {error}") from error


def _notes_on_temperature(calibration: Calibration) -> list[str]:
    """Notes on a temperature that the validation images hardly determine."""
    notes = []
    if calibration.num_val < FEW:
        notes.append(f"{calibration.num_val} validation images are few: the temperature is a rough estimate")
    if calibration.temperature <= LOWEST * SLACK or calibration.temperature >= HIGHEST / SLACK:
        notes.append(f"the temperature is at the end of its range {LOWEST:g} to {HIGHEST:g}, as where every validation "
                     "image is right")  # fmt: skip
    return notes


def _score(
    run: Run, config: DictConfig, classifier: Classifier, data: ImageDataModule, *, own: bool
) -> tuple[dict[str, Any], Predictions, Predictions | None]:
    """Metrics of val (only for the run's own data) and test, as the run computes them, and the predictions of both.

    Returns the metrics, the predictions on test, and those on val.
    """
    metrics: dict[str, Any] = {"val": None}
    held_out = None
    if own and data.has_validation:
        held_out = predict_part(run, config, classifier, data, "val", own=own)
        metrics["val"] = _bounded_score(held_out, classifier, data)
    predictions = predict_part(run, config, classifier, data, "test", own=own)
    metrics["test"] = _bounded_score(predictions, classifier, data)
    return metrics, predictions, held_out


def predict_part(
    run: Run, config: DictConfig, classifier: Classifier, data: ImageDataModule, part: Part, *, own: bool = True
) -> Predictions:
    """A classifier's predictions on a part of the data; of a run's own data (`own`) with its limits on batches."""
    limit = config.trainer[f"limit_{part}_batches"] if own else 1.0
    with _quiet_lightning():
        return predict(classifier, data, part, device=_device(run), limit=limit)


def _bounded_score(predictions: Predictions, classifier: Classifier, data: ImageDataModule) -> dict[str, Any]:
    """The metrics of predictions; DataError if they take too much memory or time."""
    with at_most_bytes(SCORE_BYTES + SCORE_COPIES * predictions.logits.nbytes, "its loss and metrics"):
        return score(predictions, classifier, data.class_names)


def _device(run: Run) -> torch.device:
    """The device of the run, if this machine has it, else the CPU."""
    on_gpu = run.recorded(str, "device", "accelerator") == "cuda" and torch.cuda.is_available()
    return torch.device("cuda", 0) if on_gpu else torch.device("cpu")


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hide Lightning's messages on devices and workers."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
            yield
    finally:
        logger.setLevel(level)


def _compare(run: Run, metrics: Mapping[str, Any], predictions: Predictions) -> tuple[bool, str]:
    """Whether new metrics equal the recorded ones, and a description of the largest difference."""
    recorded = {part: run.metrics.get(part) for part in metrics}
    if json.dumps(recorded, sort_keys=True) == json.dumps(metrics, sort_keys=True):
        return True, IDENTICAL
    before, now = dict(_numbers(recorded)), dict(_numbers(metrics))
    both = now.keys() & before.keys()
    # repr: NaN equals NaN.
    differences = {key: abs(now[key] - before[key]) for key in both if repr(now[key]) != repr(before[key])}
    if not differences:
        return False, OTHER_METRICS
    key = max(differences, key=lambda k: differences[k])
    words = f"differs from metrics.json by up to {differences[key]:.2g} ({key})"
    then = Predictions.load(run.path / "predictions.npz")
    if torch.equal(then.labels, predictions.labels):
        changed = int((then.logits.argmax(1) != predictions.logits.argmax(1)).sum())
        words += f"; {changed:,} of {len(then.labels):,} test images get another class"
    return False, words


def _numbers(node: object, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(node, Mapping):
        for name, child in node.items():
            yield from _numbers(child, f"{key}/{name}" if key else str(name))
    elif isinstance(node, int | float):
        yield key, float(node)


def changes_of_data(run: Run, data: ImageDataModule) -> list[str]:
    """Notes on images and on a choice of validation images that are not those of the run."""
    now, notes = data.fingerprints(), []
    if not data.has_fingerprint(then := run.recorded(str, "data", "fingerprint")):
        notes.append(f"the data has changed since the run: its fingerprint is {now['fingerprint']}, it was {then}")
    if now["split_fingerprint"] != (then := run.recorded(str, "data", "split_fingerprint")):
        notes.append(f"other images are held out: {now['split_fingerprint']}, it was {then}")
    return notes


def _changes_of_environment(run: Run) -> list[str]:
    """Notes on another device and other versions of packages."""
    notes = []
    then, now = run.recorded(str, "device", "accelerator"), _device(run).type
    if then != now:
        notes.append(f"computed on {now}, the run was on {then}")
    for package, version in run.recorded(dict, "versions").items():
        try:
            installed = metadata.version(package) if package != "python" else version
        except metadata.PackageNotFoundError:
            installed = "missing"
        if installed != version:
            notes.append(f"{package} is {installed}, it was {version}")
    return notes
