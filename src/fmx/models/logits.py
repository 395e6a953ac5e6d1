"""The logits in what a network returns."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fmx.errors import ConfigError

__all__ = ["logits_of"]

log = logging.getLogger(__name__)
KEY = "logits"


def logits_of(output: Any, said: set[str] | None = None) -> Tensor:
    """The tensor of logits (B, K) in a network's output: the output itself, its attribute `logits` or its item.

    transformers' ModelOutput has such an attribute, and so have the named tuples of torchvision's GoogLeNet and
    Inception in training. said: the kinds of output of which it was logged that nothing else of them is used; None to
    log nothing. ConfigError: the output has no logits.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get(KEY) if isinstance(output, Mapping) else getattr(output, KEY, None)
    if not isinstance(logits, Tensor):
        raise ConfigError(
            f"model.net returns {_described(output)}, in which fmx finds no logits: return the tensor of logits (B, "
            "data.num_classes), or an object or dictionary that has it as `logits`"
        )
    if said is not None and (kind := type(output).__name__) not in said:
        said.add(kind)
        if others := _others(output):
            log.info("model.net returns a %s: its logits are used, %s not", kind, ", ".join(others))
    return logits


def _others(output: Any) -> list[str]:
    """The names of what an output holds besides its logits."""
    fields = (
        output if isinstance(output, Mapping) else getattr(output, "_fields", None) or getattr(output, "__dict__", {})
    )
    return [str(name) for name in fields if name != KEY and not str(name).startswith("_")]


def _described(output: Any) -> str:
    """What an output is, with the names or the number of its parts."""
    name = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {name} of {', '.join(map(str, output)) or 'nothing'}"
    if fields := getattr(output, "_fields", None):
        return f"a {name} of {', '.join(fields)}"
    return f"a {name} of {len(output)}" if isinstance(output, Sequence) else f"a {name}"
