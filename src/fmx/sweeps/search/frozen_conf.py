"""Copies of the YAML files that a search composes its trials from, so that later edits of conf/ change nothing."""

import filecmp
import logging
import re
import shutil
import sys
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.types import HydraContext
from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from fmx.config.bounded_files import MAX_YAML_BYTES, read_bytes, read_yaml
from fmx.config.conf_dir import CONF_DIR
from fmx.config.expansion import check_expansion
from fmx.config.renamed_targets import later_keys, present_name
from fmx.config.trust import TRUSTED, check_paths, check_processes, check_sizes, check_trusted, foreign_mirrors
from fmx.errors import DataError
from fmx.process.memory_bound import at_most_bytes
from fmx.runs.composition import register_resolvers
from fmx.sweeps.search.heartbeat import exclusive

__all__ = ["CONF", "frozen_context", "warn_of_changes"]

log = logging.getLogger(__name__)
CONF = "conf"  # the copies' folder in the sweep directory
TARGET = re.compile(r"_target_:\s*['\"]?(\w+)\.")
COMPOSED_BYTES = 2**26  # a defaults list may include others, many times over
BUILT_IN = ("pkg://", "structured://")


def frozen_context(context: HydraContext, config: DictConfig, sweep_dir: Path) -> HydraContext:
    """Copy all config folders, unless that is done, and return a context that composes from the copies."""
    folder = sweep_dir / CONF
    sources = _sources(config)
    paths = [Path(path) for _, path in sources]
    with exclusive(sweep_dir):
        if not folder.is_dir():
            _copy(paths, folder)
    own: Any = context.config_loader
    if isinstance(own, _CheckedLoader):  # of an earlier call
        own = own.loader
    loader = type(own)(config_search_path=_search_path(own, sources, folder))  # Hydra's own class
    if not _differs(paths, folder):  # the same as the command's own files, which are trusted
        return HydraContext(config_loader=loader, callbacks=context.callbacks)
    _check_files(paths, folder)
    checked: Any = _CheckedLoader(loader, folder, _packages(paths))
    return HydraContext(config_loader=checked, callbacks=context.callbacks)


def warn_of_changes(config: DictConfig, sweep_dir: Path) -> None:
    """Warn if the configuration files differ from the copies in the sweep directory."""
    folder = sweep_dir / CONF
    if _differs([Path(path) for _, path in _sources(config)], folder):
        log.warning("configuration files have changed since this search began: it continues with those in %s", folder)


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


def _search_path(loader: ConfigLoader, sources: list[tuple[str, str]], folder: Path) -> ConfigSearchPath:
    """Hydra's search path with the copies in place of the folders; the first match wins."""
    built_in = [each for each in loader.get_search_path().get_path() if str(each.path).startswith(BUILT_IN)]
    path = type(loader.get_search_path())()
    path.append(built_in[0].provider, str(built_in[0].path))
    for number, (provider, _) in enumerate(sources):
        path.append(provider, f"file://{(folder / str(number)).resolve()}")
    for each in built_in[1:]:
        path.append(each.provider, str(each.path))
    return path


def _check_files(sources: list[Path], folder: Path) -> None:
    """DataError for a copy that differs from the command's own file, and is too large or sets `hydra.searchpath`.

    Hydra reads files of any size, and imports whatever `hydra.searchpath` names.
    """
    for number, source in enumerate(sources):
        copies = folder / str(number)
        for file in sorted(copies.rglob("*.yaml")):
            own = source / file.relative_to(copies)
            if own.is_file() and filecmp.cmp(own, file, shallow=False):
                continue
            if not read_bytes(file, at_most=MAX_YAML_BYTES).strip():
                continue
            hydra = read_yaml(file).get("hydra")
            if isinstance(hydra, dict) and "searchpath" in hydra:
                raise DataError(f"{file} sets hydra.searchpath, which the copies of a search never do")


def _packages(sources: list[Path]) -> set[str]:
    """The packages of the targets in the command's own YAML files, which are trusted."""
    named: set[str] = set()
    for file in [file for source in sources if source != CONF_DIR for file in source.rglob("*.yaml")]:
        named |= set(TARGET.findall(file.read_text(encoding="utf-8", errors="replace")))
    return named - {*TRUSTED} - sys.stdlib_module_names


class _CheckedLoader:
    """Composes trials from untrusted files, and refuses parts that are not trusted."""

    def __init__(self, loader: ConfigLoader, folder: Path, allow: Collection[str]) -> None:
        self.loader = loader
        self._folder = folder
        self._allow = allow

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Compose a trial's configuration; DataError for anything in it that is not trusted."""
        try:
            with at_most_bytes(COMPOSED_BYTES, f"what the files of {self._folder} name in their defaults"):
                config = self.loader.load_sweep_config(master_config, sweep_overrides)
            _update_targets(config)
            self._check(config, master_config)
        except DataError as error:
            raise DataError(
                f"{error}\n{self._folder} differs from this command's configuration files. If you trust it, "
                "copy its files to the folder of --config-dir; else name another folder with hydra.sweep.dir=DIR"
            ) from error
        with read_write(config), open_dict(config):
            config.hydra.callbacks.check.bounded = True  # for the check of the parts, here and in the trial's process
        return config

    def _check(self, config: DictConfig, own: DictConfig) -> None:
        for key in ("callbacks", "job.env_set", "job.env_copy", "job.chdir"):
            if _plain_value(config.hydra, key) != _plain_value(own.hydra, key):
                raise DataError(f"{self._folder} sets another hydra.{key} than this command")
        ours = {str(key): _plain_value(config, str(key)) for key in config if key != "hydra"}
        ours["run_dir"] = str(self._folder.parent / "0")
        for key in ours:
            check_expansion(ours, key, self._folder)
        register_resolvers()
        try:
            made = OmegaConf.create(ours)
            resolved: Any = OmegaConf.to_container(made, resolve=True)
        except OmegaConfBaseException:
            return  # the later check reports it better, and instantiates nothing before
        check_trusted(resolved, self._folder, self._allow)
        check_sizes(resolved["data"], self._folder)
        known = foreign_mirrors(OmegaConf.to_container(own.data, resolve=True))
        if strange := [mirror for mirror in foreign_mirrors(resolved["data"]) if mirror not in known]:
            raise DataError(f"{self._folder} would fetch images from {strange[0]!r}, which is no source of fmx's")
        check_paths(made, self._folder)
        check_processes(resolved, self._folder)


def _update_targets(node: Any) -> None:
    """Update renamed targets in a composed node, and add later keys: the copies may be from an earlier version."""
    if isinstance(node, DictConfig):
        keys: Iterable[Any] = [key for key in node if not OmegaConf.is_missing(node, key)]
    else:
        keys = range(len(node)) if isinstance(node, ListConfig) else []
    with flag_override(node, ["readonly", "struct"], False) if keys else nullcontext():  # noqa: FBT003 - OmegaConf's own
        for key in keys:
            if OmegaConf.is_interpolation(node, key):
                continue
            if key == "_target_" and isinstance(node[key], str):
                node[key] = present_name(node[key])
                for later, value in later_keys(node[key]).items():
                    node[later] = node.get(later, value)
            else:
                _update_targets(node[key])


def _plain_value(node: DictConfig, key: str) -> Any:
    value = OmegaConf.select(node, key, throw_on_resolution_failure=False)
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value
