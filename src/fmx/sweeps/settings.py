"""Checks of the launchers' settings."""

from collections.abc import Mapping
from typing import Any

from fmx.errors import ConfigError

__all__ = ["MAX_WORKERS", "check_fail_fast", "check_settings", "jobs_per_gpu"]

MAX_WORKERS = 4096
MAX_PER_GPU = 48  # clients of a CUDA MPS server


def check_settings(settings: Mapping[str, Any]) -> None:
    """ConfigError for an invalid setting of the local launcher."""
    for key in ("workers", "threads"):
        value = settings[key]
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"hydra.launcher.{key} must be a whole number of at least 1 or null, got {value!r}")
    shared = jobs_per_gpu(settings)
    if not isinstance(shared, int) or isinstance(shared, bool) or not 1 <= shared <= MAX_PER_GPU:
        raise ConfigError(f"hydra.launcher.jobs_per_gpu must be a whole number from 1 to {MAX_PER_GPU}, got {shared!r}")
    limit = settings["job_timeout_s"]
    if limit is not None and (not isinstance(limit, int | float) or isinstance(limit, bool) or limit <= 0):
        raise ConfigError(f"hydra.launcher.job_timeout_s must be a number greater than 0 or null, got {limit!r}")
    check_fail_fast(settings)


def jobs_per_gpu(settings: Mapping[str, Any]) -> Any:
    """How many jobs share a GPU: 1 where the settings are of an earlier version."""
    return settings.get("jobs_per_gpu", 1)


def check_fail_fast(settings: Mapping[str, Any]) -> None:
    """ConfigError unless fail_fast is a boolean."""
    if not isinstance(settings["fail_fast"], bool):
        raise ConfigError(f"hydra.launcher.fail_fast must be true or false, got {settings['fail_fast']!r}")
