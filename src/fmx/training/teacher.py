"""The teacher of a distillation: the network of another run, read from its directory."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fmx.config.image_size import height_and_width
from fmx.data.module import Normalize, names_of_classes, normalization
from fmx.errors import ConfigError, DataError
from fmx.runs.launch_folder import from_launch_folder
from fmx.runs.run_dir import Run, open_run
from fmx.runs.trusted_config import trusted_config
from fmx.training.distillation import Distillation
from fmx.training.restore import restore_classifier

__all__ = ["check_teacher", "give_teacher"]


def check_teacher(loss: nn.Module, data: DictConfig) -> None:
    """ConfigError where a distillation has no teacher, or one for other images or classes than those of `data`.

    DataError: its run is not finished, or names code that is not trusted. Losses without a teacher pass.
    """
    if not isinstance(loss, Distillation):
        return
    _, run, config = _open(loss)
    ours, theirs = _images(data), _images(config.data)
    for key, here in ours.items():
        if key not in {"mean", "std"} and here != theirs[key]:
            raise ConfigError(
                f"loss.teacher={loss.teacher} was trained for other images or classes: {key} is {theirs[key]} there, "
                f"{here} here"
            )
    if any(not torch.allclose(here, there) for here, there in zip(_scales(data), _scales(config.data), strict=True)):
        raise ConfigError(
            f"loss.teacher={loss.teacher} was trained on images of another normalisation; the teacher takes the "
            f"images of this run, so type its own: data.normalize={_normalize(config.data)}"
        )
    _restored(run, config)


def give_teacher(loss: nn.Module, recorded: Any) -> dict[str, str] | None:
    """Give a distillation its teacher; returns what run.json records of it, None of other losses.

    recorded: what run.json has of it where the run was begun earlier. DataError: the teacher is another one now.
    """
    if not isinstance(loss, Distillation):
        return None
    path, run, config = _open(loss)
    file = run.checkpoint(run.tested)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    then = recorded.get("sha256", digest) if isinstance(recorded, dict) else digest
    if then != digest:
        raise DataError(f"loss.teacher={loss.teacher}: {file} has changed since this run began; start a new run")
    loss.use_teacher(_restored(run, config))
    return {"run": str(path.resolve()), "file": str(file), "sha256": digest}


def _open(loss: Distillation) -> tuple[Path, Run, DictConfig]:
    if loss.teacher is None:
        raise ConfigError("loss=distill needs a trained run to learn from: loss.teacher=RUN")
    path = from_launch_folder(Path(loss.teacher).expanduser())
    try:
        run = open_run(path)
        return path, run, _trusted(run, loss.allow)
    except DataError as error:
        raise DataError(f"loss.teacher={loss.teacher}: {error}") from error


def _trusted(run: Run, allow: Iterable[str]) -> DictConfig:
    try:
        return trusted_config(run, allow)
    except DataError as error:
        said, untrusted, _ = str(error).partition(" If you trust")
        if not untrusted:
            raise
        raise DataError(f"{said} If you trust that package, type its name: 'loss.allow=[PACKAGE]'") from error


def _restored(run: Run, config: DictConfig) -> nn.Module:
    return restore_classifier(config, run.checkpoint(run.tested)).net


def _images(data: DictConfig) -> dict[str, Any]:
    """What networks and their teachers must agree on."""
    plain: Any = OmegaConf.to_container(data, resolve=True)
    return {
        "data.in_channels": plain["in_channels"],
        "data.image_size": height_and_width(plain["image_size"]),
        "data.num_classes": plain["num_classes"],
        "data.class_names": names_of_classes(plain["class_names"], plain["translations"], plain["num_classes"]),
    }


def _scales(data: DictConfig) -> tuple[torch.Tensor, torch.Tensor]:
    plain: Any = OmegaConf.to_container(data, resolve=True)
    made: Normalize = normalization(plain["normalize"], plain["mean"], plain["std"], plain["in_channels"])
    return made.scale.expand(1, plain["in_channels"], 1, 1), made.shift.expand(1, plain["in_channels"], 1, 1)


def _normalize(data: DictConfig) -> str:
    """The value of data.normalize that does what a run's own did."""
    plain: Any = OmegaConf.to_container(data, resolve=True)
    if plain["normalize"] != "dataset":
        return str(plain["normalize"]).replace(" ", "")
    return str([plain["mean"], plain["std"]]).replace(" ", "")
