"""What a run needs at its end is tried before its first step: training must not be what finds out.

docs/checks.md lists it.
"""

import errno
import importlib
import inspect
import io
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from torchmetrics import MetricCollection

from fmx.data.module import ImageDataModule
from fmx.errors import ConfigError, DataError, FmxError
from fmx.runs.checkpoint_files import NEWEST
from fmx.training.classifier import Classifier

__all__ = ["rehearse_end"]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
ENOUGH = 1000  # images that a metric is tried on
FLOATS = 4  # bytes
STATES = 2  # numbers that the usual optimizers keep of each weight, at most
CHECKPOINTS = 2  # best.ckpt and last.ckpt


def rehearse_end(
    run_dir: Path,
    data: ImageDataModule,
    classifier: Classifier,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
) -> None:
    """Raise FmxError for the first thing that a run could not do at its end, in the process that writes.

    It takes a moment: at most some hundred test pictures, and a thousand images of random logits for a metric.
    """
    _lettering(data.class_names)
    _ends(loggers, callbacks)
    _metrics(classifier, data)
    _disk(run_dir, classifier, data)
    data.check_test_images()


def _lettering(names: Sequence[str]) -> None:
    """The class names are text; matplotlib draws with the backend that the environment names, if it names one."""
    for name in names:
        if not name.isascii() and name.encode(errors="replace").decode() != name:
            raise ConfigError(f"data.class_names: {name!r} is no text, so no report can hold it")
    backend = os.environ.get("MPLBACKEND")
    if not backend:
        return
    try:
        importlib.import_module("matplotlib").rcParams  # noqa: B018 - its import may be put off until it is used
    except ValueError as error:
        raise ConfigError(
            f"MPLBACKEND={backend}: matplotlib, which draws the figures of a run, refuses to be imported; unset it "
            f"({_first_line(error).partition(';')[0]})"
        ) from error


def _ends(loggers: Sequence[Logger], callbacks: Sequence[Callback]) -> None:
    """What is called at the end takes what it is given; what a checkpoint keeps of a callback can be read back."""
    for logger in loggers:
        for method, arguments in (("finalize", ["success"]), ("save", [])):
            _binds(logger, method, arguments)
    for callback in callbacks:
        for method in ("on_train_end", "on_fit_end", "on_validation_end"):
            _binds(callback, method, [None, None])
        _binds(callback, "teardown", [None, None, "fit"])
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
                f"and dicts of them: {_first_line(error)}"
            ) from error


def _binds(part: object, method: str, arguments: Sequence[Any]) -> None:
    hook = getattr(part, method, None)
    with suppress(ValueError):  # no signature to be had
        if not callable(hook):
            raise ConfigError(f"{type(part).__name__}.{method} is no method, and it is called when training ends")
        try:
            inspect.signature(hook).bind(*arguments)
        except TypeError as error:
            raise ConfigError(f"{type(part).__name__}.{method}, called when training ends: {error}") from None


def _metrics(classifier: Classifier, data: ImageDataModule) -> None:
    """Somebody's own metric gives what metrics.json can hold; torchmetrics' own have been tried before."""
    own = {
        name: metric
        for name, metric in classifier.val_metrics.items(keep_base=True)
        if not type(metric).__module__.startswith("torchmetrics.")
    }
    if not own:
        return
    from fmx.training.counts import plain_figures

    labels = data.labels("test")[:ENOUGH]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(labels), data.num_classes, generator=generator)
    for name, metric in own.items():
        try:
            figures = plain_figures(MetricCollection({name: metric}), logits, labels, data.class_names)
            json.dumps(figures)
        except FmxError:
            raise
        except Exception as error:
            raise ConfigError(
                f"metrics.{name}: {type(metric).__name__} fails on logits (B, {data.num_classes}) and labels (B,) of "
                f"{len(labels)} test images: {type(error).__name__}: {_first_line(error)}"
            ) from error


def _disk(run_dir: Path, classifier: Classifier, data: ImageDataModule) -> None:
    """The disk takes as many bytes as checkpoints and predictions will: they are asked for, and given back."""
    weights = sum(each.numel() * each.element_size() for each in classifier.state_dict().values())
    trained = sum(each.numel() * each.element_size() for each in classifier.parameters() if each.requires_grad)
    predictions = len(data.indices["test"]) * data.num_classes * FLOATS
    already = (run_dir / "checkpoints" / NEWEST).is_file()  # of a run that goes on, whose next ones take their place
    sizes = [weights + STATES * trained] * (1 if already else CHECKPOINTS) + [predictions]
    with ExitStack() as reserved:
        for number, size in enumerate(sizes):
            file = run_dir / f".reserved.{os.getpid()}.{number}.part"
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            reserved.callback(file.unlink, missing_ok=True)
            reserved.callback(os.close, descriptor)
            try:
                os.posix_fallocate(descriptor, 0, max(1, size))
            except OSError as error:  # any other: a file system that cannot say
                if error.errno in FULL:
                    raise DataError(
                        f"cannot write {sum(sizes):,} bytes of checkpoints and predictions to {run_dir}: "
                        f"{os.strerror(error.errno)}; make room, or name another folder with hydra.run.dir=DIR"
                    ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
