"""Learning-rate schedules: any torch scheduler, with its length filled in, after an optional linear warm-up."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from fmx.errors import ConfigError

__all__ = ["Schedule"]

# What torch's schedulers call their length; null in the YAML means "as long as the training".
LENGTHS = ("total_steps", "T_max", "total_iters")
# Arguments of torch's schedulers that may be a list with one value per group of parameters.
PER_GROUP = ("max_lr", "base_lr", "min_lr", "base_momentum", "max_momentum", "lr_lambda")
# Schedulers that set the rate by a formula instead of multiplying the present one.
FROM_FORMULA = (CosineAnnealingWarmRestarts, CyclicLR, LambdaLR)


class MultipliedCosine(CosineAnnealingLR):
    """torch's cosine annealing, as a factor on the previous rate, so that a warm-up can multiply it.

    torch's own scheduler adds steps towards eta_min, which a warm-up would shift.
    """

    def get_lr(self) -> list[float | Tensor]:
        """Return the next rate of each group."""
        if self.last_epoch == 0:
            return [group["lr"] for group in self.optimizer.param_groups]
        return [
            group["lr"] * (self._rate(self.last_epoch, base) / self._rate(self.last_epoch - 1, base))
            for base, group in zip(self.base_lrs, self.optimizer.param_groups, strict=True)
        ]

    def _rate(self, step: int, base: Any) -> Any:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * step / self.T_max)) / 2


class FollowingGroups:
    """Lets a scheduler set the rate of one group of parameters; the other groups keep their ratio to it.

    torch's schedulers have one length, one maximum or one minimum for all groups, and take no group that is added
    later. Another rate that a callback gives a group is its ratio from then on. The one group is that with the
    optimizer's own rate, or else the first.
    """

    optimizer: Optimizer

    def step(self, *arguments: Any) -> None:
        """Set the rates of the next step or epoch."""
        if len(self.optimizer.param_groups) == 1:
            super().step(*arguments)  # type: ignore[misc]
            return
        with _one_group(self.optimizer):
            super().step(*arguments)  # type: ignore[misc]
        _follow(self.optimizer.param_groups, momentum=getattr(self, "cycle_momentum", False))


@contextmanager
def _one_group(optimizer: Optimizer, rate: float | None = None) -> Iterator[None]:
    """Let the optimizer have the group alone whose rate the others follow, and note their ratios to it.

    rate: of that group, where none is known to be it.
    """
    groups = optimizer.param_groups
    leader = _leader(groups, rate)
    for group in groups:
        # A group may be new, or somebody may have changed its rate.
        if "lr_factor" not in group or (leader["lr"] and group["lr"] != leader["lr"] * group["lr_factor"]):
            group["lr_factor"] = group["lr"] / leader["lr"] if leader["lr"] else 1.0
    optimizer.param_groups = [leader]
    try:
        yield
    finally:
        optimizer.param_groups = groups


def _leader(groups: Sequence[dict[str, Any]], rate: float | None = None) -> dict[str, Any]:
    leading = [group for group in groups if group.get("lr_factor") == 1]
    return next(iter(leading or [group for group in groups if group["lr"] == rate]), groups[0])


def _follow(groups: Sequence[dict[str, Any]], *, momentum: bool) -> None:
    leader = _leader(groups)
    for group in groups:
        if group is not leader:
            group["lr"] = leader["lr"] * group["lr_factor"]
            group |= {key: leader[key] for key in ("momentum", "betas") if momentum and key in group}


def _for_groups(make: Callable[..., LRScheduler], optimizer: Optimizer) -> LRScheduler:
    """A scheduler whose groups keep their ratios, unless it has values of its own for each of them."""
    given = make.keywords if isinstance(make, partial) else {}
    if any(isinstance(given.get(name), list | tuple) for name in PER_GROUP):
        return make(optimizer)
    if len(optimizer.param_groups) == 1:
        scheduler = make(optimizer)
    else:
        with _one_group(optimizer, optimizer.defaults.get("lr")):
            scheduler = make(optimizer)
        _follow(optimizer.param_groups, momentum=getattr(scheduler, "cycle_momentum", False))
    kind = type(scheduler)
    scheduler.__class__ = type(kind.__name__, (FollowingGroups, kind), {})
    return scheduler


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Makes the schedulers of a run once its length is known.

    scheduler: a partial of a torch scheduler that lacks its optimizer, or None for a constant rate. interval: when it
    steps, `step` or `epoch` (a plateau scheduler: at the end of each epoch that ends with a validation). The warm-up
    rises linearly over `warmup_epochs` epochs, or over `warmup_steps` steps, and multiplies the schedule.
    """

    scheduler: Callable[..., LRScheduler] | None
    interval: str
    warmup_epochs: float
    warmup_steps: int

    def __post_init__(self) -> None:
        kind = self.scheduler.func if isinstance(self.scheduler, partial) else self.scheduler
        if not (self.warmup_epochs or self.warmup_steps):
            return
        if kind is OneCycleLR:
            raise ConfigError("schedule=onecycle rises by itself: set schedule.scheduler.pct_start and no warm-up")
        if kind in FROM_FORMULA:
            raise ConfigError(
                f"{kind.__name__} computes the rate anew at each step, whatever a warm-up made of it; set "
                "schedule.warmup_epochs=0 and schedule.warmup_steps=0"
            )

    def __call__(
        self, optimizer: Optimizer, *, steps_per_epoch: int, epochs: int, total_steps: int
    ) -> list[dict[str, Any]]:
        """Return Lightning's scheduler entries for a training of `total_steps` optimizer steps."""
        entries: list[dict[str, Any]] = []
        warmup = round(self.warmup_epochs * steps_per_epoch) or self.warmup_steps
        if self.scheduler is not None:
            length = total_steps if self.interval == "step" else epochs
            try:
                scheduler = _for_groups(self._with_length(length, warmup=warmup > 0), optimizer)
            except ZeroDivisionError:
                raise ConfigError(
                    f"schedule: a phase of exactly one of {length} steps makes torch divide by zero; change "
                    "schedule.scheduler.pct_start, or the length of the training"
                ) from None
            entries.append({"scheduler": scheduler, "interval": self.interval, "name": "lr"})
            if isinstance(scheduler, ReduceLROnPlateau):
                entries[0] |= {"monitor": "val/loss", "interval": "epoch"}
        if warmup:
            # torch's other schedulers are chainable: each multiplies the rate that the one before left.
            linear = partial(LinearLR, start_factor=1 / (warmup + 1), total_iters=warmup)
            warmup_scheduler = _for_groups(linear, optimizer)
            entries.append({"scheduler": warmup_scheduler, "interval": "step", "name": "warmup"})
        return entries

    def _with_length(self, length: int, *, warmup: bool) -> Callable[..., LRScheduler]:
        """Fill in the length where the YAML left it null."""
        assert self.scheduler is not None
        if not isinstance(self.scheduler, partial):
            return self.scheduler
        given = self.scheduler.keywords
        combines_with_warmup = warmup and self.scheduler.func is CosineAnnealingLR and given.get("eta_min")
        kind = MultipliedCosine if combines_with_warmup else self.scheduler.func
        return partial(kind, **given | {name: length for name in LENGTHS if name in given and given[name] is None})
