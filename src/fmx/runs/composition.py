"""Where the configuration comes from, and the resolvers that its YAML files use."""

import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from fmx.config.conf_dir import CONF_DIR
from fmx.config.hydra_values import RUN_DIRECTORY
from fmx.config.quoting import escape_interpolations, quoted
from fmx.data.class_folders import class_folders, missing_folder
from fmx.data.found import found, found_validation
from fmx.errors import DataError
from fmx.process.distributed import agree_on

__all__ = ["compose_config", "register_resolvers", "stamp"]


VALIDATION_FOLDERS = ("val", "valid", "validation")


def stamp() -> str:
    """The time and six random hex digits: runs that start in the same second never share a folder.

    All processes of one torchrun command get the same stamp.
    """
    return agree_on("stamp", f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(3)}")


def _run_dir() -> str:
    """The run directory that Hydra made for this job, or a placeholder where there is none (--cfg job)."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return RUN_DIRECTORY
    runtime = HydraConfig.get().runtime
    return RUN_DIRECTORY if OmegaConf.is_missing(runtime, "output_dir") else str(runtime.output_dir)


def _subfolders(folder: str) -> list[str]:
    """The sorted names of the folders in `folder`: the classes of an image folder."""
    try:
        names = class_folders(folder)
    except OSError as error:
        raise missing_folder(folder, str(error.strerror)) from None
    if not names:
        raise DataError(f"{folder} has no class folders: put the images of each class in a folder of its own")
    return names


def _folder_of_validation(root: str, train: DictConfig) -> dict[str, Any] | None:
    """The source of the images in root/val or root/valid, like that of the training images; None if there is none."""
    folders = [folder for name in VALIDATION_FOLDERS if (folder := Path(root, name)).is_dir()]
    if len(folders) > 1:
        names = [each.name for each in folders]
        raise DataError(
            f"{root} has {len(names)} folders of validation images, {' and '.join(names)}: rename all but one, or hold "
            "out training images with data.val=null"
        )
    if not folders:
        return None
    source: Any = OmegaConf.to_container(train, resolve=True)
    return dict(escape_interpolations({**source, "folder": str(folders[0]), "may_lack_classes": True}))


def _found_validation(train: DictConfig) -> dict[str, Any] | None:
    """The source of the validation images that the files of the training images have besides; None without."""
    source = found_validation(train)
    return None if source is None else dict(escape_interpolations(source))


def _run_home(resume: str | None, fresh: str, *, _root_: DictConfig) -> str:
    """The folder of a run: that of the run to resume, or `fresh`."""
    from fmx.runs.resume import find_run_dir

    return find_run_dir(resume, fresh, _root_)


def compose_config(overrides: list[str], *, config_dir: str | None = None) -> DictConfig:
    """Compose the configuration as a run's command line does, without starting a run.

    config_dir: a folder that is searched first, like that of --config-dir.
    """
    register_resolvers()
    search = [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]"] if config_dir else []
    from fmx.compat import own_files_first
    from fmx.config.shadowing import check_replaces_nothing

    if config_dir:
        check_replaces_nothing(Path(config_dir))
    with own_files_first(), initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides=[*search, *overrides])


def register_resolvers() -> None:
    """Register the resolvers that conf/ uses with OmegaConf; safe to repeat."""
    resolvers: list[tuple[str, Callable[..., Any], bool]] = [
        ("stamp", stamp, True),
        ("run_dir", _run_dir, False),
        ("run_home", _run_home, False),
        ("subfolders", _subfolders, False),
        ("count", len, False),
        ("folder_of_validation", _folder_of_validation, False),
        ("found", found, False),
        ("found_validation", _found_validation, False),
    ]
    for name, resolver, use_cache in resolvers:
        OmegaConf.register_new_resolver(name, resolver, replace=True, use_cache=use_cache)
