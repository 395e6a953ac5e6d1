"""The YAML that a search composes its trials from, kept in its sweep directory: later edits of conf/ change nothing."""

import filecmp
import logging
import shutil
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.config_loader import ConfigLoader
from hydra.types import HydraContext
from omegaconf import DictConfig

from fmx.search.claims import exclusive

__all__ = ["CONF", "frozen_context", "warn_of_changes"]

log = logging.getLogger(__name__)
CONF = "conf"  # the copies' folder in the sweep directory
BUILT_IN = ("pkg://", "structured://")


def frozen_context(context: HydraContext, config: DictConfig, sweep_dir: Path) -> HydraContext:
    """Copy every folder that the configuration came from, once, and compose from the copies from then on."""
    folder = sweep_dir / CONF
    sources = _sources(config)
    with exclusive(sweep_dir):
        if not folder.is_dir():
            _copy([Path(path) for _, path in sources], folder)
    return HydraContext(config_loader=_loader(context.config_loader, sources, folder), callbacks=context.callbacks)


def warn_of_changes(config: DictConfig, sweep_dir: Path) -> None:
    """Say so where the configuration's files are not what the copies in a sweep directory are."""
    folder = sweep_dir / CONF
    if _differs([Path(path) for _, path in _sources(config)], folder):
        log.warning("the configuration files have changed since this search began: it goes on with those in %s", folder)


def _sources(config: DictConfig) -> list[tuple[str, str]]:
    return [(each.provider, each.path) for each in config.hydra.runtime.config_sources if each.schema == "file"]


def _copy(sources: list[Path], folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    for number, source in enumerate(sources):
        for file in sorted(source.rglob("*.yaml")):
            target = temporary / str(number) / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    temporary.rename(folder)


def _differs(sources: list[Path], folder: Path) -> bool:
    for number, source in enumerate(sources):
        names = [{file.relative_to(root) for file in root.rglob("*.yaml")} for root in (source, folder / str(number))]
        if names[0] != names[1]:
            return True
        if any(not filecmp.cmp(source / name, folder / str(number) / name, shallow=False) for name in names[0]):
            return True
    return False


def _loader(loader: ConfigLoader, sources: list[tuple[str, str]], folder: Path) -> ConfigLoader:
    """Hydra's own search path with the copies in place of the folders; what is found first counts."""
    built_in = [each for each in loader.get_search_path().get_path() if str(each.path).startswith(BUILT_IN)]
    path = ConfigSearchPathImpl()
    path.append(built_in[0].provider, str(built_in[0].path))
    for number, (provider, _) in enumerate(sources):
        path.append(provider, f"file://{(folder / str(number)).resolve()}")
    for each in built_in[1:]:
        path.append(each.provider, str(each.path))
    return ConfigLoaderImpl(config_search_path=path)
