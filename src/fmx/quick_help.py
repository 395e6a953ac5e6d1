"""Hydra's --help, without the copy of everything read so far that it makes for each group which it lists."""

from functools import cache

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.override_parser.types import Override

__all__ = ["list_groups_from_one_copy"]

Copy = tuple[list[Override], CachingConfigRepository]


def list_groups_from_one_copy() -> None:
    """Let a process that only prints help make that copy once (seen in Hydra 1.3.8)."""
    copied = ConfigLoaderImpl._parse_overrides_and_create_caching_repo  # noqa: SLF001

    @cache
    def copied_once(loader: ConfigLoaderImpl, config_name: str | None, overrides: tuple[str, ...]) -> Copy:
        return copied(loader, config_name, list(overrides))

    def from_one_copy(loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str]) -> Copy:
        return copied_once(loader, config_name, tuple(overrides))

    ConfigLoaderImpl._parse_overrides_and_create_caching_repo = from_one_copy  # type: ignore[assignment, method-assign]  # noqa: SLF001
