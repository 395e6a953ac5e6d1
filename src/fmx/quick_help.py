"""Hydra's --help: quicker, and without the files that others of their group start from."""

from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.override_parser.types import Override

__all__ = ["list_groups_from_one_copy", "list_whole_members_only"]

Copy = tuple[list[Override], CachingConfigRepository]


def list_groups_from_one_copy() -> None:
    """Let a process that only prints help copy all that was read once, not for each group (seen in Hydra 1.3.8)."""
    copied = ConfigLoaderImpl._parse_overrides_and_create_caching_repo  # noqa: SLF001

    @cache
    def copied_once(loader: ConfigLoaderImpl, config_name: str | None, overrides: tuple[str, ...]) -> Copy:
        return copied(loader, config_name, list(overrides))

    def from_one_copy(loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str]) -> Copy:
        return copied_once(loader, config_name, tuple(overrides))

    ConfigLoaderImpl._parse_overrides_and_create_caching_repo = from_one_copy  # type: ignore[assignment, method-assign]  # noqa: SLF001


def list_whole_members_only() -> None:
    """Let it leave out what starts with an underscore, such as data/_loader: such a file is no choice by itself."""
    listed = ConfigLoaderImpl.get_group_options

    def whole(loader: ConfigLoaderImpl, *group: Any, **how: Any) -> list[str]:
        return [name for name in listed(loader, *group, **how) if not name.startswith("_")]

    ConfigLoaderImpl.get_group_options = whole  # type: ignore[assignment, method-assign]
