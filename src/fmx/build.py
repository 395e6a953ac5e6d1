"""From a composed configuration to objects: the only caller of hydra.utils.instantiate."""

import logging
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment  # type: ignore[attr-defined]
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Trainer, seed_everything
from torch import nn

from fmx.checkpoint import CheckpointFiles
from fmx.classifier import Classifier
from fmx.composition import literal
from fmx.datamodule import ImageDataModule
from fmx.errors import ConfigError, FmxError
from fmx.hardware import ask_for_gpus_once, describe_device, keep_freed_memory, resolve_precision
from fmx.ranks import num_processes, started_by_srun
from fmx.record import Record

__all__ = ["Experiment", "build", "build_classifier", "build_data", "is_beyond_meta", "lightnings_keys", "meta_network"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """The parts of one run, ready to fit."""

    run_dir: Path
    record: Record
    data: ImageDataModule
    classifier: Classifier
    trainer: Trainer
    select: str  # which checkpoint is tested: best or last
    seed: int
    resumes: bool  # whether to go on from the newest checkpoint in the run directory, where there is one
    hparams: dict[str, Any]  # the choices that tell this run from others, for tables
    yaml: str  # the configuration as text, for the reader


def build(cfg: DictConfig, record: Record) -> Experiment:
    """Instantiate what the configuration names, record it, and say in a few lines what will run.

    Raises ConfigError for values that do not fit together, DataError for data that is missing or damaged.
    """
    # Lightning's advice about workers and its own deprecations are not the reader's business.
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    keep_freed_memory()
    ask_for_gpus_once()
    # What trainer.deterministic would fill first is written before it is read: a tenth of a step for nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    seed_everything(cfg.seed, workers=True, verbose=False)
    classifier = build_classifier(cfg)
    with record.timed("data_s"):
        data = build_data(cfg)
    trainer = _trainer(cfg, classifier.net)
    _check_test_batches(trainer, data)
    described = {"name": data.name, "sizes": data.sizes(), **data.fingerprints()}
    record.check_data(described)
    record.update(
        device=describe_device(trainer),
        data=described,
        params=sum(p.numel() for p in classifier.net.parameters()),
    )
    _announce(record, cfg.model.name)
    return Experiment(
        run_dir=record.run_dir,
        record=record,
        data=data,
        classifier=classifier,
        trainer=trainer,
        select=cfg.select,
        seed=cfg.seed,
        resumes=cfg.resume is not None,
        hparams=_hparams(cfg, record.contents["overrides"]),
        yaml=OmegaConf.to_yaml(cfg, resolve=True),
    )


def _check_test_batches(trainer: Trainer, data: ImageDataModule) -> None:
    """ConfigError where no test image would be left: the test comes after all training."""
    share, batches = trainer.limit_test_batches, math.ceil(len(data.indices["test"]) / data.eval_batch_size)
    if isinstance(share, float) and int(share * batches) < 1:
        raise ConfigError(
            f"trainer.limit_test_batches={share} of {batches} test batches is none; give a count, as in "
            "trainer.limit_test_batches=1"
        )


def build_classifier(cfg: DictConfig) -> Classifier:
    """The network with its loss, optimizer, schedule and metrics."""
    net = _network(cfg)
    return Classifier(
        net=net,
        loss=make(cfg.loss),
        optimizer=make(cfg.optim),
        schedule=make(cfg.schedule),
        metrics=make(cfg.metrics),
    )


def build_data(cfg: DictConfig) -> ImageDataModule:
    """The data set with its splits, normalisation, augmentation and loaders."""
    data = make(cfg.data, augment=make(cfg.augment), seed=cfg.seed)
    if not isinstance(data, ImageDataModule):
        raise ConfigError(f"data._target_ must make an fmx.datamodule.ImageDataModule, not {type(data).__name__}")
    return data


def make(node: Any, **extra: Any) -> Any:
    """Instantiate one node into plain objects; what a constructor says of its values becomes a ConfigError.

    The node is resolved once. Hydra would resolve what comes of that again: names of folders, for example.
    """
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    try:
        return instantiate(literal(plain, times=2), _convert_="all", **extra)
    except InstantiationException as error:
        cause = error.__cause__
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, FmxError):
            raise cause from None
        if isinstance(cause, ValueError | TypeError):
            key = node._get_full_key(None) if OmegaConf.is_config(node) else ""  # noqa: SLF001
            raise ConfigError(f"{key}: {cause}" if key else str(cause)) from error
        raise


def meta_network(node: Mapping[str, Any]) -> nn.Module:
    """The network of a resolved `model.net` node, without memory for weights: what cannot be built shows at once."""
    with torch.device("meta"):
        return _module(make(dict(node)))


def is_beyond_meta(error: BaseException) -> bool:
    """Whether a network failed since it looks at values while it is built, which the meta device has none of."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NotImplementedError) or "meta" in str(cause):
            return True
        cause = cause.__cause__
    return False


def _module(net: Any) -> nn.Module:
    if not isinstance(net, nn.Module):
        raise ConfigError(f"model.net._target_ must make a torch.nn.Module, not {type(net).__name__}")
    return net


def _network(cfg: DictConfig) -> nn.Module:
    """The network, its convolutions in the memory format that is faster for them."""
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    return _module(make(cfg.model.net)).to(memory_format=formats[cfg.memory_format])


def lightnings_keys(trainer: DictConfig) -> DictConfig:
    """The trainer node without the keys that parts of fmx read by interpolation."""
    taken = trainer.copy()
    with open_dict(taken):
        taken.pop("checkpoint_every_s", None)
    return taken


def _trainer(cfg: DictConfig, net: nn.Module) -> Trainer:
    trainer = make(
        lightnings_keys(cfg.trainer),
        precision=resolve_precision(cfg.trainer.precision, accelerator=cfg.trainer.accelerator, net=net),
        callbacks=[make(node) for node in cfg.callbacks.values()],
        logger=[make(node) for node in cfg.logger.values()],
        plugins=[CheckpointFiles(), *_environment(num_processes(cfg.trainer))],
        default_root_dir=cfg.run_dir,
    )
    assert isinstance(trainer, Trainer)
    return trainer


def _environment(processes: int) -> list[LightningEnvironment | SLURMEnvironment]:
    """Who starts the processes, where SLURM is about; none where Lightning finds out by itself.

    It would take every process inside an allocation for a task of srun's, and ask for a requeue on its own.
    """
    if started_by_srun(processes):
        return [SLURMEnvironment(auto_requeue=False)]
    slurm = "SLURM_NTASKS" in os.environ or shutil.which("srun") is not None
    return [LightningEnvironment()] if slurm and "TORCHELASTIC_RUN_ID" not in os.environ else []


def _hparams(cfg: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """The main choices, and whatever the command line set."""
    keys = ["optim.lr", "data.batch_size", "data.validation", "trainer.max_epochs", "seed"]
    keys += [key for key in (text.lstrip("+").partition("=")[0] for text in overrides) if "." in key]
    hparams: dict[str, Any] = {
        "model": cfg.model.name,
        "data": cfg.data.name,
        "optim": cfg.optim._target_.rpartition(".")[2],
    }
    return hparams | {key: value for key in keys if (value := OmegaConf.select(cfg, key)) is not None}


def _announce(record: Record, model: str) -> None:
    """Say in two lines what will run, on what, and where it writes."""
    if not record.writes:
        return
    data, device = record.contents["data"], record.contents["device"]
    sizes = " / ".join(f"{count:,} {part}" for part, count in data["sizes"].items())
    log.info("%s, %s parameters · %s, %s", model, f"{record.contents['params']:,}", data["name"], sizes)
    log.info("%s, %s threads, %s · %s", device["name"], device["threads"], device["precision"], record.run_dir)
