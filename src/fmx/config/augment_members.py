"""The group `augment`: what its node holds, and which members a list of them may have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fmx.config.bounded_files import read_yaml
from fmx.config.quoting import as_typed
from fmx.errors import ConfigError

__all__ = ["check_augment"]

LIST = "augment=["
PARTS = {
    "_target_": "is a transform of images", "per_image": "changes pictures before they are resized",
    "mix": "mixes images and labels",
}  # fmt: skip
OF_FMX = {"per_image": "random_resized_crop", "mix": "mixup"}  # with a member that shows it


def check_augment(node: Mapping[str, Any], config: DictConfig) -> None:
    """ConfigError for keys that nothing would read, and for a list of members of which the last would replace others.

    node: the group as plain values; config: with its `hydra` node, if any.
    """
    if "_target_" not in node and (stray := [key for key in node if key not in OF_FMX] or not node):
        named = f"augment.{stray[0]}" if isinstance(stray, list) else "augment"
        raise ConfigError(
            f"{named}: augment needs a _target_ that takes it, a per_image or a mix; augment=none augments nothing"
        )
    for key, member in OF_FMX.items():
        part = node.get(key)
        if part is not None and not (isinstance(part, Mapping) and "_target_" in part):
            raise ConfigError(
                f"augment.{key} must be a mapping with a _target_, as in conf/augment/{member}.yaml, got {part!r}"
            )
    if "hydra" not in config:
        return
    given = [text for text in as_typed(config.hydra.overrides.task) if text.startswith(LIST)]
    if given:
        _check_list([name.strip() for name in given[-1].removeprefix(LIST).rstrip("]").split(",")], config)


def _check_list(names: list[str], config: DictConfig) -> None:
    folders = [Path(each.path) for each in config.hydra.runtime.config_sources if each.schema == "file"]
    files = {name: [f for folder in folders if (f := folder / "augment" / f"{name}.yaml").is_file()] for name in names}
    held = {name: read_yaml(found[0]) for name, found in files.items() if found}
    for part, what in PARTS.items():
        if len(both := [name for name, members in held.items() if part in members]) > 1:
            better = "augment=mixup_cutmix takes either at random" if part == "mix" else (
                "a YAML file of your own with a torch.nn.Sequential of both does both, as conf/augment/crop_flip.yaml"
            )  # fmt: skip
            raise ConfigError(
                f"augment=[{','.join(names)}]: each of {' and '.join(both)} {what}, and the last would replace the "
                f"others; {better}"
            )
