"""The distributions of a search, from Hydra's own sweep syntax."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from fmx.config.suggest import nearest
from fmx.errors import ConfigError

__all__ = ["Parameter", "Space", "read_space", "split"]

EXAMPLE = "'optim.lr=tag(log,interval(1e-4,1e-1))' or model=mlp,lenet"
WHOLE = re.compile(r"interval\(\s*(?:start\s*=\s*)?[+-]?\d+\s*,\s*(?:end\s*=\s*)?[+-]?\d+\s*\)")
MAX_GRID = 100_000


@dataclass(frozen=True)
class Parameter:
    """A key of the configuration and the distribution of its values. Choices are texts, as in an override."""

    key: str
    distribution: BaseDistribution

    def override(self, value: Any) -> str:
        """The value as an override."""
        return f"{self.key}={value if isinstance(value, str) else repr(value)}"

    def description(self) -> str:
        """The distribution in Hydra's sweep syntax; an interval includes both ends."""
        drawn = self.distribution
        if isinstance(drawn, CategoricalDistribution):
            return f"choice({','.join(map(str, drawn.choices))})"
        assert isinstance(drawn, IntDistribution | FloatDistribution)
        steps = drawn.step is not None and not (isinstance(drawn, IntDistribution) and drawn.step == 1)
        text = f"interval({drawn.low:g},{drawn.high:g})" + (f" in steps of {drawn.step:g}" if steps else "")
        return f"tag(log,{text})" if drawn.log else text

    def corners(self) -> list[Any]:
        """Every choice, or both ends: if these are valid, so is what lies between."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return list(dict.fromkeys([self.distribution.low, self.distribution.high]))

    def grid(self) -> Sequence[Any]:
        """Every value that can be drawn; ConfigError for a continuous interval."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        low, high, step = self.distribution.low, self.distribution.high, self.distribution.step
        if step is None:
            raise ConfigError(
                f"hydra.sweeper.sampler=grid cannot count the values of {self.key}=interval({low:g},{high:g}); "
                f"write {self.key}=choice(A,B,C) or {self.key}=range(FROM,TO,STEP), or use another sampler"
            )
        return [low + number * step for number in range(round((high - low) / step) + 1)]


@dataclass(frozen=True)
class Space:
    """The parameters of a search, in the order in which they were given."""

    parameters: tuple[Parameter, ...]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The distributions by key, as Optuna takes them."""
        return {each.key: each.distribution for each in self.parameters}

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The values of a trial as overrides."""
        return [each.override(values[each.key]) for each in self.parameters]

    def grid(self) -> dict[str, Sequence[Any]]:
        """Every value of each parameter; ConfigError if there are too many combinations, or infinitely many."""
        grid = {each.key: each.grid() for each in self.parameters}
        if self.num_points(grid) > MAX_GRID:
            raise ConfigError(
                f"hydra.sweeper.sampler=grid has {self.num_points(grid):,} points here; widen the steps, or use "
                "another sampler"
            )
        return grid

    @staticmethod
    def num_points(grid: Mapping[str, Sequence[Any]]) -> int:
        """How many configurations a grid has."""
        points = 1
        for values in grid.values():
            points *= len(values)
        return points

    def description(self) -> dict[str, str]:
        """Each distribution in Hydra's sweep syntax, by key."""
        return {each.key: each.description() for each in self.parameters}


def split(
    params: Mapping[str, Any], arguments: Iterable[str], loader: ConfigLoader
) -> tuple[list[Override], list[Override]]:
    """The overrides that hold for every trial, and those with a distribution.

    params: of hydra.sweeper. arguments: of the command line, which replace params of the same key.
    """
    parser = OverridesParser.create(config_loader=loader)
    written = [_as_override(str(key), value) for key, value in params.items()]
    overrides = {each.key_or_group: each for each in parser.parse_overrides([*written, *arguments])}
    fixed = [each for each in overrides.values() if not each.is_sweep_override()]
    swept = [each for each in overrides.values() if each.is_sweep_override()]
    if not swept:
        raise ConfigError(
            f"a search needs a distribution to draw from, for example {EXAMPLE}; an experiment file gives them in "
            "hydra.sweeper.params"
        )
    return fixed, swept


def _as_override(key: str, value: Any) -> str:
    """An entry of hydra.sweeper.params as an override; a YAML list is a choice."""
    if isinstance(value, list):
        choices = ",".join(_text(each) for each in value)
        return f"{key}={choices}" if len(value) > 1 else f"{key}=choice({choices})"  # choice() takes no null
    return f"{key}={_text(value)}"


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def read_space(swept: Iterable[Override], base: DictConfig) -> Space:
    """The distributions of overrides; ConfigError for an invalid one.

    base: a composed configuration; where it has a float, an interval is one of floats.
    """
    return Space(tuple(Parameter(each.get_key_element(), _distribution(each, base)) for each in swept))


def _distribution(override: Override, base: DictConfig) -> BaseDistribution:
    sweep = override.value()
    log = _is_log(override, sweep)
    if override.is_choice_sweep():
        choices = list(dict.fromkeys(override.sweep_string_iterator()))
        if not choices:
            raise ConfigError(f"{override.input_line}: there is nothing to choose from")
        return CategoricalDistribution(choices)
    if isinstance(sweep, RangeSweep):
        return _range(override, sweep, log=log)
    assert isinstance(sweep, IntervalSweep)
    return _interval(override, sweep, base, log=log)


def _is_log(override: Override, sweep: Any) -> bool:
    tags = sweep.tags if isinstance(sweep, Sweep) else set()
    for tag in sorted(tags - {"log"}):
        raise ConfigError(f"{override.input_line}: there is no tag {tag!r}{nearest(tag, ['log'])} Tags: log")
    if tags and override.is_choice_sweep():
        raise ConfigError(f"{override.input_line}: choices have no order; tag(log,...) takes an interval")
    return bool(tags)


def _range(override: Override, sweep: RangeSweep, *, log: bool) -> BaseDistribution:
    values = sorted(sweep.range())
    if not values:
        raise ConfigError(f"{override.input_line}: the range is empty; its end is not part of it")
    step = abs(float(sweep.step))
    if log and (step != 1 or not isinstance(values[0], int)):
        raise ConfigError(f"{override.input_line}: steps and tag(log,...) exclude each other; use interval()")
    _check_log(override, values[0], log=log)
    if isinstance(values[0], int):
        return IntDistribution(values[0], int(values[-1]), step=int(step), log=log)
    return FloatDistribution(values[0], values[-1], step=step)


def _interval(override: Override, sweep: IntervalSweep, base: DictConfig, *, log: bool) -> BaseDistribution:
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    if not low < high:
        raise ConfigError(f"{override.input_line}: the lower end comes first, and the upper one is greater")
    _check_log(override, low, log=log)
    if _is_whole(override, low, base):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _is_whole(override: Override, low: object, base: DictConfig) -> bool:
    """Whether an interval is one of integers. Hydra converts both ends to floats, so look at the text and the key."""
    if isinstance(low, int):  # int(interval(...))
        return True
    default = OmegaConf.select(base, override.key_or_group) if "/" not in override.key_or_group else None
    return bool(WHOLE.search(str(override.input_line))) and not isinstance(default, float)


def _check_log(override: Override, low: float, *, log: bool) -> None:
    if log and low <= 0:
        raise ConfigError(f"{override.input_line}: tag(log,...) needs a lower end above 0, got {low:g}")
