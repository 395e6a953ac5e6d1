"""The fully connected layers that end most of the networks."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from fmx.models.sizes import positive_list

__all__ = ["fully_connected"]


def fully_connected(num_features: int, hidden_sizes: Sequence[int], num_classes: int) -> nn.Sequential:
    """Return linear layers of `hidden_sizes`, each with ReLU, and a last one without, which gives the logits.

    Maps (B, num_features) to (B, num_classes). No hidden layer at all is softmax regression.
    """
    sizes = [num_features, *positive_list("hidden_sizes", hidden_sizes)]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
