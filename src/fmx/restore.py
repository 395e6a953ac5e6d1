"""From a run directory back to objects: the classifier with a checkpoint's weights, and the data set."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from fmx.build import build_classifier, build_data, meta_network
from fmx.check import GROUPS, ROOT_KEYS
from fmx.checkpoint import apply_weights, check_shapes, load_checkpoint
from fmx.classifier import Classifier
from fmx.composition import literal
from fmx.datamodule import ImageDataModule
from fmx.errors import ConfigError, DataError
from fmx.run_dir import Run
from fmx.trust import check_trusted, without_strange_mirrors

__all__ = ["checked_config", "restore_classifier", "restore_data", "trusted_config"]


def trusted_config(run: Run, allow: Iterable[str] = ()) -> DictConfig:
    """The run's configuration, once every target in it is one that its place may have; DataError names the first other.

    allow: packages that the user trusts with anything, beside fmx's own (--allow mypkg).
    """
    return checked_config(run.config, run, allow)


def checked_config(config: DictConfig, run: Run, allow: Iterable[str] = ()) -> DictConfig:
    """A resolved configuration, checked as `trusted_config` does; what it fetches comes from fmx's own mirrors."""
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"the configuration of {run.path} cannot be resolved: {reason}") from error
    for group in GROUPS:
        if not isinstance(plain.get(group), dict):
            raise DataError(f"{run.path} holds no configuration of a run: it lacks {group}")
    if not isinstance(plain["model"].get("net"), dict):
        raise DataError(f"{run.path} holds no configuration of a run: model.net names no network")
    if strange := sorted(map(str, plain.keys() - {*ROOT_KEYS})):
        raise DataError(f"{run.path} holds no configuration of a run: it has the key {strange[0]!r}")
    check_trusted(plain, run.path, allow)
    config = config.copy()
    config.data = OmegaConf.create(literal(without_strange_mirrors(plain["data"])))
    return config


def restore_classifier(config: DictConfig, checkpoint: Path) -> Classifier:
    """The run's classifier in eval mode with a checkpoint's weights, on the CPU.

    DataError where its parts cannot be made, or the weights do not fit. The shapes are compared before there is memory
    for the network, so that it takes no more than the checkpoint does.
    """
    config = config.copy()
    if "weights" in config.model.net:  # the checkpoint has them; a download would be wasted
        config.model.net.weights = None
    state = load_checkpoint(checkpoint)["state_dict"]
    check_shapes(_shapes(config), state, checkpoint)
    with _makable("its parts"):
        classifier = build_classifier(config)
    apply_weights(classifier, state, checkpoint)
    return classifier.eval()


def _shapes(config: DictConfig) -> dict[str, Tensor]:
    """The weights of the run's network by their names in a checkpoint, without memory for them."""
    try:
        net = meta_network(OmegaConf.to_container(config.model.net, resolve=True))  # type: ignore[arg-type]
    except InstantiationException:  # some look at values while they are built, and the meta device has none
        return {}
    return {f"net.{name}": tensor for name, tensor in net.state_dict().items()}


@contextmanager
def _makable(what: str) -> Iterator[None]:
    """Turn what a constructor says of values that it cannot take into a DataError."""
    try:
        yield
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise DataError(
            f"{what}: the run's configuration cannot be made: {str(cause).partition(chr(10))[0]}"
        ) from error
    except ConfigError as error:
        raise DataError(str(error)) from error


def restore_data(config: DictConfig) -> ImageDataModule:
    """The run's data set, split as it was then."""
    with _makable("data"):
        return build_data(config)
