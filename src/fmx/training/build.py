"""From a composed configuration to objects: the only caller of hydra.utils.instantiate."""

import hashlib
import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import Logger
from torch import nn

from fmx.compat import full_key
from fmx.config.from_environment import to_stored
from fmx.config.quoting import escape_interpolations
from fmx.config.targets import locate
from fmx.data.module import ImageDataModule
from fmx.errors import ConfigError, FmxError
from fmx.process.cores import share_threads
from fmx.process.distributed import launcher_hint, num_processes
from fmx.runs.checkpoint_files import NEWEST, PREVIOUS, CheckpointFiles
from fmx.runs.record import Record
from fmx.training.charts import with_shared_charts
from fmx.training.classifier import Classifier
from fmx.training.cluster_environment import cluster_environment
from fmx.training.end_check import rehearse_end
from fmx.training.hardware import ask_for_gpus_once, describe_device, keep_freed_memory, resolve_precision
from fmx.training.loggers import NUMBERED, versions

__all__ = [
    "Experiment",
    "build",
    "build_classifier",
    "build_data",
    "is_beyond_meta",
    "lightnings_keys",
    "meta_network",
    "network_node",
]

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
    if threads := share_threads(num_processes(cfg.trainer)):
        torch.set_num_threads(threads)
    loggers = _loggers(cfg, record)
    trainer = _trainer(cfg, classifier.net, [*loggers.values()])
    _check_test_batches(trainer, data)
    _check_class_weights(classifier.loss, data)
    described: dict[str, object] = {"name": data.name, "sizes": data.sizes()}
    if record.writes or cfg.resume is not None:  # to hash an image folder is to read it all
        described |= data.fingerprints()
        record.check_data(described, is_same=data.has_fingerprint, chosen_on_test=data.validation == "test")
    record.update(
        device=describe_device(trainer),
        data=described,
        params=sum(p.numel() for p in classifier.net.parameters()),
        logger_versions=versions(loggers) if record.writes else {},
    )
    if record.writes:
        rehearse_end(record.run_dir, data, classifier, trainer.loggers, trainer.callbacks)  # type: ignore[attr-defined]
    _announce(record, cfg.model.name)
    _say_processes(record, cfg.trainer)
    if cfg.resume is None or not _has_checkpoint(record.run_dir):
        _tell_origin(record, classifier.net)
    stored = to_stored(cfg)
    return Experiment(
        run_dir=record.run_dir,
        record=record,
        data=data,
        classifier=classifier,
        trainer=trainer,
        select=cfg.select,
        seed=cfg.seed,
        resumes=cfg.resume is not None,
        hparams=_hparams(OmegaConf.create(escape_interpolations(stored)), record.contents["overrides"]),
        yaml=OmegaConf.to_yaml(OmegaConf.create(stored)),
    )


def _check_test_batches(trainer: Trainer, data: ImageDataModule) -> None:
    """ConfigError where no test image would be left: the test comes after all training."""
    share, batches = trainer.limit_test_batches, math.ceil(len(data.indices["test"]) / data.eval_batch_size)
    if isinstance(share, float) and int(share * batches) < 1:
        raise ConfigError(
            f"trainer.limit_test_batches={share} of {batches} test batches is none; give a count, as in "
            "trainer.limit_test_batches=1"
        )


def _check_class_weights(loss: nn.Module, data: ImageDataModule) -> None:
    """ConfigError where no training image counts."""
    weight = getattr(loss, "weight", None)
    if isinstance(weight, torch.Tensor) and len(weight) == data.num_classes and not weight[data.labels("train")].any():
        names = ", ".join(name for name, value in zip(data.class_names, weight.tolist(), strict=True) if value)
        raise ConfigError(
            f"loss.weight is 0 for every class that has training images, so that nothing would be learnt; the classes "
            f"of a larger weight ({names}) have none"
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
        raise ConfigError(f"data._target_ must make an fmx.data.module.ImageDataModule, not {type(data).__name__}")
    return data


def make(node: Any, **extra: Any) -> Any:
    """Instantiate one node into plain objects; what a constructor says of its values becomes a ConfigError.

    The node is resolved once. Hydra would resolve what comes of that again: names of folders, for example.
    """
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    try:
        return instantiate(escape_interpolations(plain, times=2), _convert_="all", **extra)
    except InstantiationException as error:
        cause = error.__cause__
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, FmxError):
            raise cause from None
        if isinstance(cause, ValueError | TypeError):
            key = full_key(node)
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


def network_node(cfg: DictConfig, earlier: Path | None) -> dict[str, Any]:
    """The resolved `model.net` node; without its file of weights, which may be gone, where a checkpoint has them all.

    earlier: the folder of the run that is resumed, if any.
    """
    node: Any = OmegaConf.to_container(cfg.model.net, resolve=True)
    if node.get("weights") is not None and _has_checkpoint(earlier) and _is_pretrained(node.get("_target_")):
        node["weights"] = None
    return dict(node)


def _has_checkpoint(earlier: Path | None) -> bool:
    return earlier is not None and any((earlier / "checkpoints" / name).is_file() for name in (NEWEST, PREVIOUS))


def _is_pretrained(target: object) -> bool:
    from fmx.models.pretrained import Pretrained

    kind = locate(str(target), "model.net")
    return isinstance(kind, type) and issubclass(kind, Pretrained)


def _module(net: Any) -> nn.Module:
    if not isinstance(net, nn.Module):
        raise ConfigError(f"model.net._target_ must make a torch.nn.Module, not {type(net).__name__}")
    return net


def _network(cfg: DictConfig) -> nn.Module:
    """The network, its convolutions in the memory format that is faster for them."""
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    return _module(make(network_node(cfg, None if cfg.resume is None else Path(cfg.run_dir)))).to(
        memory_format=formats[cfg.memory_format]
    )


def lightnings_keys(trainer: DictConfig) -> DictConfig:
    """The trainer node without the keys that parts of fmx read by interpolation."""
    taken = trainer.copy()
    with open_dict(taken):
        taken.pop("checkpoint_every_s", None)
    return taken


def _loggers(cfg: DictConfig, record: Record) -> dict[str, Logger]:
    """The loggers by their names; in a run that goes on, each with the folder that it had."""
    recorded = record.contents.get("logger_versions")
    recorded = recorded if isinstance(recorded, dict) else {}
    loggers = {}
    for name, written in cfg.logger.items():
        node = with_shared_charts(written)
        logger = make(node)
        if isinstance(logger, NUMBERED) and node.get("version") is None and name in recorded:
            logger = make(node, version=recorded[name])
        loggers[str(name)] = logger
    return loggers


def _trainer(cfg: DictConfig, net: nn.Module, loggers: list[Logger]) -> Trainer:
    trainer = make(
        lightnings_keys(cfg.trainer),
        precision=resolve_precision(cfg.trainer.precision, accelerator=cfg.trainer.accelerator, net=net),
        callbacks=[make(node) for node in cfg.callbacks.values()],
        logger=loggers,
        plugins=[CheckpointFiles(), cluster_environment(cfg.trainer)],
        default_root_dir=cfg.run_dir,
    )
    assert isinstance(trainer, Trainer)
    return trainer


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


def _tell_origin(record: Record, net: nn.Module) -> None:
    """Say in a line where the weights of a network come from that may have them from a file, and record the file."""
    origin, path = getattr(net, "origin", None), getattr(net, "weights_file", None)
    if not record.writes or not isinstance(origin, str):
        return
    log.info("%s", origin)
    if isinstance(path, Path):
        with path.open("rb") as file:
            record.update(weights={"file": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()})


def _announce(record: Record, model: str) -> None:
    """Say in two lines what will run, on what, and where it writes."""
    if not record.writes:
        return
    data, device = record.contents["data"], record.contents["device"]
    sizes = " / ".join(f"{count:,} {part}" for part, count in data["sizes"].items())
    log.info("%s, %s parameters · %s, %s", model, f"{record.contents['params']:,}", data["name"], sizes)
    log.info("%s, %s threads, %s · %s", device["name"], device["threads"], device["precision"], record.run_dir)


def _say_processes(record: Record, trainer: DictConfig) -> None:
    """Say what is odd about the number of processes, or about where they compute."""
    processes, device = num_processes(trainer), record.contents["device"]["accelerator"]
    if not record.writes:
        return
    if (hint := launcher_hint(trainer)) is not None:
        log.info("%s", hint)
    if processes > 1 and trainer.accelerator == "auto" and device == "cpu":
        log.warning("torch sees no GPU: %d processes train on the CPU (trainer.accelerator=gpu insists)", processes)
