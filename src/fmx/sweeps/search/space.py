"""The space of a search: parameters with their distributions, and the branches in which each of them is sought."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice, product
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from fmx.config.quoting import quoted
from fmx.errors import ConfigError

__all__ = ["Condition", "Parameter", "Space", "by_key", "key_of", "tags_of"]

MAX_GRID = MAX_BRANCHES = 100_000
ALL_CHECKED = 50  # branches; of more, as few are checked as have every choice and every parameter
PLAIN = re.compile(r"[\w.+-]+")
Condition = Mapping[str, tuple[str, ...]]  # choices by key


def tags_of(condition: Condition) -> list[str]:
    """A condition as tags in Hydra's grammar: `optim:sgd`."""
    texts = [f"{key}:{choice}" for key, choices in condition.items() for choice in choices]
    return [text if PLAIN.fullmatch(text.replace(":", "", 1).replace("/", "")) else quoted(text) for text in texts]


def key_of(name: str) -> str:
    """The key of a parameter by its name."""
    return name.partition(" ")[0]


def by_key(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a trial by key. values: by name."""
    return {key_of(name): value for name, value in values.items()}


@dataclass(frozen=True)
class Parameter:
    """A key of the configuration and the distribution of its values. Choices are texts, as in an override.

    when: it is sought only in trials in which each of these keys has one of these choices. name: in the study; the key,
    and the tags too where the key has other distributions in other branches.
    """

    key: str
    distribution: BaseDistribution
    when: Condition = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.key)

    @property
    def is_choice(self) -> bool:
        """Whether its values have no order."""
        return isinstance(self.distribution, CategoricalDistribution)

    def is_sought(self, drawn: Mapping[str, Any]) -> bool:
        """Whether a trial has this parameter. drawn: what has been drawn before it, by key."""
        return all(drawn.get(key) in choices for key, choices in self.when.items())

    def override(self, value: Any) -> str:
        """The value as an override."""
        return f"{self.key}={value if isinstance(value, str) else repr(value)}"

    def description(self) -> str:
        """The distribution in Hydra's sweep syntax; an interval includes both ends."""
        drawn, tags = self.distribution, tags_of(self.when)
        if isinstance(drawn, CategoricalDistribution):
            text = f"choice({','.join(map(str, drawn.choices))})"
        else:
            assert isinstance(drawn, IntDistribution | FloatDistribution)
            steps = drawn.step is not None and not (isinstance(drawn, IntDistribution) and drawn.step == 1)
            text = f"interval({drawn.low:g},{drawn.high:g})" + (f" in steps of {drawn.step:g}" if steps else "")
            tags += ["log"] if drawn.log else []
        return f"tag({','.join(tags)},{text})" if tags else text

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
    """The parameters of a search, each after those that its condition names.

    A branch is one choice of every key that conditions name. Values of a trial are by the parameters' names.
    """

    parameters: tuple[Parameter, ...]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The distributions by name, as Optuna takes them."""
        return {each.name: each.distribution for each in self.parameters}

    @property
    def has_branches(self) -> bool:
        """Whether some parameters are sought in some trials only."""
        return any(each.when for each in self.parameters)

    def draw(self, value_of: Callable[[Parameter], Any]) -> dict[str, Any]:
        """The values of one trial: of each parameter that is sought with those before it."""
        by_key, values = dict[str, Any](), dict[str, Any]()
        for each in self.parameters:
            if each.is_sought(by_key):
                by_key[each.key] = values[each.name] = value_of(each)
        return values

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The values of a trial as overrides."""
        return [each.override(values[each.name]) for each in self.parameters if each.name in values]

    def sought(self, branch: Mapping[str, Any]) -> list[Parameter]:
        """The parameters of a branch."""
        names = self.draw(lambda each: branch.get(each.name))
        return [each for each in self.parameters if each.name in names]

    @cached_property
    def branches(self) -> list[dict[str, str]]:
        """The choices of each branch by name: all combinations that can be drawn; one of none in a plain space."""
        named = {key for each in self.parameters for key in each.when}
        found = [dict(each) for each in islice(self._branches(0, {}, {}, named), MAX_BRANCHES + 1)]
        if len(found) > MAX_BRANCHES:
            raise ConfigError(
                f"the space has more than {MAX_BRANCHES:,} branches: fewer of its keys may depend on others"
            )
        return found

    def _branches(
        self, place: int, by_key: Mapping[str, Any], chosen: Mapping[str, str], named: set[str]
    ) -> Iterator[Mapping[str, str]]:
        """The branches that begin with these choices, which are of the parameters before `place`."""
        if place == len(self.parameters):
            yield chosen
            return
        each = self.parameters[place]
        choices = each.grid() if each.key in named and each.is_sought(by_key) else []
        for choice in choices:
            yield from self._branches(place + 1, {**by_key, each.key: choice}, {**chosen, each.name: choice}, named)
        if not choices:
            yield from self._branches(place + 1, by_key, chosen, named)

    def corners(self) -> list[dict[str, Any]]:
        """Trials with every choice and both ends of every interval, in each branch.

        Of many branches, those that have every choice and every parameter.
        """
        return list(chain.from_iterable(map(self._corners, self.checked_branches())))

    def checked_branches(self) -> list[dict[str, str]]:
        """The branches that `corners` visits."""
        if len(self.branches) <= ALL_CHECKED:
            return self.branches
        seen, taken = set[Any](), []
        for branch in self.branches:
            new = {*branch.items(), *(each.name for each in self.sought(branch))}
            if new - seen:
                taken.append(branch)
                seen |= new
        return taken

    def _corners(self, branch: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        sought = self.sought(branch)
        first = {each.name: branch.get(each.name, each.corners()[0]) for each in sought}
        yield first
        for each in sought:
            if each.name not in branch:
                yield from (first | {each.name: value} for value in each.corners()[1:])

    @cached_property
    def num_points(self) -> int:
        """How many configurations a grid has; ConfigError if there are too many, or infinitely many."""
        count = 0
        for branch in self.branches:
            points = 1
            for each in self.sought(branch):
                points *= 1 if each.name in branch else len(each.grid())
            count += points
        if count > MAX_GRID:
            raise ConfigError(
                f"hydra.sweeper.sampler=grid has {count:,} points here; widen the steps, or use another sampler"
            )
        return count

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """Every configuration of a grid, branch by branch."""
        assert self.num_points <= MAX_GRID
        found = []
        for branch in self.branches:
            grids = {
                each.name: [branch[each.name]] if each.name in branch else each.grid() for each in self.sought(branch)
            }
            found += [dict(zip(grids, values, strict=True)) for values in product(*grids.values())]
        return found

    def grid(self) -> dict[str, Sequence[Any]]:
        """Every value of each parameter of a space without branches."""
        assert not self.has_branches
        return {each.name: each.grid() for each in self.parameters}

    def description(self) -> dict[str, str]:
        """Each distribution in Hydra's sweep syntax, by name."""
        return {each.name: each.description() for each in self.parameters}
