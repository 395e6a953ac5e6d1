"""The dry run: all parts that need no data are made once before a run exists, so that refused values show at once."""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import BackboneFinetuning, Checkpoint, ModelCheckpoint
from torch import nn
from torch.optim import LBFGS, Optimizer
from torchmetrics import Metric, MetricCollection

from fmx.config.image_size import as_override, height_and_width
from fmx.config.passed import Passed
from fmx.config.quoting import escape_interpolations
from fmx.config.renamed_targets import with_later_root_keys
from fmx.config.rules import is_number_list
from fmx.config.suggest import nearest
from fmx.config.targets import locate
from fmx.config.validation import validation_of
from fmx.data.module import names_of_classes, normalization
from fmx.errors import ConfigError, FmxError, first_line
from fmx.models.logits import logits_of
from fmx.models.sizes import infer_output
from fmx.process.memory_bound import SPARE_BYTES, at_most_bytes
from fmx.training.build import (
    build_augmentation,
    has_checkpoint,
    is_beyond_meta,
    make,
    make_classifier,
    make_optimizer,
    meta_network,
    network_node,
    parameter_groups,
    without_own_keys,
)
from fmx.training.callback_rules import check_callbacks
from fmx.training.callbacks.history import History
from fmx.training.callbacks.unfreeze import Unfreeze
from fmx.training.cluster_environment import cluster_environment
from fmx.training.compiled_net import check_compiler
from fmx.training.counts import update
from fmx.training.initial_weights import check_initial_weights
from fmx.training.loggers import check_loggers
from fmx.training.parameter_groups import OptimizerFactory
from fmx.training.teacher import check_teacher

__all__ = ["check_data_class", "dry_run_parts"]

STEPS_PER_EPOCH = 1009  # any number for which no phase of a schedule is a single step
CONVOLUTION = 4  # dimensions of its weight
MAX_IMAGES = 100  # for the trial of a metric, one per class
CLASSIFIER = "fmx.training.classifier.Classifier"
DIRECTIONS = {"loss": "min", "accuracy": "max", "macro_f1": "max"}


def dry_run_parts(
    resolved: Mapping[str, Any],
    *,
    earlier: Path | None = None,
    here: bool = True,
    bounded: bool = False,
    passed: Passed | None = None,
) -> None:
    """Raise ConfigError for parts that refuse their values or do not fit each other or the shape of the data.

    resolved: a configuration as plain values. earlier: the folder of the run that is resumed, if any. here: whether the
    run will compute on this machine. bounded: raise DataError for parts that take more memory or time than any run
    needs. passed: the checks that earlier configurations passed.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # Hydra sets it only later
    with warnings.catch_warnings(action="ignore"):  # the run itself repeats them
        _DryRun(with_later_root_keys(resolved), earlier, passed or Passed()).run(here=here, bounded=bounded)


class _DryRun:
    """The checks of one configuration, and its parts, each made when a check first needs it."""

    def __init__(self, resolved: Mapping[str, Any], earlier: Path | None, passed: Passed) -> None:
        self._values = resolved
        self._earlier = earlier
        self._once = passed.once
        self._images = {key: resolved["data"].get(key) for key in ("image_size", "in_channels", "num_classes")}
        self._net = network_node(self._config("model"), earlier)

    def run(self, *, here: bool, bounded: bool) -> None:
        """Make and check everything, as in dry_run_parts."""
        values = self._values
        self._once("data", values["data"], lambda: _check_data(self._node("data")))
        self._once("loggers", values["logger"], lambda: check_loggers(self._node("logger")))
        with at_most_bytes(SPARE_BYTES, "its parts") if bounded else nullcontext():
            self._check_parts()
        self._once("teacher", [values["loss"], values["data"]], lambda: check_teacher(self._loss, self._node("data")))
        if values["init"] is not None and not has_checkpoint(self._earlier):
            taken = [self._net, self._images, values["init"], values["init_strict"]]
            self._once("init", taken, self._check_initial_weights)
        if here and values["trainer"].get("compile"):
            accelerator = values["trainer"].get("accelerator")
            self._once("compiler", accelerator, lambda: check_compiler(accelerator))
        self._once("trainer", [values["trainer"], values["callbacks"], here], lambda: self._check_trainer(here=here))

    def _check_parts(self) -> None:
        """Check all parts but the data and the trainer, which may reserve any memory for a GPU."""
        values = self._values
        training = [values["optim"], values["schedule"], values["trainer"], values["memory_format"]]
        read = [self._net, values["model"]["name"], self._images]
        has_convolutions = self._once("network", read, self._has_convolutions)
        self._once("loss", values["loss"], lambda: self._loss is None)
        self._once("augment", [values["augment"], values["loss"], self._images], self._check_augmentation)
        read = [values["metrics"], self._images, str(validation_of(values["data"]))]
        logged = self._once("metrics", read, self._logged)
        read = [values["callbacks"], values["trainer"], logged, values["select"]]
        change_rates = self._once("callbacks", read, lambda: self._check_callbacks(logged))
        read = [*training, logged, values["callbacks"], values["loss"], self._net, self._images]
        self._once(
            "optimization",
            read,
            lambda: self._check_optimization(logged, has_convolutions=has_convolutions, change_rates=change_rates),
        )
        if values["classifier"]["_target_"] != CLASSIFIER:
            read = [*training, values["classifier"], values["metrics"], values["loss"], self._net, self._images]
            self._once("classifier", read, self._check_classifier)

    def _config(self, *keys: str) -> DictConfig:
        """Some groups of the configuration."""
        made: DictConfig = OmegaConf.create(escape_interpolations({key: self._values[key] for key in keys}))
        return made

    def _node(self, key: str) -> DictConfig:
        """One group, which knows its key."""
        node: DictConfig = self._config(key)[key]
        return node

    @cached_property
    def _made_network(self) -> tuple[nn.Module | None, Mapping[str, torch.Tensor] | None]:
        return _check_network(self._net, self._values["model"]["name"], self._node("data"))

    @cached_property
    def _loss(self) -> nn.Module:
        loss: nn.Module = _make_part("loss", self._node("loss"), nn.Module)
        return loss

    @cached_property
    def _metrics(self) -> dict[str, Metric | MetricCollection]:
        nodes: Iterable[tuple[Any, Any]] = self._node("metrics").items()
        return {name: _make_part(f"metrics.{name}", node, Metric, MetricCollection) for name, node in nodes}

    @cached_property
    def _callbacks(self) -> dict[str, Callback]:
        nodes: Iterable[tuple[Any, Any]] = self._node("callbacks").items()
        return {name: _make_part(f"callbacks.{name}", node, Callback) for name, node in nodes}

    @property
    def _epochs(self) -> int:
        return int(self._values["trainer"]["max_epochs"])

    def _logged(self) -> list[str]:
        """The names of the metrics that the run will log."""
        logged = ["train/loss", "train/accuracy"]
        if validation_of(self._values["data"]) != "none":
            names = _scalar_names(self._metrics, self._values["data"]["num_classes"])
            logged += ["val/loss", *(f"val/{name}" for name in names)]
        return logged

    def _check_augmentation(self) -> None:
        _check_augmentation(self._config("augment", "data"), lambda: self._loss)

    def _has_convolutions(self) -> bool:
        """Whether the network has convolutions, as far as it is known."""
        net, _ = self._made_network
        return net is None or any(each.dim() == CONVOLUTION for each in net.parameters())

    def _parts(self) -> nn.Module | None:
        """Network and loss on the meta device, if they can be there."""
        net, _ = self._made_network
        return None if net is None else nn.ModuleDict({"net": net, "loss": self._loss})

    def _check_callbacks(self, logged: Sequence[str]) -> bool:
        """Check the callbacks; returns whether one changes the rates of parameters."""
        shows_bar = bool(self._values["trainer"].get("enable_progress_bar", True))
        check_callbacks(self._callbacks, shows_progress_bar=shows_bar, epochs=self._epochs)
        _check_callbacks(self._callbacks, logged, self._values["select"])
        return any(isinstance(each, Unfreeze | BackboneFinetuning) for each in self._callbacks.values())

    def _check_optimization(self, logged: Sequence[str], *, has_convolutions: bool, change_rates: bool) -> None:
        config = self._config("optim", "schedule", "trainer", "memory_format")
        with _refusals("optim", config.optim):
            of_groups = change_rates or not parameter_groups(config.optim).is_one
        parts = self._parts() if of_groups else None
        factors = _rate_factors(self._callbacks, parts, self._epochs) if change_rates else {}
        _check_optimization(config, logged, parts, factors, has_convolutions=has_convolutions)

    def _check_classifier(self) -> None:
        config = self._config("classifier", "optim", "schedule", "trainer")
        _check_classifier(config, net=self._made_network[0], loss=self._loss, metrics=self._metrics)

    def _check_initial_weights(self) -> None:
        _, tensors = self._made_network
        if tensors is not None:
            check_initial_weights(tensors, self._values["init"], strict=self._values["init_strict"])

    def _check_trainer(self, *, here: bool) -> None:
        trainer = self._node("trainer")
        known = here and trainer.precision != "auto"
        elsewhere = {} if here else {"accelerator": "cpu", "devices": 1}  # this machine may lack that one's devices
        _make_part(
            "trainer",
            without_own_keys(trainer),
            Trainer,
            precision=trainer.precision if known else "32-true",
            **elsewhere,
            logger=False,
            plugins=[cluster_environment({})],
            callbacks=[*self._callbacks.values()],
        )


def _check_classifier(config: DictConfig, **parts: Any) -> None:
    """Make a subclass of the classifier; ConfigError for trainer settings that its own optimization leaves out."""
    target = config.classifier._target_
    if parts["net"] is None:
        return
    with _refusals("classifier", config.classifier):
        made = make_classifier(
            config.classifier,
            **parts,
            optimizer=make_optimizer(config.optim),
            groups=parameter_groups(config.optim),
            schedule=make(config.schedule),
        )
    if made.automatic_optimization:
        return
    for key, none, instead in (
        ("gradient_clip_val", None, "clips in training_step: self.clip_gradients(optimizer, gradient_clip_val=1)"),
        ("accumulate_grad_batches", 1, "may step its optimizer every few batches"),
    ):
        if (value := config.trainer.get(key, none)) != none:
            raise ConfigError(
                f"trainer.{key}={value} would be without effect: {target} optimizes by itself "
                f"(automatic_optimization), and {instead}"
            )


def _check_data(data: DictConfig) -> None:
    """Check names and normalisation, which the data module would check only after loading."""
    if data._target_ != "fmx.data.module.ImageDataModule":
        return
    plain: Any = OmegaConf.to_container(data, resolve=True)
    for key in ("mean", "std"):
        if not is_number_list(plain[key]):
            raise ConfigError(f"data.{key} must be a list of numbers, one per channel, got {plain[key]!r}")
    names_of_classes(plain["class_names"], plain["translations"], plain["num_classes"])
    normalization(plain["normalize"], plain["mean"], plain["std"], plain["in_channels"])


def _make_part(key: str, node: Any, *kinds: type, **extra: Any) -> Any:
    """Make one part and check its type."""
    with _refusals(key, node):
        try:
            made = make(node, **extra)
        except ConfigError as error:
            raise ConfigError(f"{error}{_near_name(key, node)}") from error
    if not isinstance(made, kinds):
        out = f"; ~{key} leaves it out" if made is None else ""
        raise ConfigError(
            f"{key} must make a {kinds[0].__module__}.{kinds[0].__name__}, not {type(made).__name__}{out}"
        )
    return made


def _check_augmentation(config: DictConfig, make_loss: Callable[[], nn.Module]) -> None:
    """Make the augmentation, and compute the loss of soft labels where it mixes images."""
    node = config.augment
    with _refusals("augment", node):
        try:
            made = build_augmentation(config)
        except ConfigError as error:
            raise ConfigError(f"{error}{_near_name('augment', node) if '_target_' in node else ''}") from error
    if getattr(made, "mix", None) is None:
        return
    num_classes, loss = config.data.num_classes, make_loss()
    shares = torch.full((2, num_classes), 1 / num_classes)
    try:
        value = loss.train(not getattr(loss, "takes_images", False))(
            torch.randn(shares.shape, generator=torch.Generator().manual_seed(0)), shares
        )
        if value.dim() or not value.isfinite():
            raise ValueError(f"it gives {value}")  # noqa: TRY301 - as if it had refused them
    except Exception as error:
        raise ConfigError(
            f"augment.mix: {type(made.mix).__name__} makes labels that are shares of the classes, floats (B, "
            f"{num_classes}), and the loss {type(loss).__name__} does not take them: {first_line(error)}. Type "
            "loss=cross_entropy or loss=nll, or choose an augmentation without augment.mix"
        ) from error


def _near_name(key: str, node: Mapping[str, Any]) -> str:
    """A hint for a mistyped key of a target that accepts any key, such as a metric."""
    known = inspect.signature(locate(node["_target_"], key)).parameters
    hints = [nearest(name, known) for name in node if not name.startswith("_") and name not in known]
    return next((hint for hint in hints if hint != "."), "")


@contextmanager
def _refusals(key: str, node: Any) -> Iterator[None]:
    """Turn an exception of a part into one line that names the part."""
    try:
        yield
    except FmxError:
        raise
    except Exception as error:
        cause = list(_causes(error))[-1]
        kind = "" if isinstance(cause, TypeError | ValueError) else f" ({type(cause).__name__})"
        raise ConfigError(f"{key}: {node.get('_target_')} refuses its values{kind}: {first_line(cause)}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _check_network(
    node: Mapping[str, Any], name: str, data: DictConfig
) -> tuple[nn.Module | None, Mapping[str, torch.Tensor] | None]:
    """Send one image's shape through the network; a file of weights is read and compared, but not loaded.

    Returns the network on the meta device and its tensors, or None and None where it cannot be made there.
    """
    plain: Any = OmegaConf.to_container(data, resolve=True)
    height, width = height_and_width(plain["image_size"])
    shape = (int(data.in_channels), height, width)
    squares = "" if height == width else f"; if the network takes squares alone, type {as_override(max(height, width))}"
    try:
        net = meta_network(node)
        tensors = net.state_dict()
        output = infer_output(net, shape)
    except ConfigError as error:
        if isinstance(list(_causes(error))[-1], TypeError):  # such as image_size**2 of a list
            raise ConfigError(f"model={name}, with image_size={plain['image_size']}: {error}{squares}") from error
        raise
    except InstantiationException as error:
        if is_beyond_meta(error):
            return None, None
        with _refusals("model.net", node):
            raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        if is_beyond_meta(error):
            return None, None
        raise ConfigError(
            f"model={name} cannot take images of shape {shape} (data.in_channels, height and width of "
            f"data.image_size): {first_line(error)}{squares}"
        ) from error
    given, wanted = tuple(logits_of(output).shape), (1, int(data.num_classes))
    if given != wanted:
        raise ConfigError(
            f"model={name} must map one image to logits of shape {wanted}, a column for each of the "
            f"data.num_classes, but gives {given}"
        )
    return net, tensors


def _scalar_names(metrics: Mapping[str, Metric | MetricCollection], num_classes: int) -> Iterator[str]:
    """The names of the scalar metrics; those with one value per class are not logged."""
    images = min(num_classes, MAX_IMAGES)
    for name, metric in MetricCollection(dict(metrics)).items():
        try:
            collection = MetricCollection({name: metric})
            update(collection, torch.eye(images, num_classes), torch.arange(images))
            values = collection.compute()
        except Exception as error:
            if type(metric).__module__.startswith("torchmetrics."):
                raise ConfigError(
                    f"metrics.{name}: {type(metric).__name__} does not take logits (B, {num_classes}) and labels (B,): "
                    f"{first_line(error)}"
                ) from error
            yield name  # a user's own metric, which may need other inputs
            continue
        for key, value in values.items():
            if not isinstance(value, torch.Tensor):
                raise ConfigError(
                    f"metrics.{key}: {type(metric).__name__} gives a {type(value).__name__} where history.csv and "
                    "metrics.json take a number, or one for each class"
                )
            if value.numel() == 1:
                yield key


def _check_callbacks(callbacks: Mapping[str, Callback], logged: Sequence[str], select: str) -> None:
    """Check monitored metrics and kept checkpoints, which would fail only after hours of training."""
    packages = {type(callback).__module__.partition(".")[0] for callback in callbacks.values()}
    if not packages <= {"fmx", "pytorch_lightning"}:
        return  # a user's own callback may log metrics and keep checkpoints
    validates = "val/loss" in logged
    for name, callback in callbacks.items():
        monitor = getattr(callback, "monitor", None)
        if isinstance(callback, ModelCheckpoint) and not validates:
            continue  # without validation it keeps the newest weights
        if name == select == "best" and validates and str(monitor).startswith("train/"):
            raise ConfigError(
                f"callbacks.best.monitor={monitor} would choose the checkpoint by its training images; "
                "monitor val/accuracy, or test the last one with select=last"
            )
        if monitor is not None and monitor not in logged:
            raise ConfigError(
                f"callbacks.{name}.monitor: there is no metric {monitor!r}{nearest(monitor, logged)} "
                f"Metrics: {', '.join(logged)}"
            )
        better, mode = DIRECTIONS.get(str(monitor).rpartition("/")[2]), getattr(callback, "mode", None)
        if better and mode in {"min", "max"} and mode != better:
            raise ConfigError(
                f"callbacks.{name}.mode={mode} keeps the worst {monitor}: set callbacks.{name}.mode={better}"
            )
    if not any(isinstance(callback, History) for callback in callbacks.values()):
        raise ConfigError("no callback writes history.csv, which every run leaves; add callbacks.history again")
    kept = {getattr(callback, "filename", None) for callback in callbacks.values() if isinstance(callback, Checkpoint)}
    wanted = select if validates else "last"
    if wanted not in kept:
        raise ConfigError(
            f"select={select} tests {wanted}.ckpt, but no callback keeps it; add callbacks.{wanted} again"
        )


def _rate_factors(callbacks: Mapping[str, Callback], parts: nn.Module | None, epochs: int) -> dict[str, float]:
    """The factors that callbacks give the rates of parameters, by name; ConfigError for a callback without effect."""
    factors: dict[str, float] = {}
    for name, callback in callbacks.items():
        if isinstance(callback, BackboneFinetuning):
            raise ConfigError(
                f"callbacks.{name}: BackboneFinetuning takes a module with an attribute `backbone`, which a classifier "
                "of fmx has not; type 'callbacks=[default,unfreeze]'"
            )
        if isinstance(callback, Unfreeze):
            if callback.epoch is not None and callback.epoch > epochs:
                raise ConfigError(
                    f"callbacks.{name}.epoch={callback.epoch} is after the last epoch (trainer.max_epochs={epochs}): "
                    "nothing would ever be unfrozen; name an earlier one, or null for never"
                )
            if parts is not None:
                callback.prepare(parts, factors)
    return factors


def _check_optimization(
    config: DictConfig,
    logged: Sequence[str],
    parts: nn.Module | None,
    factors: Mapping[str, float],
    *,
    has_convolutions: bool,
) -> None:
    """Make optimizer and schedule for weights as small as possible.

    parts: network and loss on the meta device, for groups of parameters. factors: of the rates of single parameters.
    """
    with _refusals("optim", config.optim):
        factory, groups = make_optimizer(config.optim), parameter_groups(config.optim)
        optimizer = factory([nn.Parameter(torch.zeros(1))])
        if parts is not None:
            optimizer = groups.make(lambda given, **options: factory(_small(given), **options), parts, factors)
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"optim must make a torch.optim.Optimizer, not {type(optimizer).__name__}")
    if config.memory_format == "channels_last" and has_convolutions:
        _check_flat_views(factory, type(optimizer))
    epochs = config.trainer.max_epochs
    with _refusals("schedule", config.schedule):
        entries = make(config.schedule)(
            optimizer, steps_per_epoch=STEPS_PER_EPOCH, epochs=epochs, total_steps=STEPS_PER_EPOCH * epochs
        )
    for entry in entries:
        with _refusals("schedule", config.schedule):  # some refuse their values at the first step
            entry["scheduler"].step(*([1.0] if "monitor" in entry else []))
        if entry.get("monitor", "train/loss") not in logged:
            raise ConfigError(f"schedule: it follows {entry['monitor']}, which data.validation=none leaves out")


def _check_flat_views(factory: OptimizerFactory, kind: type[Optimizer]) -> None:
    """ConfigError where an optimizer takes a step on a weight (2, 2, 2, 2), but not in channels_last.

    LBFGS views all weights as one vector, which the memory of others than contiguous ones does not allow.
    """
    if kind.__module__.startswith("torch.optim.") and kind is not LBFGS:
        return
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(torch.ones(2, 2, 2, 2).to(memory_format=layout))
        weight.grad = torch.ones_like(weight)
        try:
            factory([weight]).step(lambda: 1.0)
        except Exception as error:
            if layout is torch.contiguous_format:
                return  # it needs something else, which training may give
            raise ConfigError(
                f"optim: {kind.__name__} fails on weights of convolutions in channels_last ({first_line(error)}); type "
                "memory_format=contiguous"
            ) from error


def _small(given: Sequence[Any]) -> list[Any]:
    """Parameters, or groups of them, with weights of the same dimensions that take no memory."""
    if not isinstance(given[0], dict):
        return [nn.Parameter(torch.zeros([2] * each.dim())) for each in given]
    return [{**group, "params": _small(group["params"]) if group["params"] else []} for group in given]


def check_data_class(path: str) -> None:
    """ConfigError where the target of `data` is no ImageDataModule."""
    from fmx.data.module import ImageDataModule

    target = locate(path, "data")
    if inspect.isclass(target) and not issubclass(target, ImageDataModule):
        raise ConfigError(f"data: _target_ {path!r} is no fmx.data.module.ImageDataModule")
