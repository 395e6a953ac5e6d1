"""What a run needs at its end is tried before its first step, so that no training is lost.

docs/checks.md lists it.
"""

import errno
import importlib
import inspect
import io
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from torchmetrics import MetricCollection

from fmx.data.module import ImageDataModule
from fmx.errors import ConfigError, DataError, FmxError, first_line
from fmx.runs.checkpoint_files import NEWEST
from fmx.training.classifier import Classifier

__all__ = ["check_end"]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
MAX_IMAGES = 1000  # for the trial of a metric
FLOATS = 4  # bytes
STATES = 2  # numbers that the usual optimizers keep for each weight, at most
CHECKPOINTS = 2  # best.ckpt and last.ckpt


def check_end(
    run_dir: Path,
    data: ImageDataModule,
    classifier: Classifier,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
) -> None:
    """Raise FmxError for the first thing that the run could not do at its end; call it in the process that writes.

    It reads some hundred test pictures at most, and tries metrics on random logits of a thousand images.
    """
    _check_text(data.class_names)
    _check_hooks(loggers, callbacks)
    _check_metrics(classifier, data)
    _check_disk(run_dir, classifier, data)
    data.check_test_images()
    data.warn_of_random_images()


def _check_text(names: Sequence[str]) -> None:
    """ConfigError for class names that cannot be encoded, or a backend that matplotlib refuses."""
    for name in names:
        if not name.isascii() and name.encode(errors="replace").decode() != name:
            raise ConfigError(f"data.class_names: {name!r} is no text, so no report can hold it")
    backend = os.environ.get("MPLBACKEND")
    if not backend:
        return
    try:
        importlib.import_module("matplotlib").rcParams  # noqa: B018 - the module may be a lazy one, which this imports
    except ValueError as error:
        raise ConfigError(
            f"MPLBACKEND={backend}: matplotlib, which draws the figures of a run, refuses to be imported; unset it "
            f"({first_line(error).partition(';')[0]})"
        ) from error


def _check_hooks(loggers: Sequence[Logger], callbacks: Sequence[Callback]) -> None:
    """ConfigError for hooks with a wrong signature, or a callback whose state a checkpoint cannot hold."""
    for logger in loggers:
        for method, arguments in (("finalize", ["success"]), ("save", [])):
            _check_signature(logger, method, arguments)
    for callback in callbacks:
        for method in ("on_train_end", "on_fit_end", "on_validation_end"):
            _check_signature(callback, method, [None, None])
        _check_signature(callback, "teardown", [None, None, "fit"])
        name = f"{type(callback).__module__}.{type(callback).__qualname__}"
        if type(callback).state_dict is Callback.state_dict or name.startswith(("fmx.", "pytorch_lightning.")):
            continue
        buffer = io.BytesIO()
        try:
            torch.save(callback.state_dict(), buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except Exception as error:
            raise ConfigError(
                f"{name}: its state_dict() cannot be kept in a checkpoint, which holds numbers, texts, tensors, lists "
                f"and dicts of them: {first_line(error)}"
            ) from error


def _check_signature(part: object, method: str, arguments: Sequence[Any]) -> None:
    hook = getattr(part, method, None)
    with suppress(ValueError):  # builtins may have no signature
        if not callable(hook):
            raise ConfigError(f"{type(part).__name__}.{method} is no method, and it is called when training ends")
        try:
            inspect.signature(hook).bind(*arguments)
        except TypeError as error:
            raise ConfigError(f"{type(part).__name__}.{method}, called when training ends: {error}") from None


def _check_metrics(classifier: Classifier, data: ImageDataModule) -> None:
    """ConfigError where a user's metric fails or cannot be in metrics.json; the dry run tried torchmetrics' own."""
    own = {
        name: metric
        for name, metric in classifier.val_metrics.items(keep_base=True)
        if not type(metric).__module__.startswith("torchmetrics.")
    }
    if not own:
        return
    from fmx.training.counts import plain_metrics

    labels = data.labels("test")[:MAX_IMAGES]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(labels), data.num_classes, generator=generator)
    for name, metric in own.items():
        try:
            values = plain_metrics(MetricCollection({name: metric}), logits, labels, data.class_names)
            json.dumps(values)
        except FmxError:
            raise
        except Exception as error:
            raise ConfigError(
                f"metrics.{name}: {type(metric).__name__} fails on logits (B, {data.num_classes}) and labels (B,) of "
                f"{len(labels)} test images: {type(error).__name__}: {first_line(error)}"
            ) from error


def _check_disk(run_dir: Path, classifier: Classifier, data: ImageDataModule) -> None:
    """DataError where the disk has no room for checkpoints and predictions: their bytes are reserved and freed.

    Where the system cannot reserve bytes, the free ones are counted.
    """
    weights = sum(each.numel() * each.element_size() for each in classifier.state_dict().values())
    trained = sum(each.numel() * each.element_size() for each in classifier.parameters() if each.requires_grad)
    predictions = len(data.indices["test"]) * data.num_classes * FLOATS
    has_checkpoints = (run_dir / "checkpoints" / NEWEST).is_file()  # in a resumed run, which replaces them
    sizes = [weights + STATES * trained] * (1 if has_checkpoints else CHECKPOINTS) + [predictions]
    if not hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        if hasattr(shutil, "disk_usage") and shutil.disk_usage(run_dir).free < sum(sizes):
            raise _no_room(run_dir, sum(sizes), os.strerror(errno.ENOSPC))
        return
    with ExitStack() as reserved:
        for number, size in enumerate(sizes):
            file = run_dir / f".reserved.{os.getpid()}.{number}.part"
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            reserved.callback(file.unlink, missing_ok=True)
            reserved.callback(os.close, descriptor)
            try:
                os.posix_fallocate(descriptor, 0, max(1, size))
            except OSError as error:  # any other error: the file system cannot reserve
                if error.errno in FULL:
                    raise _no_room(run_dir, sum(sizes), error.strerror) from error


def _no_room(run_dir: Path, num_bytes: int, reason: str | None) -> DataError:
    return DataError(
        f"cannot write {num_bytes:,} bytes of checkpoints and predictions to {run_dir}: {reason}; "
        "make room, or name another folder with hydra.run.dir=DIR"
    )
