"""From a run directory back to objects: the classifier with a checkpoint's weights, and the data set."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmx.build import build_classifier, build_data
from fmx.checkpoint import load_weights
from fmx.classifier import Classifier
from fmx.composition import register_resolvers
from fmx.datamodule import ImageDataModule
from fmx.errors import DataError
from fmx.run_dir import Run
from fmx.targets import locate

__all__ = ["check_trusted", "restore_classifier", "restore_data", "trusted_config"]

TRUSTED = ("fmx", "torch", "torchvision", "torchmetrics", "pytorch_lightning")


def trusted_config(run: Run, allow: Iterable[str] = ()) -> DictConfig:
    """The run's configuration, once every target in it is from a trusted package; DataError names the first other one.

    allow: packages that the user trusts beside fmx's own (--allow mypkg).
    """
    register_resolvers()
    config = run.config
    try:
        OmegaConf.resolve(config)  # so that a target which an interpolation makes is seen as well
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"the configuration of {run.path} cannot be resolved: {reason}") from error
    check_trusted(config, run, allow)
    return config


def check_trusted(config: DictConfig, run: Run, allow: Iterable[str] = ()) -> None:
    """DataError for the first target of a resolved configuration that is not from a trusted package.

    Where it is defined counts too: `torch.os.system` is named after torch, but is Python's own.
    """
    trusted = {*TRUSTED, *allow}
    targets = list(_targets(OmegaConf.to_container(config, resolve=False)))
    for target in targets:  # all names first: nothing is imported for a configuration that names a wrong one
        if not isinstance(target, str) or target.partition(".")[0] not in trusted:
            raise _distrust(run, target, str(target), trusted)
    for target in targets:
        home = str(getattr(locate(target, str(run.path)), "__module__", None))
        if home.partition(".")[0] not in trusted:
            raise _distrust(run, target, home, trusted)


def _distrust(run: Run, target: object, home: str, trusted: Iterable[str]) -> DataError:
    package = home.partition(".")[0]
    really = "" if str(target).partition(".")[0] == package else f", which is really from {package}"
    return DataError(
        f"{run.path} names the target {target!r}{really}; only {', '.join(sorted(trusted))} are trusted. "
        f"If you trust that package too, add --allow {package}"
    )


def restore_classifier(config: DictConfig, checkpoint: Path) -> Classifier:
    """The run's classifier in eval mode with a checkpoint's weights, on the CPU."""
    config = config.copy()
    if "weights" in config.model.net:  # the checkpoint has them; a download would be wasted
        config.model.net.weights = None
    classifier = build_classifier(config)
    load_weights(classifier, checkpoint)
    return classifier.eval()


def restore_data(config: DictConfig) -> ImageDataModule:
    """The run's data set, split as it was then."""
    return build_data(config)


def _targets(node: Any) -> Iterable[Any]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from _targets(child)
