"""From a run directory back to objects: the classifier with a checkpoint's weights, and the data set."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fmx.build import build_classifier, build_data
from fmx.checkpoint import load_weights
from fmx.classifier import Classifier
from fmx.composition import register_resolvers
from fmx.datamodule import ImageDataModule
from fmx.errors import DataError
from fmx.run_dir import Run

__all__ = ["restore_classifier", "restore_data", "trusted_config"]

TRUSTED = ("fmx", "torch", "torchvision", "torchmetrics", "pytorch_lightning")


def trusted_config(run: Run, allow: Iterable[str] = ()) -> DictConfig:
    """The run's configuration, once every target in it is from a trusted package; DataError names the first other one.

    allow: packages that the user trusts beside fmx's own (--allow mypkg).
    """
    config = run.config
    trusted = {*TRUSTED, *allow}
    for target in _targets(OmegaConf.to_container(config, resolve=False)):
        if not isinstance(target, str) or target.partition(".")[0] not in trusted:
            raise DataError(
                f"{run.path} names the target {target!r}, which is not from {', '.join(sorted(trusted))}; "
                f"if you trust it, add --allow {str(target).partition('.')[0]}"
            )
    register_resolvers()
    return config


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
