"""How an epoch draws the training images: each once, or at random in proportion to weights of their classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fmx.errors import ConfigError

__all__ = ["UNIFORM", "drawn", "image_weights"]

UNIFORM, BALANCED = "uniform", "balanced"


def image_weights(sampler: str | Sequence[float], labels: Tensor, class_names: Sequence[str]) -> Tensor | None:
    """The weight of each image, float64 (N,), or None for `uniform`.

    labels: int64 (N,). sampler: `uniform`; `balanced`, for which the images of a class share the weight 1; or a weight
    for each class, which each of its images has. ConfigError where no image could be drawn.
    """
    if sampler == UNIFORM:
        return None
    if sampler == BALANCED:
        counts = torch.bincount(labels, minlength=len(class_names))
        return 1 / counts[labels].double()
    if isinstance(sampler, str):
        raise ConfigError(f"data.sampler must be uniform, balanced or a weight for each class, got {sampler!r}")
    weights = torch.tensor(sampler, dtype=torch.float64)
    if weights.shape != (len(class_names),) or not weights.isfinite().all() or bool((weights < 0).any()):
        raise ConfigError(f"data.sampler must have one weight of at least 0 for each of the {len(class_names)} classes")
    if not weights[labels].any():
        names = ", ".join(name for name, weight in zip(class_names, weights.tolist(), strict=True) if weight)
        raise ConfigError(
            "data.sampler is 0 for every class that has training images, so none could be drawn; the classes of a "
            f"larger weight ({names or 'none'}) have none"
        )
    return weights[labels]


def drawn(weights: Tensor, generator: torch.Generator) -> Tensor:
    """As many positions, int64 (N,), as there are weights, float64 (N,): with replacement, in proportion to these."""
    ends = weights.cumsum(0)
    places = torch.rand(len(weights), generator=generator, dtype=torch.float64) * ends[-1]
    # The first end above a place, so that no position of weight 0 is drawn; a place may be rounded to the last end.
    return torch.searchsorted(ends, places, right=True).clamp(max=int(weights.nonzero()[-1]))
