"""Groups of an optimizer's parameters: by name, by kind and by depth, each with its own rate and options."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fmx.config.suggest import nearest
from fmx.errors import ConfigError, first_line
from fmx.models.adapted_net import AdaptedNet
from fmx.models.layers import layers, named_parameters

__all__ = ["OptimizerFactory", "ParameterGroups", "find_parameters", "listed", "named", "rates"]

log = logging.getLogger(__name__)
OptimizerFactory = Callable[..., Optimizer]  # of parameters or groups of them, and of options
BASE, THAWED = "base", "thawed"  # names: of the group with the optimizer's own rate; of parameters with a factor
WITHOUT_DECAY = "/no_decay"  # ends the name of a group beside the one of that name: two of one rate
OWN = ("params", "lr_factor")  # keys of a group that are no option of the optimizer
# Their weights may have several dimensions; those of other normalisations are vectors.
NORMS = (nn.LayerNorm, nn.RMSNorm)
MANY = 6  # names that a message lists


@dataclass(frozen=True, kw_only=True)
class ParameterGroups:
    """How an optimizer's parameters are divided into groups.

    groups: by name, a mapping with `params` (one or several patterns, see find_parameters), and with `lr_factor` or
        options of the optimizer; None for none.
    no_decay: `norm_and_bias` for no weight decay of vectors, biases and weights of normalisations, and of what the
        network itself lists in `no_weight_decay()`, as timm's do; None for the same decay everywhere.
    layer_decay: the rate of a layer divided by the rate of the one after it, or None. Howard and Ruder, Universal
        Language Model Fine-tuning, 2018 (arXiv:1801.06146), section 3.2; by block as in BEiT (arXiv:2106.08254).
    """

    groups: Mapping[str, Mapping[str, Any]] | None
    no_decay: str | None
    layer_decay: float | None

    @property
    def is_one(self) -> bool:
        """Whether all parameters are in one group."""
        return self.groups is None and self.no_decay is None and self.layer_decay is None

    def make(self, factory: OptimizerFactory, parts: nn.Module, factors: Mapping[str, float]) -> Optimizer:
        """Make the optimizer of the trainable parameters of a Classifier, or of any module with a `net`.

        factors: of the rates of single parameters, by name, besides. The first group always has the rate of the
        optimizer itself; each has its ratio to that as `lr_factor`. ConfigError: a pattern or an option that does not
        fit.
        """
        parameters = {name: each for name, each in named(parts).items() if each.requires_grad}
        if self.is_one and all(factor == 1 for factor in factors.values()):
            return factory(list(parameters.values()))
        groups = self._divided(parts, parameters, factors)
        try:
            optimizer = factory(groups)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optim: groups of parameters do not go with this optimizer: {error}") from error
        self._check_options(factory, optimizer)
        base = optimizer.defaults["lr"]
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_factor"]
            group["lr_factor"] = group["lr"] / base
        return optimizer

    def describe(self, optimizer: Optimizer) -> str:
        """The rate of each group, and what is not decayed, in one line; empty for an optimizer of one group."""
        groups = sorted(
            filter(lambda group: group["params"], optimizer.param_groups), key=lambda g: g.get("lr_factor") == 1
        )
        shown = [f"{name} {rate:.3g}" for name, rate in rates(groups).items()]
        if len(optimizer.param_groups) == 1:
            return ""
        without = [len(group["params"]) for group in groups if self.no_decay and group["weight_decay"] == 0]
        decay = f" · no weight decay of {sum(without)} of {sum(len(g['params']) for g in groups)} parameters"
        return f"learning rates: {', '.join(shown)}{decay if self.no_decay else ''}"

    def _divided(
        self, parts: nn.Module, parameters: Mapping[str, nn.Parameter], factors: Mapping[str, float]
    ) -> list[dict[str, Any]]:
        group_of = self._groups_by_parameter(parts, parameters)
        layer_of, scale_of = self._layers_by_parameter(parts)
        not_decayed = _not_decayed(parts) if self.no_decay else set()
        found: dict[Any, dict[str, Any]] = {}
        for name, parameter in parameters.items():
            key = group_of.get(name)
            options = {k: v for k, v in (self.groups or {})[key].items() if k not in OWN} if key else {}
            scale = scale_of.get(name, 1.0) * factors.get(name, 1.0)
            factor = scale * ((self.groups or {})[key].get("lr_factor", 1.0) if key else 1.0)
            decays = name not in not_decayed
            label = "/".join(filter(None, [key, layer_of.get(name), THAWED if factors.get(name, 1) != 1 else None]))
            place = (label, factor, decays)
            if place not in found:
                options |= {} if decays else {"weight_decay": 0.0}
                group_name = f"{label or BASE}{'' if decays else WITHOUT_DECAY}"
                found[place] = {"params": [], "lr_factor": factor, "name": group_name, **options}
            found[place]["params"].append(parameter)
        # A schedule is of the first group's rate, which the others follow.
        ordered = sorted(found.values(), key=lambda group: "lr" in group or group["lr_factor"] != 1)
        if not ordered or "lr" in ordered[0] or ordered[0]["lr_factor"] != 1:
            ordered.insert(0, {"params": [], "lr_factor": 1.0, "name": BASE})
        return ordered

    def _groups_by_parameter(self, parts: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
        group_of: dict[str, str] = {}
        for key, group in (self.groups or {}).items():
            taken = find_parameters(parts, group["params"], f"optim.groups.{key}.params")
            if not parameters.keys() & taken:
                raise ConfigError(
                    f"optim.groups.{key}.params: all of its parameters are frozen ({listed(taken)}); "
                    "model.net.freeze=false trains them"
                )
            if both := [name for name in taken if name in group_of]:
                raise ConfigError(
                    f"optim.groups: {listed(both)} {'is' if len(both) == 1 else 'are'} in {group_of[both[0]]} and in "
                    f"{key}; a parameter may be in one group: make one of the patterns narrower"
                )
            group_of |= dict.fromkeys(taken, key)
        return group_of

    def _layers_by_parameter(self, parts: nn.Module) -> tuple[dict[str, str], dict[str, float]]:
        """The layer and the factor of each parameter; those outside of the network have the last layer's rate."""
        if self.layer_decay is None:
            return {}, {}
        found = layers(parts.get_submodule("net"))
        layer_of = {name: layer for layer, names in found.items() for name in names}
        scales = {layer: self.layer_decay ** (len(found) - 1 - depth) for depth, layer in enumerate(found)}
        return layer_of, {name: scales[layer] for name, layer in layer_of.items()}

    def _check_options(self, factory: OptimizerFactory, optimizer: Optimizer) -> None:
        """ConfigError for an option that the optimizer would not read, or a value that it refuses for all."""
        if "lr" not in optimizer.defaults:
            raise ConfigError(f"optim: {type(optimizer).__name__} has no option lr, so its groups cannot have rates")
        if self.no_decay and "weight_decay" not in optimizer.defaults:
            raise ConfigError(
                f"optim.no_decay={self.no_decay}: {type(optimizer).__name__} has no weight_decay; set it to null"
            )
        for key, group in (self.groups or {}).items():
            for option in group:
                if option not in {*optimizer.defaults, *OWN}:
                    raise ConfigError(
                        f"optim.groups.{key}.{option}: {type(optimizer).__name__} has no option {option!r}"
                        f"{nearest(option, [*optimizer.defaults, *OWN])} A group takes: lr_factor, "
                        f"{', '.join(optimizer.defaults)}"
                    )
            try:
                factory([nn.Parameter(torch.zeros(2, 2))], **{k: v for k, v in group.items() if k not in OWN})
            except (TypeError, ValueError) as error:
                raise ConfigError(f"optim.groups.{key}: {first_line(error)}") from error


def rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The rates of an optimizer's groups by name, or else by number; twins without decay are one."""
    return {
        str(group.get("name", number)).removesuffix(WITHOUT_DECAY): float(group["lr"])
        for number, group in enumerate(groups, start=1)
    }


def find_parameters(parts: nn.Module, patterns: str | Sequence[str], key: str) -> list[str]:
    """The names of the parameters that patterns match: the name of a parameter, or of a module for all below it.

    `*`, `?` and `[ab]` match as in names of files. ConfigError where a pattern matches nothing; key: where it stands.
    """
    names = list(named(parts))
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matching = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        if not matching:
            places = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
            raise ConfigError(
                f"{key}: no parameter and no layer is named {pattern!r}{nearest(pattern.rstrip('.*'), sorted(places))} "
                f"Names: {listed(sorted(places, key=lambda place: (place.count('.'), _position(names, place))))}"
            )
        found += [name for name in matching if name not in found]
    return found


def _position(names: Sequence[str], place: str) -> int:
    """The position of the first parameter below a place."""
    return next(number for number, name in enumerate(names) if f"{name}.".startswith(f"{place}."))


def named(parts: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the network by its names, then those of the other parts, such as `loss.temperature`."""
    named = named_parameters(parts.get_submodule("net"))
    others = {name: each for name, each in parts.named_parameters() if not name.startswith("net.")}
    return named | others


def _not_decayed(parts: nn.Module) -> set[str]:
    net = parts.get_submodule("net")
    inner = net.net if isinstance(net, AdaptedNet) else net
    own: Iterable[str] = getattr(inner, "no_weight_decay", set)()
    norms = {id(each) for module in parts.modules() if isinstance(module, NORMS) for each in module.parameters()}
    return {
        name
        for name, each in named(parts).items()
        if each.dim() <= 1 or name.endswith(".bias") or name in own or id(each) in norms
    }


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:MANY]) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")
