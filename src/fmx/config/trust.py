"""Decide which targets, sizes and paths a configuration from an untrusted directory may have."""

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fmx.config.image_size import height_and_width, is_image_size
from fmx.config.targets import locate, target_nodes
from fmx.errors import ConfigError, DataError

__all__ = [
    "TRUSTED",
    "check_paths",
    "check_processes",
    "check_sizes",
    "check_trusted",
    "foreign_mirrors",
    "is_torchvision_builder",
    "without_foreign_mirrors",
    "without_torchvision",
]

# In a file name, a metric formatted as a number: `{epoch}`, `{val_loss:.2f}`.
PLACEHOLDER = re.compile(r"\{[^{}:!]*(?::0?\d*(?:\.\d+)?[defgEFG%]?)?\}")
MAX_CLASSES = 100_000
MIN_PROCESSES = 16  # allowed on any machine
MAX_NUMBERS = 2**28  # per image: 4,096 x 4,096 pixels with 16 channels
TRUSTED = ("fmx", "torch", "torchvision", "torchmetrics", "pytorch_lightning")


@dataclass(frozen=True)
class Kind:
    """The targets that one place of a configuration takes: subclasses of `base` in `modules`, and `names`.

    Trusted packages also have functions that load code, fetch files or write anywhere, so the package alone is not
    enough.
    """

    what: str
    base: str | None = None
    modules: tuple[str, ...] = ()
    names: frozenset[str] = field(default_factory=frozenset)


NETWORKS = Kind("networks and layers", "torch.nn.Module", ("fmx.models", "torch.nn", "torchvision.models"))
SCHEDULERS = Kind("learning-rate schedulers", "torch.optim.lr_scheduler.LRScheduler", ("torch.optim.lr_scheduler",))
SOURCES = Kind(
    "fmx's own data sources",
    names=frozenset({
        "fmx.data.in_memory.in_memory",
        "fmx.data.csv_images.load_csv",
        "fmx.data.digits.load_digits",
        "fmx.data.folder.ImageFolder",
        "fmx.data.idx.load_idx",
        "fmx.data.npz.load_npz",
        "fmx.data.parquet.load_parquet",
        "fmx.data.pixel_table.load_pixel_table",
        "fmx.data.torchvision_sets.load_torchvision",
    }),
)  # fmt: skip
KINDS: Mapping[str, Kind] = {  # the longest matching prefix counts
    "model.net": NETWORKS,
    "loss": Kind("losses", "torch.nn.Module", ("fmx.training.losses", "fmx.training.distillation", "torch.nn")),
    "classifier": Kind(
        "fmx.training.classifier.Classifier", names=frozenset({"fmx.training.classifier.Classifier"})
    ),
    "augment": Kind(
        "augmentations", "torch.nn.Module", ("fmx.data.augment", "torch.nn", "torchvision.transforms"),
        # A list of transforms, each a target of its own.
        frozenset({"torchvision.transforms.Compose"}),
    ),
    "augment.mix": Kind("mixtures of images", "torch.nn.Module", ("fmx.data.mix",)),
    "optim": Kind("optimizers", "torch.optim.Optimizer", ("fmx.training.muon", "torch.optim")),
    "schedule": Kind("fmx.training.schedule.Schedule", names=frozenset({"fmx.training.schedule.Schedule"})),
    "schedule.scheduler": SCHEDULERS,
    "metrics": Kind(
        "classification metrics",
        "torchmetrics.Metric",
        ("torchmetrics.aggregation", "torchmetrics.classification", "torchmetrics.wrappers"),
        # The collection is a dictionary of metrics, not a metric.
        frozenset({"torchmetrics.MetricCollection"}),
    ),
    "callbacks": Kind(
        "callbacks",
        "pytorch_lightning.Callback",
        ("fmx.training.callbacks", "fmx.sweeps.search.pruning", "pytorch_lightning.callbacks"),
    ),
    "logger": Kind(
        "loggers that write files alone",
        "pytorch_lightning.loggers.Logger",
        (
            "pytorch_lightning.loggers.csv_logs", "pytorch_lightning.loggers.tensorboard",
            "pytorch_lightning.loggers.mlflow", "pytorch_lightning.loggers.wandb",
        ),
    ),
    "trainer": Kind("pytorch_lightning.Trainer", names=frozenset({"pytorch_lightning.Trainer"})),
    "trainer.strategy": Kind(
        "strategies", "pytorch_lightning.strategies.Strategy", ("pytorch_lightning.strategies",)
    ),
    "data": Kind("fmx.data.module.ImageDataModule", names=frozenset({"fmx.data.module.ImageDataModule"})),
    "data.train": SOURCES,
    "data.test": SOURCES,
    "data.val": SOURCES,
}  # fmt: skip


TRACKERS = {"MLFlowLogger": "mlflow", "WandbLogger": "wandb"}  # the members of `logger` that these are
LABELS = frozenset(
    {"name", "run_name", "experiment_name", "group", "tags", "notes", "job_type", "project", "log_model"}
)


def check_trusted(config: Mapping[str, Any], source: Path, allow: Iterable[str] = ()) -> None:
    """DataError for the first target that is not of a trusted package, or not of the kind that its place takes.

    config: plain values, resolved. allow: packages that may be named anywhere. All names are checked before any import.
    """
    allowed = set(allow)
    named = [(place, node["_target_"]) for place, node in target_nodes(config, "")]
    targets = [(place, name) for place, name in named if _package(name) not in allowed]
    for place, name in targets:
        _check_name(place, name, source, allowed)
    for place, name in targets:
        _check_kind(place, str(name), source)
    for place, node in target_nodes(config.get("logger"), "logger"):
        if _package(node["_target_"]) not in allowed:
            _check_tracker(place, node, source)


def _check_name(place: str, name: object, source: Path, allowed: Iterable[str]) -> None:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise DataError(f"{source}: {place} names the target {name!r}, which is no dotted path to a class")
    if _package(name) not in TRUSTED:
        raise DataError(
            f"{source} names the target {name!r} in {place}; only {', '.join(sorted({*TRUSTED, *allowed}))} are "
            f"trusted. If you trust that package too, add {_option(name)}"
        )
    if any(part.startswith("_") for part in name.split(".")):
        raise _misplaced(place, name, source, "a private name")


def _check_kind(place: str, name: str, source: Path) -> None:
    kind = _kind(place)
    if kind is None:
        raise _misplaced(place, name, source, "no target belongs there")
    if name in kind.names:
        return
    if kind.base is None:
        raise _misplaced(place, name, source, f"it takes {kind.what}")
    try:
        target = locate(name, place)
    except ConfigError as error:
        raise DataError(f"{source}: {error}") from error
    if not _is_class(target, kind) and not (kind is NETWORKS and _is_torchvision_builder(target)):
        raise _misplaced(place, name, source, f"it takes {kind.what} of {', '.join(kind.modules)}")


def _check_tracker(place: str, node: Mapping[str, Any], source: Path) -> None:
    """DataError where a run of MLflow or W&B would go elsewhere than by the defaults of conf/logger/.

    Another server, project or folder would get what the user has; a run's names and labels may differ.
    """
    group = TRACKERS.get(str(node["_target_"]).rpartition(".")[2])
    if group is None:
        return
    from fmx.config.bounded_files import read_yaml
    from fmx.config.conf_dir import CONF_DIR

    usual = read_yaml(CONF_DIR / "logger" / f"{group}.yaml")[group]
    for key in sorted({*usual, *node} - LABELS - {"_target_", "save_dir"}):
        if node.get(key) != usual.get(key):
            raise _misplaced(
                f"{place}.{key}",
                str(node["_target_"]),
                source,
                f"it takes loggers that write files alone, as logger={group} does, where {key} is {usual.get(key)!r}",
            )


def _misplaced(place: str, name: str, source: Path, reason: str) -> DataError:
    return DataError(
        f"{source} names the target {name!r} in {place}: {reason}. "
        f"If you trust all that {_package(name)} can do, add {_option(name)}"
    )


def _option(name: str) -> str:
    """What to type in a shell or in Python, to trust the package of a target."""
    return f'--allow {_package(name)} (in Python: allow=["{_package(name)}"])'


def _is_class(target: object, kind: Kind) -> bool:
    """Whether a target is a subclass of the kind's base and is defined, not just imported, in its modules."""
    assert kind.base is not None
    module, _, name = kind.base.rpartition(".")
    base = getattr(import_module(module), name)
    home = f"{getattr(target, '__module__', '')}."
    allowed = tuple(f"{name}." for name in kind.modules)
    return inspect.isclass(target) and issubclass(target, base) and home.startswith(allowed)


def is_torchvision_builder(name: object) -> bool:
    """Whether the name of a trusted target is a torchvision model builder."""
    try:
        return isinstance(name, str) and _is_torchvision_builder(locate(name, "model.net"))
    except ConfigError:
        return False


def _is_torchvision_builder(target: Callable[..., Any]) -> bool:
    """Whether torchvision lists a function as a builder of its classification networks."""
    from torchvision import models

    name = getattr(target, "__name__", "")
    return name in models.list_models(module=models) and models.get_model_builder(name) is target


def _kind(place: str) -> Kind | None:
    keys = [key for key in KINDS if f"{place}.".startswith(f"{key}.")]
    return KINDS[max(keys, key=len)] if keys else None


def _package(name: object) -> str:
    return str(name).partition(".")[0]


def check_sizes(data: Mapping[str, Any], source: Path) -> None:
    """DataError where image sizes or class counts exceed the bounds: arrays of these sizes are allocated."""
    own = ["data.val"] if data.get("val") is not None else []
    for name in ("data", "data.train", "data.test", *own):  # each source has its own sizes
        part = data if name == "data" else data.get(name.rpartition(".")[2], {})
        if not isinstance(part, Mapping):
            raise DataError(f"{source}: {name} must be a mapping, as in conf/data/*.yaml, got {part!r:.80}")
        for key in ("num_classes", "in_channels", "batch_size", "eval_batch_size"):
            if type(part.get(key, 1)) is not int or part.get(key, 1) < 1:
                raise DataError(f"{source}: {name}.{key} is {part[key]!r:.80}, which is no count")
        size = part.get("image_size", 1)
        if not is_image_size(size):
            raise DataError(f"{source}: {name}.image_size is {size!r:.80}, which is neither a count nor two")
        height, width = height_and_width(size)
        num_classes, channels = (part.get(key, 1) for key in ("num_classes", "in_channels"))
        if num_classes > MAX_CLASSES or channels * height * width > MAX_NUMBERS:
            raise DataError(
                f"{source} says that {name} has {num_classes:,} classes of images of {channels:,} x {height:,} x "
                f"{width:,} numbers; a run from a directory may have {MAX_CLASSES:,}, and {MAX_NUMBERS:,} numbers per "
                "image"
            )


def check_processes(config: Mapping[str, Any], source: Path) -> None:
    """DataError where a run would start more processes than this machine has cores (at least 16 are allowed).

    config: plain values. Call it before such a configuration is run; Lightning itself refuses too many GPUs.
    """
    most = max(MIN_PROCESSES, os.cpu_count() or 1)
    for group, key in (("trainer", "devices"), ("data", "num_workers")):
        number = config[group].get(key)
        if isinstance(number, list):
            number = len(number)
        if not (number == "auto" or number is None or (type(number) is int and number <= most)):
            raise DataError(
                f"{source} would start {number!r:.80} processes ({group}.{key}); "
                f"of a run from a directory this machine starts {most}"
            )


def check_paths(config: DictConfig, source: Path) -> None:
    """DataError where a callback, a logger or the trainer would write outside the run directory.

    config: resolved, with the run's own folder as `run_dir`. Call it before such a configuration is run; commands that
    only read a run instantiate none of these parts.
    """
    home = Path(config.run_dir).resolve()
    for group in ("callbacks", "logger", "trainer"):
        for place, value in _texts(OmegaConf.to_container(config[group], resolve=True), group):
            rest = value.removeprefix(str(config.run_dir))
            within = Path("/", value).resolve().is_relative_to(home)
            if _may_escape(rest) or (_is_location(place, value) and not within):
                raise DataError(
                    f"{source} would write to {value!r} ({place}), which is not in its own folder; "
                    "if you trust the run, change that in its .hydra/resolved.yaml"
                )


def _may_escape(text: str) -> bool:
    """Whether a file name may lead out of its folder once its metrics are formatted.

    Lightning writes the metric's name too (`{epoch}` becomes `epoch=3`), and format specs with a fill or `c` can
    produce any character.
    """
    return bool({"{", "}"} & {*PLACEHOLDER.sub("", text)}) or ".." in re.split(r"[/{}:=]", text)


def _is_location(place: str, text: str) -> bool:
    """Whether a text is a path to write to, by its key or its form.

    Positional arguments may be folders, and an empty folder is the working directory.
    """
    if place.endswith(("dir", "path")) or "._args_." in place:
        return True
    return text.startswith(("/", "~")) or "://" in text


def _texts(node: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, Mapping | list):
        for name, child in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _texts(child, f"{place}.{name}")


def without_foreign_mirrors(node: Any) -> Any:
    """A copy of a plain `data` node with only fmx's own mirrors."""
    if isinstance(node, list):
        return [without_foreign_mirrors(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    copy = {key: without_foreign_mirrors(child) for key, child in node.items()}
    if "mirrors" in copy:
        named, known = copy["mirrors"], _own_mirrors()
        copy["mirrors"] = [mirror for mirror in named if mirror in known] if isinstance(named, list) else []
    return copy


def without_torchvision(node: Any) -> Any:
    """A copy of a plain `data` node that lets torchvision fetch nothing: its sets have any size."""
    if isinstance(node, list):
        return [without_torchvision(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    copy = {key: without_torchvision(child) for key, child in node.items()}
    if isinstance(copy.get("mirrors"), list):
        copy["mirrors"] = [mirror for mirror in copy["mirrors"] if mirror != "torchvision"]
    return copy


def foreign_mirrors(node: Any) -> list[str]:
    """The mirrors in a plain `data` node that are not fmx's own."""
    if isinstance(node, list):
        return [mirror for child in node for mirror in foreign_mirrors(child)]
    if not isinstance(node, Mapping):
        return []
    named, known = node.get("mirrors", []), _own_mirrors() if "mirrors" in node else set()
    strange = [str(each) for each in (named if isinstance(named, list) else [named]) if each not in known]
    return strange + [mirror for child in node.values() for mirror in foreign_mirrors(child)]


def _own_mirrors() -> set[str]:
    from fmx.config.bounded_files import read_yaml
    from fmx.config.conf_dir import CONF_DIR

    parts = [read_yaml(file).get("train") for file in sorted((CONF_DIR / "data").glob("*.yaml"))]
    lists = [part.get("mirrors", []) for part in parts if isinstance(part, Mapping)]
    return {mirror for mirrors in lists for mirror in mirrors}
