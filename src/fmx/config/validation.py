"""What a run is validated on, by its configuration."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

__all__ = ["FOLD", "validation_of"]

FOLD = "fold"  # one of data.folds


def validation_of(data: Mapping[str, Any] | DictConfig) -> float | str:
    """data.validation, or `fold` where data.folds replaces it."""
    return FOLD if data.get("folds") is not None else data["validation"]
