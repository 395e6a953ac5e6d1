"""What a run is validated on, by its configuration."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

__all__ = ["FOLD", "OWN", "validation_of"]

FOLD = "fold"  # one of data.folds
OWN = "data.val"  # a source of its own


def validation_of(data: Mapping[str, Any] | DictConfig) -> float | str:
    """data.validation, or `data.val` where that source replaces it, or `fold` where data.folds does."""
    if data.get("val") is not None:
        return OWN
    return FOLD if data.get("folds") is not None else data["validation"]
