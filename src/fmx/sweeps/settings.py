"""Checks of the launchers' settings."""

from collections.abc import Mapping
from typing import Any

from fmx.errors import ConfigError

__all__ = ["MAX_WORKERS", "check_fail_fast", "check_settings"]

MAX_WORKERS = 4096


def check_settings(settings: Mapping[str, Any]) -> None:
    """ConfigError for an invalid setting of the local launcher."""
    for key in ("workers", "threads"):
        value = settings[key]
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"hydra.launcher.{key} must be a whole number of at least 1 or null, got {value!r}")
    limit = settings["job_timeout_s"]
    if limit is not None and (not isinstance(limit, int | float) or isinstance(limit, bool) or limit <= 0):
        raise ConfigError(f"hydra.launcher.job_timeout_s must be a number greater than 0 or null, got {limit!r}")
    check_fail_fast(settings)


def check_fail_fast(settings: Mapping[str, Any]) -> None:
    """ConfigError unless fail_fast is a boolean."""
    if not isinstance(settings["fail_fast"], bool):
        raise ConfigError(f"hydra.launcher.fail_fast must be true or false, got {settings['fail_fast']!r}")
