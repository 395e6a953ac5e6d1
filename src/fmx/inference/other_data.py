"""Other data to evaluate a run on: its own, moved or changed, or another data set of the same shape."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fmx.compat import own_files_first
from fmx.config.bounded_files import read_yaml
from fmx.config.conf_dir import CONF_DIR
from fmx.config.expansion import check_expansion
from fmx.config.image_size import is_image_size, shortest_form
from fmx.config.printed_command import printed_command
from fmx.config.quoting import quoted
from fmx.config.renamed_targets import with_present_names
from fmx.config.shadowing import check_replaces_nothing
from fmx.config.trust import without_torchvision
from fmx.data.module import names_of_classes
from fmx.errors import ConfigError, DataError
from fmx.runs.composition import register_resolvers
from fmx.runs.run_dir import Run

__all__ = ["changed_data", "other_data", "parse_changes"]

OF_THE_RUN = ["class_names", "translations", "mean", "std", "normalize"]  # kept: the model was trained with them


def parse_changes(texts: Sequence[str]) -> list[Override]:
    """Read `data.KEY=VALUE` overrides; ConfigError for any other."""
    changes: list[Override] = OverridesParser.create().parse_overrides(list(texts))
    for change in changes:
        if not change.key_or_group.startswith("data.") or change.is_sweep_override() or change.is_delete():
            raise ConfigError(f"--set {change.input_line}: only data.KEY=VALUE can be set, for example data.root=DIR")
    return changes


def changed_data(run: Run, config: DictConfig, changes: Iterable[Override]) -> DictConfig:
    """The run's resolved configuration with changed keys of its data, and the keys that depend on them."""
    path = run.path / ".hydra" / "config.yaml"
    written = with_present_names(read_yaml(path))
    check_expansion(written, "data", path)
    register_resolvers()
    try:
        source = OmegaConf.create({**written, "data": without_torchvision(written.get("data"))})
    except (OmegaConfBaseException, ValueError) as error:
        raise DataError(f"{path} is no configuration of a run: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(source.get("data"), DictConfig):
        raise DataError(f"{path} is no configuration of a run: it lacks data")
    for key in ("root", "class_names"):  # the other keys follow from the changed ones
        OmegaConf.update(source, f"data.{key}", config.data[key])
    OmegaConf.set_struct(source, value=True)
    for change in changes:
        OmegaConf.update(source, change.key_or_group, change.value(), force_add=change.is_add())
    changed = _with_data(config, source)
    _check_shape(changed, config, "the changed data")
    return changed


def other_data(
    config: DictConfig, name: str, changes: Iterable[Override], config_dir: Path | None
) -> tuple[DictConfig, str | None]:
    """The run's configuration with the test set of another data group, and a note if its classes have other names.

    The run's class names and normalisation are kept. DataError if the images have another shape or number of classes.
    """
    register_resolvers()
    if config_dir is not None:
        check_replaces_nothing(config_dir)
    search = [] if config_dir is None else [f"hydra.searchpath=[{quoted(f'file://{config_dir.resolve()}')}]"]
    lines = [str(change.input_line) for change in changes]
    with own_files_first(), initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        other = compose("config", [f"data={name}", *lines, *search])
    from_folders = str(other.data.train._target_).startswith("fmx.data.folder.")
    note = None if from_folders else _note_on_class_names(config, other)
    with open_dict(other):
        for key in OF_THE_RUN:
            other.data[key] = config.data[key]
        if "resize" in other.data and "resize" in config.data:  # of pictures in folders
            other.data.resize = config.data.resize
    changed = _with_data(config, other)
    _check_shape(changed, config, f"data={name}", settable=from_folders)
    with open_dict(changed):  # only the test set has to be on this machine
        changed.data.train = changed.data.test
        changed.data.val = None
        changed.data.validation = "none"
        changed.data.folds = changed.data.fold = None
        changed.data.drop_last = False
    return changed, note


def _check_shape(changed: DictConfig, config: DictConfig, what: str, *, settable: bool = False) -> None:
    theirs_all, ours_all = (_with_shortest_size(each.data) for each in (changed, config))
    for key in ("in_channels", "image_size", "num_classes"):
        theirs, ours = theirs_all[key], ours_all[key]
        if theirs != ours:
            setting = printed_command("--set", f"data.{key}={ours}".replace(" ", ""))
            raise DataError(
                f"{what} has data.{key}={theirs}, but the run was trained with {ours}: "
                "only data of the same shape and number of classes can be scored"
                + (f"; an image folder takes {setting}" if settable else "")
            )


def _with_shortest_size(data: DictConfig) -> Any:
    """A plain `data` node in which [28, 28] is 28."""
    plain: Any = OmegaConf.to_container(data, resolve=True)
    return plain | {"image_size": shortest_form(plain["image_size"])} if is_image_size(plain["image_size"]) else plain


def _with_data(config: DictConfig, source: Any) -> DictConfig:
    changed = config.copy()
    with open_dict(changed):
        changed.data = OmegaConf.create(OmegaConf.to_container(source.data, resolve=True))
    return changed


def _note_on_class_names(config: DictConfig, other: DictConfig) -> str | None:
    """A note if the classes of the two data sets have different names."""
    theirs = names_of_classes(other.data.class_names, other.data.translations, other.data.num_classes)
    ours = names_of_classes(config.data.class_names, config.data.translations, config.data.num_classes)
    if ours == theirs or ours in [list(names) for names in other.data.translations.values()]:
        return None
    return f"{other.data.name} calls its classes {', '.join(theirs)}; they are compared with the run's by number"
