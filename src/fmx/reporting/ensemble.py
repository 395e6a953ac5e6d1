"""Make an ensemble of finished runs: choose its members on validation, score it like a run, write its directory."""

import logging
import shutil
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fmx.config.bounded_files import read_yaml, read_yaml_or_empty
from fmx.errors import ConfigError, DataError
from fmx.inference.calibration import reliability
from fmx.inference.ensemble import combined, score_mean
from fmx.inference.export.signature import Signature, signature_of
from fmx.inference.rescoring import changes_of_data, predict_part
from fmx.inference.scoring import Predictions
from fmx.reporting.figures.confusion import confusion_matrix
from fmx.reporting.figures.fonts import drawable
from fmx.reporting.intervals import Interval, mcnemar, newcombe, student_t
from fmx.reporting.outcomes import Outcome, Unfinished, environment_differences, read_outcomes
from fmx.reporting.results import classification_text
from fmx.runs.calibration import Reliability
from fmx.runs.composition import stamp
from fmx.runs.ensemble import ENSEMBLE, MAX_MEMBERS, is_ensemble, member_of
from fmx.runs.predictions import PREDICTIONS
from fmx.runs.record import FORMAT, write_json
from fmx.runs.run_dir import find_runs
from fmx.runs.trusted_config import trusted_config
from fmx.training.restore import restore_classifier, restore_data

__all__ = ["Ensemble", "Gain", "choose", "make_ensemble", "write_ensemble"]

log = logging.getLogger(__name__)
HOME = Path("outputs/ensembles")
SHAPE = {"image_size", "in_channels", "resize", "class_names"}  # of a source; its fingerprint depends on them


@dataclass(frozen=True)
class Gain:
    """The test accuracy of an ensemble minus another one on the same images, with its 95 % interval.

    p_value: of McNemar's exact test, for a single run.
    """

    over: str
    accuracy: float
    difference: float
    interval: Interval | None
    method: str
    p_value: float | None


@dataclass(frozen=True)
class Ensemble:
    """An ensemble that was scored: its members, best on validation first, and its metrics.

    candidates: the number of runs it was chosen from; chosen: whether fewer than all were to be taken.
    """

    members: Sequence[Outcome]
    candidates: int
    chosen: bool
    left_out: Sequence[Unfinished]
    signature: Signature
    metrics: dict[str, Any]
    predictions: Predictions
    reliability: Reliability
    gains: Sequence[Gain]
    notes: Sequence[str]

    @property
    def model(self) -> str:
        """What its members are: `ensemble of 3 lenet, 2 mlp`."""
        models = Counter(each.settings.text("model") for each in self.members)
        return f"ensemble of {', '.join(f'{count} {name}' for name, count in models.items())}"


def make_ensemble(patterns: Sequence[str], *, top: int | None, allow: Sequence[str] = ()) -> Ensemble:
    """Choose and score an ensemble of the runs that folders and globs name.

    top: how many members to choose on validation accuracy; None for all. The members' stored test predictions are
    combined: the test set is not touched again. ConfigError where there are too few runs, DataError where they do not
    fit together.
    """
    found = {path.resolve(): path for path in find_runs(patterns)}
    ensembles = [path for path in found.values() if is_ensemble(path)]
    outcomes, left_out = read_outcomes([path for path in found.values() if path not in ensembles])
    members = choose(outcomes, top)
    notes = [f"{each} is an ensemble itself, so it is no member" for each in ensembles]
    notes += _check_together(members)
    configs = [trusted_config(each.run, allow, trains=False) for each in members]
    signature = signature_of(configs[0], normalize="inside", record=members[0].run.record)
    for each in members:
        each.run.checkpoint(each.run.tested)
    names = [each.name for each in members]
    stored = [Predictions.load(each.run.path / PREDICTIONS) for each in members]
    test = combined(stored, names)
    val, reasons = _validation(members, configs, names)
    classifier = restore_classifier(configs[0], members[0].run.checkpoint(members[0].run.tested))
    scores = {
        part: None if each is None else score_mean(each, classifier.val_metrics, signature.class_names)
        for part, each in (("val", val), ("test", test))
    }
    on_test = any(each.on_test for each in members)
    return Ensemble(
        members=members,
        candidates=len(outcomes),
        chosen=top is not None,
        left_out=left_out,
        signature=signature,
        metrics={
            **scores,
            "selected_on": "test" if on_test else "val" if top else "last",
            "validation": "test" if on_test else members[0].run.metrics.get("validation"),
        },
        predictions=test,
        reliability=reliability(test.logits.numpy(), test.labels.numpy()),
        gains=_gains(members, stored, test),
        notes=[*notes, *reasons],
    )


def choose(outcomes: Sequence[Outcome], top: int | None) -> list[Outcome]:
    """The members, best on validation first: the `top` best, or all. Test accuracies are not looked at."""
    if len(outcomes) < 2:  # noqa: PLR2004
        raise ConfigError(f"an ensemble needs two finished runs or more, and there {_are(len(outcomes))}")
    if len(outcomes) > MAX_MEMBERS and top is None:
        raise ConfigError(f"{len(outcomes):,} runs are more than an ensemble takes: choose the best with --top 5")
    if top is not None:
        if top > len(outcomes):
            raise ConfigError(f"--top {top} is more than there are: there {_are(len(outcomes))}")
        if flattered := [each.name for each in outcomes if each.on_test]:
            raise ConfigError(f"{flattered[0]} was validated on the test set, so --top would choose on the test set: "
                              "name the members without --top, or train with data.validation=0.1")  # fmt: skip
        if unknown := [each.name for each in outcomes if each.val_accuracy is None]:
            raise ConfigError(f"{unknown[0]} has no validation accuracy for --top to choose by: leave that run out, or "
                              "name the members without --top")  # fmt: skip
    return sorted(outcomes, key=_lowest_last)[:top]


def _are(number: int) -> str:
    return "is one" if number == 1 else f"are {number}" if number else "is none"


def _lowest_last(run: Outcome) -> float:
    accuracy = run.val_accuracy
    return 1.0 if accuracy is None or isnan(accuracy) else -accuracy


def _check_together(members: Sequence[Outcome]) -> list[str]:
    """Notes on what members do not share; DataError where their data sets or classes differ."""
    first, notes = members[0], []
    for each in members[1:]:
        same = first.data_fingerprint and each.data_fingerprint == first.data_fingerprint
        names = [list(run.run.metrics["test"].get("per_class") or {}) for run in (first, each)]
        if not same and (_test_source(each) != _test_source(first)):
            raise DataError(f"{each.name} was tested on {each.data}, and {first.name} on other images of {first.data}: "
                            "members need the same test set")  # fmt: skip
        if len(names[0]) != len(names[1]):
            raise DataError(f"{each.name} has {len(names[1])} classes, and {first.name} has {len(names[0])}: members "
                            "need the same classes")  # fmt: skip
        if not same and (differing := [pair for pair in zip(*names, strict=True) if pair[0] != pair[1]]):
            ours, theirs = differing[0]
            raise DataError(f"{each.name} has other classes than {first.name}, such as {theirs} instead of {ours}: "
                            "members need the same classes")  # fmt: skip
        if not same:
            notes.append(f"{each.name} takes images of another size or mode than {first.name}: taken for the same ones "
                         "by their folder, order and labels")  # fmt: skip
        elif names[0] != names[1]:
            notes.append(f"{each.name} has other names of the same classes than {first.name}, which are used")
    if unlike := environment_differences(members):
        notes.append(f"the members differ in {', '.join(unlike)}")
    return notes


def _test_source(run: Outcome) -> dict[str, Any]:
    """Where a run's test images come from, without their size."""
    values = {key: value for key, value in run.settings.values.items() if key.startswith(("data.test.", "data.name"))}
    return {key: value for key, value in values.items() if key.rpartition(".")[2] not in SHAPE}


def _validation(
    members: Sequence[Outcome], configs: Sequence[Any], names: Sequence[str]
) -> tuple[Predictions | None, list[str]]:
    """The ensemble's predictions on the validation images, if no member trained on them; and why there are none."""
    splits = {str(each.run.record["data"].get("split_fingerprint")) for each in members}
    if any(each.on_test or each.val_accuracy is None for each in members):
        return None, ["no validation accuracy: not every member held images out for validation"]
    if len(splits) > 1:
        return None, [
            "no validation accuracy: the members held out different images, so some trained on those of others"
        ]
    predicted = []
    for member, config in zip(members, configs, strict=True):
        classifier = restore_classifier(config, member.run.checkpoint(member.run.tested))
        try:
            data = restore_data(config)
        except DataError as error:
            reason = str(error).partition("\n")[0]
            return None, [f"no validation accuracy, for the images are not at hand: {reason}"]
        if changes := changes_of_data(member.run, data):
            return None, [f"no validation accuracy: {'; '.join(changes)}"]
        predicted.append(predict_part(member.run, config, classifier, data, "val"))
    return combined(predicted, names), []


def _gains(members: Sequence[Outcome], stored: Sequence[Predictions], mean: Predictions) -> list[Gain]:
    """The gain over the mean of the members, and over the one that is best on validation."""
    labels = mean.labels.numpy()
    right = mean.logits.numpy().argmax(axis=1) == labels
    each = np.stack([one.logits.numpy().argmax(axis=1) == labels for one in stored])  # (members, images)
    of_mean = student_t((right - each.mean(axis=0)).tolist())
    gains = [
        Gain("the mean of its members", float(each.mean()), of_mean.mean, of_mean.interval,
             "Student's t for pairs, over the test images, of these members", None)
    ]  # fmt: skip
    if members[0].val_accuracy is not None and not any(run.on_test for run in members):
        best = each[0]
        cells = (best & right, best & ~right, ~best & right, ~best & ~right)
        both, only_best, only_mean, neither = (int(cell.sum()) for cell in cells)
        gains.append(Gain(
            over=f"its member that is best on validation, {members[0].name}",
            accuracy=float(best.mean()),
            difference=(only_mean - only_best) / len(labels),
            interval=newcombe(both, only_best, only_mean, neither),
            method="Newcombe's method 10 for pairs, over the test images",
            p_value=mcnemar(only_best, only_mean),
        ))  # fmt: skip
    return gains


def write_ensemble(ensemble: Ensemble, folder: Path | None, *, command: str) -> Path:
    """Write the ensemble's directory, whole or not at all; ConfigError where it exists.

    folder: None for outputs/ensembles/<stamp>_<number>_<data>.
    """
    data = str(ensemble.signature.data)
    folder = folder or HOME / f"{stamp()}_{len(ensemble.members)}_{data}"
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} exists; name another folder with --out")
    partial = folder.with_name(f".{folder.name}.part")
    try:
        (partial / ".hydra").mkdir(parents=True)
        (partial / "figures").mkdir()
        _write(ensemble, partial, folder, command)
        partial.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write(ensemble: Ensemble, partial: Path, folder: Path, command: str) -> None:
    ensemble.predictions.save(partial / PREDICTIONS)
    write_json(partial / "metrics.json", ensemble.metrics)
    labels, predicted = (each.numpy() for each in (ensemble.predictions.labels, ensemble.predictions.logits.argmax(1)))
    names = ensemble.signature.class_names
    (partial / "report.txt").write_text(classification_text(labels, predicted, names), encoding="utf-8")
    shown = drawable(names, ensemble.signature.english_names)
    figure = confusion_matrix(ensemble.predictions.labels, ensemble.predictions.logits.argmax(1), shown)
    FigureCanvasAgg(figure)
    figure.savefig(partial / "figures" / "confusion_matrix.png")
    members = [
        asdict(member_of(folder, each.run))
        | {"seed": each.seed, "val_accuracy": each.val_accuracy, "test_accuracy": each.test_accuracy}
        for each in ensemble.members
    ]
    write_json(partial / ENSEMBLE, {
        "format": 1,
        "members": members,
        "candidates": ensemble.candidates,
        "chosen": ensemble.chosen,
        "gains": [asdict(gain) for gain in ensemble.gains],
        "reliability": asdict(ensemble.reliability),
    })  # fmt: skip
    _write_hydra(ensemble, partial / ".hydra", folder)
    write_json(partial / "run.json", _record(ensemble, command))


def _write_hydra(ensemble: Ensemble, hydra: Path, folder: Path) -> None:
    """The settings that all members share, for tables and comparisons."""
    read = [read_yaml(each.run.path / ".hydra" / "resolved.yaml") for each in ensemble.members]
    shared = _shared(read) | {"run_dir": str(folder.resolve())}
    shared["model"] = {"name": ensemble.model, "net": {"members": len(ensemble.members)}}
    choices: Any = _shared([read_yaml_or_empty(each.run.path / ".hydra" / "hydra.yaml") for each in ensemble.members])
    for key in ("hydra", "runtime", "choices"):
        choices = choices.get(key) if isinstance(choices.get(key), dict) else {}
    runtime = {"choices": choices | {"model": ensemble.model}}
    for name, contents in (("resolved", shared), ("hydra", {"hydra": {"runtime": runtime}})):
        (hydra / f"{name}.yaml").write_text(yaml.safe_dump(contents, allow_unicode=True), encoding="utf-8")


def _shared(nodes: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """What several mappings have in common, at any depth."""
    shared: dict[Any, Any] = {}
    for key, value in nodes[0].items():
        others = [node[key] for node in nodes[1:] if key in node]
        if len(others) < len(nodes) - 1:
            continue
        if all(isinstance(each, dict) for each in [value, *others]):
            shared[key] = _shared([value, *others])
        elif all(type(each) is type(value) and each == value for each in others):
            shared[key] = value
    return shared


def _record(ensemble: Ensemble, command: str) -> dict[str, Any]:
    first = ensemble.members[0].run.record
    params = [each.params for each in ensemble.members]
    seconds = [each.train_seconds for each in ensemble.members]
    return {
        "format": FORMAT,
        "status": "completed",
        "command": command,
        "overrides": [],
        "seed": "+".join(dict.fromkeys(each.seed for each in ensemble.members)),
        "model": ensemble.model,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime()),
        "host": socket.gethostname(),
        **{name: first.get(name) for name in ("git", "versions", "device", "data")},
        "params": None if None in params else sum(filter(None, params)),
        "timing": {"fit_s": None if None in seconds else sum(filter(None, seconds))},
        "best": {"checkpoint": "best"},
        "error": None,
    }
