"""The distributions of a search, from Hydra's own sweep syntax and the entries of `hydra.sweeper.params`."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from fmx.errors import ConfigError
from fmx.sweeps.search.conditions import check_branches
from fmx.sweeps.search.space import Condition, Parameter, Space, tags_of
from fmx.sweeps.search.swept import Swept, read_swept

__all__ = ["choices", "choices_of_groups", "read_space", "split"]

EXAMPLE = "'optim.lr=tag(log,interval(1e-4,1e-1))' or model=mlp,lenet"
WHOLE = re.compile(r"interval\(\s*(?:start\s*=\s*)?[+-]?\d+\s*,\s*(?:end\s*=\s*)?[+-]?\d+\s*\)")
NOT_YET_READ = CategoricalDistribution([""])  # stands for an interval or a range, which needs a composed configuration
FUNCTIONS = {"interval", "range", "choice"}  # of Hydra, which are written in a text
Compose = Callable[[list[str]], DictConfig]


def split(
    params: Mapping[str, Any], arguments: Iterable[str], loader: ConfigLoader
) -> tuple[list[Override], list[Swept]]:
    """The overrides that hold for every trial, and those with a distribution.

    params: of hydra.sweeper. arguments: of the command line, which replace params of the same key.
    """
    parser = OverridesParser.create(config_loader=loader)
    written = []
    for key, value in params.items():
        for text, tags in _texts(key, value):
            try:
                parsed = parser.parse_override(text)
            except HydraException:
                raise _unreadable(key, value) from None
            written.append(read_swept(parsed, tags))
    typed = [read_swept(each, ()) for each in parser.parse_overrides([*arguments])]
    effective = {(each.key, each.tags): each for each in written}
    of_file = {each.key for each in written}
    for each in typed:
        for key, tags in [*effective]:
            if key == each.key and tags != each.tags and (key in of_file or not each.tags):
                del effective[key, tags]
        of_file.discard(each.key)
        effective[each.key, each.tags] = each
    fixed = [each.override for each in effective.values() if not each.override.is_sweep_override()]
    swept = [each for each in effective.values() if each.override.is_sweep_override()]
    if not swept:
        raise ConfigError(
            f"a search needs a distribution to draw from, for example {EXAMPLE}; an experiment file gives them in "
            "hydra.sweeper.params"
        )
    return fixed, swept


def _texts(key: str, value: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """An entry of hydra.sweeper.params as overrides, each with its tags; a YAML mapping has a value for each choice."""
    if isinstance(value, Mapping) and (not value or FUNCTIONS & {*value} or any(map(_is_mapping, value.values()))):
        raise _unreadable(key, value)
    if not isinstance(value, Mapping):
        yield _as_override(str(key), value), ()
        return
    for tag, child in value.items():
        is_sweep = isinstance(child, list) or (isinstance(child, str) and re.match(r"\w+\(|.*,", child))
        yield _as_override(str(key), child if is_sweep else [child]), (_text(tag),)


def _as_override(key: str, value: Any) -> str:
    """An entry of hydra.sweeper.params as an override; a YAML list is a choice."""
    if isinstance(value, list):
        choices = ",".join(_text(each) for each in value)
        return f"{key}={choices}" if len(value) > 1 else f"{key}=choice({choices})"  # choice() takes no null
    return f"{key}={_text(value)}"


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _unreadable(key: str, value: Any) -> ConfigError:
    return ConfigError(
        f"hydra.sweeper.params: cannot read {key}: {value!r}. Write a list of values, a text such as "
        "'interval(0.1,0.5)' or 'tag(log,interval(1e-4,1e-1))', or a mapping from choices to these"
    )


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def read_space(sought: Sequence[tuple[Swept, Condition]], compose: Compose) -> Space:
    """The distributions of overrides; ConfigError for an invalid one.

    sought: overrides with their conditions, as `conditions` returns them. compose: the configuration with further
    overrides; where it has a float, an interval is one of floats.
    """
    space = choices(sought, all_keys=True)
    check_branches(space)
    read = list(space.parameters)
    composed: dict[tuple[str, ...], DictConfig] = {}
    for place, (each, _) in enumerate(sought):
        if each.choices is None:
            example = tuple(choices_of_groups(space, place))
            if example not in composed:
                composed[example] = compose([*example])
            read[place] = replace(read[place], distribution=_ordered(each, composed[example]))
    return Space(tuple(read))


def choices(sought: Sequence[tuple[Swept, Condition]], *, all_keys: bool = False) -> Space:
    """The space of the keys with choices; with `all_keys` also of the others, whose distributions are not yet read."""
    keys = [each.key for each, _ in sought]
    parameters = []
    for each, when in sought:
        if each.choices == []:
            raise ConfigError(f"{each.line}: there is nothing to choose from")
        if each.choices and each.is_log:
            raise ConfigError(f"{each.line}: choices have no order; tag(log,...) takes an interval")
        if each.choices or all_keys:
            drawn = CategoricalDistribution(each.choices) if each.choices else NOT_YET_READ
            name = f"{each.key} ({','.join(tags_of(when)) or 'else'})" if keys.count(each.key) > 1 else ""
            parameters.append(Parameter(each.override.get_key_element(), drawn, when, name))
    return Space(tuple(parameters))


def choices_of_groups(space: Space, place: int | None = None) -> list[str]:
    """The overrides of groups in a trial: in the first, or in the first that has the parameter at `place`."""
    name = space.parameters[place].name if place is not None else None
    values = next(each for each in space.corners() if name is None or name in each)
    groups = [each.name for each in space.parameters if each.is_choice and "." not in each.key]
    return space.overrides({each: values[each] for each in groups if each in values})


def _ordered(swept: Swept, base: DictConfig) -> BaseDistribution:
    """The distribution of a range or an interval."""
    sweep = swept.override.value()
    if isinstance(sweep, RangeSweep):
        return _range(swept.override, sweep, log=swept.is_log)
    assert isinstance(sweep, IntervalSweep)
    return _interval(swept.override, sweep, base, log=swept.is_log)


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
