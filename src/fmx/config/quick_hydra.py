"""Patches of Hydra 1.3.8: compose once, search the user's folders first, list only real members in --help."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

__all__ = ["compose_once", "list_groups_from_one_copy", "list_whole_members_only", "own_files_first"]

Copy = tuple[list[Override], CachingConfigRepository]


@contextmanager
def compose_once() -> Iterator[None]:
    """In the block, a run reuses the configuration that Hydra composes first only to read hydra.mode."""
    composed = ConfigLoaderImpl.load_configuration
    kept: dict[tuple[str | None, ...], DictConfig | Exception] = {}

    def load(
        loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str], run_mode: RunMode, **how: bool
    ) -> DictConfig:
        asked = (config_name, *overrides)
        if how.get("validate_sweep_overrides", True):
            known = kept.pop(asked, None) if run_mode == RunMode.RUN else None
            if isinstance(known, Exception):
                raise known
            return known or composed(loader, config_name, overrides, run_mode, **how)
        as_run = (*asked, "hydra.mode=RUN")  # Hydra's next request, unless a file or -m sets the mode
        try:
            cfg = composed(loader, config_name, overrides, RunMode.RUN)
        except Exception as error:  # noqa: BLE001 - Hydra reports it, unless this is a multirun
            kept[as_run] = error
            return composed(loader, config_name, overrides, run_mode, **how)
        if cfg.hydra.mode is not None:
            return cfg
        cfg.hydra.mode = RunMode.RUN
        cfg.hydra.overrides.hydra.append("hydra.mode=RUN")
        kept[as_run] = cfg
        return OmegaConf.create({"hydra": {"mode": None}})  # Hydra reads nothing else here

    ConfigLoaderImpl.load_configuration = load  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = composed  # type: ignore[method-assign]


@contextmanager
def list_groups_from_one_copy() -> Iterator[None]:
    """In the block, --help copies the config repository once instead of once per group (as Hydra 1.3.8 does)."""
    copied = ConfigLoaderImpl._parse_overrides_and_create_caching_repo  # noqa: SLF001

    @cache
    def copied_once(loader: ConfigLoaderImpl, config_name: str | None, overrides: tuple[str, ...]) -> Copy:
        return copied(loader, config_name, list(overrides))

    def from_one_copy(loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str]) -> Copy:
        return copied_once(loader, config_name, tuple(overrides))

    ConfigLoaderImpl._parse_overrides_and_create_caching_repo = from_one_copy  # type: ignore[assignment, method-assign]  # noqa: SLF001
    try:
        yield
    finally:
        ConfigLoaderImpl._parse_overrides_and_create_caching_repo = copied  # type: ignore[method-assign]  # noqa: SLF001


@contextmanager
def list_whole_members_only() -> Iterator[None]:
    """In the block, listings omit names with a leading underscore, such as data/_loader, which no one can choose."""
    listed = ConfigLoaderImpl.get_group_options

    def whole(loader: ConfigLoaderImpl, *group: Any, **how: Any) -> list[str]:
        return [name for name in listed(loader, *group, **how) if not name.startswith("_")]

    ConfigLoaderImpl.get_group_options = whole  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.get_group_options = listed  # type: ignore[method-assign]


@contextmanager
def own_files_first() -> Iterator[None]:
    """In the block, files below --config-dir and hydra.searchpath take precedence over fmx's of the same name."""
    prepended, appended = ConfigSearchPathImpl.prepend, ConfigSearchPathImpl.append

    def prepend(search: ConfigSearchPathImpl, provider: str, path: str, anchor: Any = None) -> None:
        prepended(search, provider, path, "main" if provider == "command-line" else anchor)

    def append(search: ConfigSearchPathImpl, provider: str, path: str, anchor: Any = None) -> None:
        if provider.startswith("hydra.searchpath "):
            prepended(search, provider, path, "main")
        else:
            appended(search, provider, path, anchor)

    ConfigSearchPathImpl.prepend = prepend  # type: ignore[assignment, method-assign]
    ConfigSearchPathImpl.append = append  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ConfigSearchPathImpl.prepend, ConfigSearchPathImpl.append = prepended, appended  # type: ignore[method-assign]
