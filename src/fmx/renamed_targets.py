"""Targets that have another name now than in the configurations of earlier runs."""

from collections.abc import Mapping
from typing import Any

__all__ = ["with_first_names"]

# The present name of a target and the one that it took the place of. A run that was begun under the earlier name is
# gone on with under the present one, so the present one reads the earlier one's state from checkpoints.
FIRST_NAMES = {"fmx.callbacks.ema.EMA": "pytorch_lightning.callbacks.EMAWeightAveraging"}


def with_first_names(node: Any) -> Any:
    """A plain node in which every target has the first name that it had, so that runs of any time can be compared."""
    if isinstance(node, Mapping):
        return {
            key: FIRST_NAMES.get(child, child)
            if key == "_target_" and isinstance(child, str)
            else with_first_names(child)
            for key, child in node.items()
        }
    if isinstance(node, list):
        return [with_first_names(child) for child in node]
    return node
