"""From a composed configuration to objects: the only caller of hydra.utils.instantiate."""

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.loggers import Logger
from torch import nn

from fmx.compat import full_key, look_up_callbacks_once
from fmx.config.from_environment import to_stored
from fmx.config.image_size import height_and_width
from fmx.config.quoting import escape_interpolations
from fmx.config.renamed_targets import with_later_keys
from fmx.config.targets import keys_of_fmx, locate
from fmx.config.validation import FOLD, OWN, validation_of
from fmx.data.module import ImageDataModule, Part
from fmx.data.per_image import Augmentation, augmentation
from fmx.data.picture_dataset import PictureDataset
from fmx.errors import ConfigError, FmxError, first_line
from fmx.models.adapted_net import AdaptedNet
from fmx.process.distributed import launcher_hint, num_processes
from fmx.runs.checkpoint_files import NEWEST, PREVIOUS, CheckpointFiles
from fmx.runs.extension import Extension, extension_of
from fmx.runs.record import Record
from fmx.runs.run_dir import open_run
from fmx.runs.settings import flat
from fmx.training.callbacks.own_steps import OwnSteps
from fmx.training.classifier import Classifier
from fmx.training.cluster_environment import cluster_environment
from fmx.training.compiled_net import CompiledNet, check_compiler
from fmx.training.end_check import check_end
from fmx.training.extension import log_extension
from fmx.training.first_batch import check_first_batch
from fmx.training.hardware import describe_device, resolve_precision
from fmx.training.initial_weights import start_from
from fmx.training.loggers import NUMBERED, is_tracker, versions, with_own_class
from fmx.training.parameter_groups import OptimizerFactory, ParameterGroups

__all__ = [
    "Experiment",
    "build",
    "build_augmentation",
    "build_classifier",
    "build_data",
    "has_checkpoint",
    "is_beyond_meta",
    "make_classifier",
    "make_data",
    "make_optimizer",
    "meta_network",
    "network_node",
    "parameter_groups",
    "without_own_keys",
]

log = logging.getLogger(__name__)
MAX_COUNTED = 1000  # classes whose images run.json counts
MANY = 5  # classes that a message lists


@dataclass(frozen=True)
class Experiment:
    """The parts of one run, ready to fit."""

    run_dir: Path
    record: Record
    data: ImageDataModule
    classifier: Classifier
    trainer: Trainer
    callbacks: Mapping[str, Callback]  # of the configuration
    select: str  # the checkpoint to test: best or last
    seed: int
    resumes: bool  # whether to continue from the newest checkpoint in the run directory, if any
    extension: Extension | None  # the run to go on with, where this one has not begun yet
    hparams: dict[str, Any]  # the main settings, for tables
    settings: dict[str, Any]  # all of them, by their keys
    yaml: str  # the configuration as text


def build(cfg: DictConfig, record: Record) -> Experiment:
    """Instantiate the parts of a run, record them, and log in a few lines what will run.

    Raises ConfigError for values that do not fit together, DataError for data that is missing or damaged.
    """
    given, cfg = cfg, with_later_keys(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    classifier = build_classifier(cfg)
    begins = cfg.resume is None or not has_checkpoint(record.run_dir)
    is_recorded = cfg is given and bool(record.stored)
    stored = record.stored if is_recorded else to_stored(cfg)
    extension = None
    if cfg.extend is not None:
        extension = extension_of(stored) if begins else Extension.from_record(record.contents)
        classifier.extension = extension
    initial = start_from(classifier.net, cfg.init, strict=cfg.init_strict) if begins and cfg.init is not None else None
    loggers = _loggers(cfg, record)
    with record.timed("data_s"):
        data = build_data(cfg)
    callbacks: dict[str, Callback] = {str(name): make(node) for name, node in cfg.callbacks.items()}
    own = [] if type(classifier) is Classifier else [OwnSteps()]
    trainer = _trainer(cfg, classifier.net, [*loggers.values()], [*callbacks.values(), *own])
    _check_test_batches(trainer, data)
    classifier.compiled = _compiled_net(cfg.trainer, classifier.net, trainer, data)
    counts = data.class_counts()
    if callable(use_class_counts := getattr(classifier.loss, "use_class_counts", None)):
        use_class_counts(torch.tensor(counts["train"]))
    _check_class_weights(classifier.loss, data)
    described: dict[str, object] = {
        "name": data.name,
        "sizes": data.sizes(),
        "dtype": data.pixels.kind,
        "value_range": [*data.pixels.value_range],
    }
    if data.folds is not None:
        described |= {"folds": data.folds, "fold": data.fold}
    if record.writes or cfg.resume is not None or extension is not None:  # hashing an image folder reads all of it
        described |= data.fingerprints()
        earlier = open_run(extension.parent) if extension and begins else None
        record.check_data(
            described, is_same=data.has_fingerprint, chosen_on_test=data.validation == "test", earlier=earlier
        )
    record.update(
        device=describe_device(trainer),
        data=described | ({"class_counts": counts} if data.num_classes <= MAX_COUNTED else {}),
        params=sum(p.numel() for p in classifier.net.parameters()),
        logger_versions=versions(loggers) if record.writes else {},
        **({} if initial is None else {"init": initial}),
        **({} if extension is None else {"extends": extension.recorded()}),
    )
    if record.writes:
        check_first_batch(data)
        check_end(record.run_dir, data, classifier, trainer.loggers, trainer.callbacks)  # type: ignore[attr-defined]
    _log_run(record, cfg.model.name)
    if record.writes:
        _log_parts(data)
    _log_augmentation(record, data)
    _log_compilation(record, classifier.compiled)
    if data.folds is not None:
        log.info("%s is held out, in place of data.validation=%s", data.validation, cfg.data.validation)
    _log_classes(counts, data.class_names)
    _warn_of_two_corrections(cfg, classifier.loss)
    _log_processes(record, cfg.trainer)
    if begins and extension is not None and record.writes:
        log_extension(extension, cfg.trainer.max_epochs)
    elif begins and initial is None:
        _log_origin(record, classifier.net)
    return Experiment(
        run_dir=record.run_dir,
        record=record,
        data=data,
        classifier=classifier,
        trainer=trainer,
        callbacks=callbacks,
        select=cfg.select,
        seed=cfg.seed,
        resumes=cfg.resume is not None,
        extension=extension if begins else None,
        hparams=_hparams(stored, record.contents["overrides"]),
        settings=_settings(stored),
        yaml=record.yaml if is_recorded else OmegaConf.to_yaml(OmegaConf.create(stored)),
    )


def _check_test_batches(trainer: Trainer, data: ImageDataModule) -> None:
    """ConfigError where no test image would be left, which would show only after training."""
    share, batches = trainer.limit_test_batches, math.ceil(len(data.indices["test"]) / data.eval_batch_size)
    if isinstance(share, float) and int(share * batches) < 1:
        raise ConfigError(
            f"trainer.limit_test_batches={share} of {batches} test batches is none; give a count, as in "
            "trainer.limit_test_batches=1"
        )


def _compiled_net(node: DictConfig, net: nn.Module, trainer: Trainer, data: ImageDataModule) -> CompiledNet | None:
    """What compiles the network in training steps of whole batches, if asked; ConfigError where this machine cannot."""
    if not OmegaConf.select(node, "compile"):  # a node of a user, or of an earlier version, may lack it
        return None
    check_compiler(trainer.strategy.root_device.type)
    share = -(-len(data.indices["train"]) // trainer.world_size)  # of this process
    return CompiledNet(net, batch_size=min(data.batch_size, share))


def _check_class_weights(loss: nn.Module, data: ImageDataModule) -> None:
    """ConfigError where the loss gives every training image the weight 0."""
    known = type(loss).__module__.startswith(("fmx.", "torch."))  # in a loss of one's own it may mean anything
    weight = getattr(loss, "weight", None) if known else None
    if isinstance(weight, torch.Tensor) and len(weight) == data.num_classes and not weight[data.labels("train")].any():
        names = ", ".join(name for name, value in zip(data.class_names, weight.tolist(), strict=True) if value)
        raise ConfigError(
            f"loss.weight is 0 for every class that has training images, so nothing would be learnt; the classes "
            f"of a larger weight ({names}) have none"
        )


def build_classifier(cfg: DictConfig) -> Classifier:
    """The network with its loss, optimizer, schedule and metrics."""
    net = _network(cfg)
    return make_classifier(
        with_later_keys(cfg).classifier,
        net=net,
        loss=make(cfg.loss),
        optimizer=make_optimizer(cfg.optim),
        groups=parameter_groups(cfg.optim),
        schedule=make(cfg.schedule),
        metrics=make(cfg.metrics),
    )


def make_classifier(node: DictConfig, **parts: Any) -> Classifier:
    """The classifier of a `classifier` node with the other parts of a run; ConfigError where it does not take them.

    What a subclass does after training has to be part of the network, which predictions and exports use alone.
    """
    target = node._target_
    kind = locate(target, "classifier")
    if isinstance(kind, type) and not issubclass(kind, Classifier):
        raise ConfigError(f"classifier: {target} is no subclass of {Classifier.__module__}.Classifier")
    factory = make(node, _partial_=True)
    try:
        made = factory(**parts)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"classifier: {target} cannot be made: {first_line(error)}; its __init__ takes its own keys and **parts, "
            "which it passes on: super().__init__(**parts)"
        ) from error
    if not isinstance(made, Classifier):
        raise ConfigError(f"classifier must make a {Classifier.__module__}.Classifier, not {type(made).__name__}")
    for name in ("forward", "predict_step"):
        if getattr(type(made), name) is not getattr(Classifier, name):
            raise ConfigError(
                f"classifier: {target} overrides {name}, but predictions and exports use the network alone: do that in "
                "model.net"
            )
    return made


def make_optimizer(node: DictConfig) -> OptimizerFactory:
    """The optimizer that lacks its parameters, of an `optim` node."""
    taken = node.copy()
    with open_dict(taken):
        for key in keys_of_fmx("optim", node):
            taken.pop(key, None)
    factory: OptimizerFactory = make(taken)
    return factory


def parameter_groups(node: DictConfig) -> ParameterGroups:
    """How the parameters are divided; an `optim` node of a user, or of an earlier version, may lack the keys."""
    plain: Any = OmegaConf.to_container(node, resolve=True)
    given = {key: plain.get(key) for key in sorted(keys_of_fmx("optim", node))}
    return ParameterGroups(**given)


def build_data(cfg: DictConfig) -> ImageDataModule:
    """The data set with its splits, normalisation, augmentation and loaders."""
    return make_data(cfg.data, augment=build_augmentation(cfg), seed=cfg.seed)


def make_data(node: DictConfig, *, augment: nn.Module, seed: int) -> ImageDataModule:
    """The data module of a `data` node, without the keys that only its sources refer to."""
    taken = node.copy()
    with open_dict(taken):
        for key in keys_of_fmx("data", node):
            taken.pop(key, None)
    data = make(taken, augment=augment, seed=seed)
    if not isinstance(data, ImageDataModule):
        raise ConfigError(f"data._target_ must make an fmx.data.module.ImageDataModule, not {type(data).__name__}")
    return data


def build_augmentation(cfg: DictConfig) -> nn.Module:
    """The augmentation: of the target of `augment`, of `augment.per_image` and of `augment.mix`, each if any."""
    node = cfg.augment.copy()
    with open_dict(node):
        mix, at_source = node.pop("mix", None), node.pop("per_image", None)
    transform = make(node) if "_target_" in node else nn.Identity()
    mixture = None if mix is None else make(mix)
    if not isinstance(mixture, nn.Module | None):
        raise ConfigError(f"augment.mix must make a torch.nn.Module, not {type(mixture).__name__}")
    size = cfg.data.image_size
    shape = (cfg.data.in_channels, *height_and_width(size if isinstance(size, int) else list(size)))
    before = None if at_source is None else make(at_source)
    return augmentation(transform, mix=mixture, shape=shape, at_source=before)


def make(node: Any, **extra: Any) -> Any:
    """Instantiate one node into plain objects; a constructor's ValueError or TypeError becomes a ConfigError.

    The node is resolved once. Hydra would resolve the result again, and with it names of folders, for example.
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
    """The network of a resolved `model.net` node on the meta device, without memory for weights."""
    with torch.device("meta"):
        return _as_module(make(dict(node)))


def is_beyond_meta(error: BaseException) -> bool:
    """Whether a network failed because it reads values while it is built, which the meta device does not have."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NotImplementedError) or "meta" in str(cause):
            return True
        cause = cause.__cause__
    return False


def network_node(cfg: DictConfig, earlier: Path | None) -> dict[str, Any]:
    """The resolved `model.net` node; without its weights file, which may be gone, where a checkpoint replaces it.

    earlier: the folder of the run that is resumed, if any.
    """
    node: Any = OmegaConf.to_container(cfg.model.net, resolve=True)
    if node.get("weights") is not None and has_checkpoint(earlier) and _loads_weights(node.get("_target_")):
        node["weights"] = None
    return dict(node)


def has_checkpoint(earlier: Path | None) -> bool:
    """Whether training continues from a checkpoint. earlier: the folder of the run that is resumed, if any."""
    return earlier is not None and any((earlier / "checkpoints" / name).is_file() for name in (NEWEST, PREVIOUS))


def _loads_weights(target: object) -> bool:
    """Whether a target is a network of a library, whose argument `weights` may be a file."""
    kind = locate(str(target), "model.net")
    return isinstance(kind, type) and issubclass(kind, AdaptedNet)


def _as_module(net: Any) -> nn.Module:
    if not isinstance(net, nn.Module):
        raise ConfigError(f"model.net._target_ must make a torch.nn.Module, not {type(net).__name__}")
    return net


def _network(cfg: DictConfig) -> nn.Module:
    """The network, its convolutions in the memory format that is faster for them."""
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    return _as_module(make(network_node(cfg, None if cfg.resume is None else Path(cfg.run_dir)))).to(
        memory_format=formats[cfg.memory_format]
    )


def without_own_keys(trainer: DictConfig) -> DictConfig:
    """The trainer node without keys that are not Lightning's: parts of fmx read them by interpolation."""
    taken = trainer.copy()
    with open_dict(taken):
        for key in keys_of_fmx("trainer", trainer):
            taken.pop(key, None)
    return taken


def _loggers(cfg: DictConfig, record: Record) -> dict[str, Logger]:
    """The loggers by name; in a resumed run each keeps its folder."""
    recorded = record.contents.get("logger_versions")
    recorded = recorded if isinstance(recorded, dict) else {}
    folder = Path(HydraConfig.get().runtime.cwd) if HydraConfig.initialized() else Path.cwd()
    loggers = {}
    for name, written in cfg.logger.items():
        with _refused_logger(str(name), written):
            node, extra = with_own_class(
                written, record.run_dir, folder=folder, version=recorded.get(name), writes=record.writes
            )
            logger = make(node, **extra)
            if isinstance(logger, NUMBERED) and node.get("version") is None and name in recorded:
                logger = make(node, version=recorded[name])
        if record.writes and is_tracker(logger):
            record.at_end.append((f"logger.{name}", logger.close))
        loggers[str(name)] = logger
    return loggers


@contextmanager
def _refused_logger(name: str, node: DictConfig) -> Iterator[None]:
    """Name the logger that cannot be made: a package may be missing, or a server not reachable."""
    try:
        yield
    except FmxError:
        raise
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise ConfigError(
            f"logger.{name}: {node.get('_target_')} cannot be made ({type(cause).__name__}): {first_line(cause)}; "
            f"~logger.{name} leaves it out"
        ) from error


def _trainer(cfg: DictConfig, net: nn.Module, loggers: list[Logger], callbacks: list[Callback]) -> Trainer:
    with look_up_callbacks_once():
        trainer = make(
            without_own_keys(cfg.trainer),
            precision=resolve_precision(cfg.trainer.precision, accelerator=cfg.trainer.accelerator, net=net),
            callbacks=callbacks,
            logger=loggers,
            plugins=[CheckpointFiles(), cluster_environment(cfg.trainer)],
            default_root_dir=cfg.run_dir,
        )
    assert isinstance(trainer, Trainer)
    return trainer


def _hparams(stored: Mapping[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The main settings, and all that the command line set."""
    data = stored["data"]
    held_out = {FOLD: ["data.folds", "data.fold"], OWN: []}.get(str(validation_of(data)), ["data.validation"])
    keys = ["optim.lr", "data.batch_size", *held_out, "trainer.max_epochs", "seed"]
    keys += [key for key in (text.lstrip("+").partition("=")[0] for text in overrides) if "." in key]
    hparams: dict[str, Any] = {
        "model": stored["model"]["name"],
        "data": data["name"],
        "optim": stored["optim"]["_target_"].rpartition(".")[2],
    }
    named = {key.partition(".")[0] for key in keys} & stored.keys()  # the other groups take time
    cfg = OmegaConf.create(escape_interpolations({key: stored[key] for key in named}))
    return hparams | {key: value for key in keys if (value := OmegaConf.select(cfg, key)) is not None}


def _settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration by its keys, such as `optim.lr`, but for places and loggers; lists are texts."""
    of_run = {key: node for key, node in stored.items() if key not in {"logger", "resume", "run_dir", "sweep"}}
    return {
        key: value if isinstance(value, int | float | bool | str) else str(value) for key, value in flat(of_run).items()
    }


def _log_origin(record: Record, net: nn.Module) -> None:
    """Log where the weights of a network with an `origin` come from, and record their file, if any."""
    origin, path = getattr(net, "origin", None), getattr(net, "weights_file", None)
    if not record.writes or not isinstance(origin, str):
        return
    log.info("%s", origin)
    if isinstance(path, Path):
        with path.open("rb") as file:
            record.update(weights={"file": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()})


def _log_run(record: Record, model: str) -> None:
    """Log in two lines what will run, on what, and where it writes."""
    if not record.writes:
        return
    data, device = record.contents["data"], record.contents["device"]
    sizes = " / ".join(f"{count:,} {part}" for part, count in data["sizes"].items())
    log.info("%s, %s parameters · %s, %s", model, f"{record.contents['params']:,}", data["name"], sizes)
    log.info("%s, %s threads, %s · %s", device["name"], device["threads"], device["precision"], record.run_dir)


def _log_parts(data: ImageDataModule) -> None:
    """Log where validation images come from, unless training images are held out, and which classes a part lacks."""
    if data.validation == OWN:
        log.info("data.val holds the validation images: data.validation is not used")
    names: dict[Part, str] = {"train": "training", "val": "validation", "test": "test"}
    for part, kind in names.items():
        present = {*data.labels(part).tolist()}
        missing = [repr(name) for label, name in enumerate(data.class_names) if label not in present]
        if missing and present:
            more = f" and {len(missing) - MANY} more" if len(missing) > MANY else ""
            log.warning("there are no %s images of %s%s", kind, ", ".join(missing[:MANY]), more)


def _log_augmentation(record: Record, data: ImageDataModule) -> None:
    """Log what changes training images, and what mixed images make of the training accuracy."""
    if not record.writes:
        return
    batched = data.augment.batched if isinstance(data.augment, Augmentation) else data.augment
    leaves = [each for each in batched.modules() if not [*each.children()] and not isinstance(each, nn.Sequential)]
    if names := [type(each).__name__ for each in leaves if not isinstance(each, nn.Identity)]:
        log.info("augment: %s, drawn for each training image; augment=none leaves them as they are", ", ".join(names))
    if not isinstance(data.augment, Augmentation):
        return
    workers = data.num_workers
    others = "1 worker process" if workers == 1 else f"{workers} worker processes"
    where = others if workers else "this process; data.num_workers=N uses N others"
    if (at_source := data.augment.at_source) is not None:
        originals = isinstance(data.sources["train"], PictureDataset)
        what = "picture at its own size, before it is resized," if originals else "image by itself"
        log.info("augment: %s, applied to each training %s in %s", at_source.names, what, where)
    if (per_image := data.augment.per_image) is not None:
        log.info("augment: %s, applied to each image by itself in %s", per_image.names, where)
    if (mix := data.augment.mix) is not None:
        log.info(
            "augment: %s mixes training images, so train/accuracy is of mixtures, each named by its larger part",
            type(mix).__name__,
        )


def _log_compilation(record: Record, compiled: CompiledNet | None) -> None:
    """Log what is compiled."""
    if compiled is not None and record.writes:
        on_gpu = record.contents["device"]["accelerator"] == "cuda"
        log.info(
            "trainer.compile: training steps of %d images are compiled, at the first one; validation, test and smaller "
            "batches are not%s", compiled.batch_size, ", and no CUDA graph is made" if on_gpu else "",
        )  # fmt: skip


def _log_classes(counts: Mapping[str, Sequence[int]], names: Sequence[str]) -> None:
    """Log in one line the smallest and the largest class of each part."""
    parts = []
    for part, numbers in counts.items():
        least, most = min(numbers), max(numbers)
        few, many = (f"{number:,} ({names[numbers.index(number)]})" for number in (least, most))
        parts.append(f"{part} {f'{few} to {many}' if least < most else f'{most:,}'}")
    log.info(
        "images of a class: %s",
        " · ".join(part for part, each in zip(parts, counts.values(), strict=True) if any(each)),
    )


def _warn_of_two_corrections(cfg: DictConfig, loss: nn.Module) -> None:
    """Warn where rare classes are both drawn more often and given larger weights."""
    if cfg.data.get("sampler") == "balanced" and getattr(loss, "is_balanced", False):
        log.warning("data.sampler=balanced and loss.weight=balanced both make up for rare classes: one is enough")


def _log_processes(record: Record, trainer: DictConfig) -> None:
    """Log what is unusual about the number of processes or their device."""
    processes, device = num_processes(trainer), record.contents["device"]["accelerator"]
    if not record.writes:
        return
    if (hint := launcher_hint(trainer)) is not None:
        log.info("%s", hint)
    if processes > 1 and trainer.accelerator == "auto" and device == "cpu":
        log.warning("torch sees no GPU: %d processes train on the CPU (trainer.accelerator=gpu insists)", processes)
