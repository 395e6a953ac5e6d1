"""Muon for the matrices of a network, with AdamW for the rest, as one optimizer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

__all__ = ["MuonAdamW"]

MATRIX = 2  # dimensions


class MuonAdamW(Optimizer):
    """torch's Muon for weights of at least two dimensions, and torch's AdamW for all other parameters.

    A convolution's weight (out, in, h, w) is the matrix (out, in * h * w). A single row or column, such as a class
    token (1, 1, width), is none. Both have the same rate and weight decay: with adjust_lr_fn="match_rms_adamw" a step
    of Muon is as large as one of AdamW. muon: False gives a group's matrices to AdamW too, which Jordan advises for the
    first and the last layer.

    Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024
    (https://kellerjordan.github.io/posts/muon/). The size of a step: Liu et al., Muon is Scalable for LLM Training,
    2025 (arXiv:2502.16982), section 2.2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        adjust_lr_fn: str | None,
        betas: Sequence[float],
        eps: float,
        muon: bool,
    ) -> None:
        weight = [nn.Parameter(torch.zeros(2, 2))]  # each checks its values, and has defaults for the keys of a group
        self._adamw = AdamW(weight, lr, (betas[0], betas[1]), eps, weight_decay)
        self._muon = Muon(
            weight, lr, weight_decay, momentum, nesterov, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn
        )  # fmt: skip
        super().__init__(params, {**self._muon.defaults, **self._adamw.defaults, "muon": muon})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step of both; returns the loss of the closure, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._adamw.state, self._adamw.param_groups = self.state, []
        self._muon.state, self._muon.param_groups = {}, []  # type: ignore[assignment]
        for group in self.param_groups:
            given = [each for each in group["params"] if each.grad is not None]
            matrices = [each for each in given if group["muon"] and _is_matrix(each)]
            taken = {id(each) for each in matrices}
            self._adamw.param_groups.append({**group, "params": [each for each in given if id(each) not in taken]})
            views = [_as_matrix(each) for each in matrices]
            for parameter, view in zip(matrices, views, strict=True):
                self._muon.state[view] = self.state[parameter]
            self._muon.param_groups.append({**group, "params": views})
        self._adamw.step()
        self._muon.step()  # type: ignore[no-untyped-call]
        return loss


def _is_matrix(weight: Tensor) -> bool:
    return weight.dim() >= MATRIX and 1 < len(weight) < weight.numel()


def _as_matrix(weight: Tensor) -> Tensor:
    """A matrix (rows, columns) that shares the memory of a weight and has its gradient.

    The order of the columns is that of the memory: the update is the same in any order.
    """
    order = sorted(range(1, weight.dim()), key=weight.stride, reverse=True)
    assert weight.grad is not None
    view = weight.detach().permute(0, *order).flatten(1)
    view.grad = weight.grad.permute(0, *order).flatten(1)
    return view
