"""In which trials a key is sought, from its tags: `tag(sgd,interval(0.5,0.99))` is sought where sgd is chosen.

A tag is a choice, or `KEY:CHOICE`. Tags of one key are alternatives; those of different keys must all hold.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from fmx.config.suggest import nearest
from fmx.errors import ConfigError
from fmx.sweeps.search.space import Condition, Space, by_key, tags_of
from fmx.sweeps.search.swept import LOG, Swept, plain_key

__all__ = ["Members", "check_branches", "conditions"]

log = logging.getLogger(__name__)
Members = Callable[[str], Collection[str]]  # the members of a group, none of any other key


def conditions(swept: Sequence[Swept], fixed: Mapping[str, str], members: Members) -> list[tuple[Swept, Condition]]:
    """Distributions with their conditions, each after those that its condition names.

    Leaves out, and logs, those whose condition cannot hold here. fixed: the overrides of every trial by key.
    ConfigError for a tag that names no choice, and for distributions that wait for each other.
    """
    for each in swept:
        if text := fixed.get(each.key):
            raise ConfigError(
                f"{text} holds in every trial, and {each.line} in some; give both their tags: "
                f"'{each.key}=tag(CHOICE,choice({text.partition('=')[2]}))'"
            )
    tags = _Tags(swept, fixed, members)
    left = [(each, tags.condition(each)) for each in swept]
    ordered: list[tuple[Swept, Condition]] = []
    drawn: dict[str, set[str]] = {}  # choices by key
    while left:
        waiting = {each.key for each, _ in left}
        ready = next((pair for pair in left if not waiting & pair[1].keys()), None)
        if ready is None:
            keys = sorted(waiting)
            wait = f"{' and '.join(keys)} wait for each other" if len(keys) > 1 else f"{keys[0]} waits for itself"
            raise ConfigError(f"{left[0][0].line}: {wait}")
        left.remove(ready)
        each, when = ready
        if all(drawn.get(key, set()) & {*choices} for key, choices in when.items()):
            ordered.append(ready)
            drawn.setdefault(each.key, set()).update(each.choices or [])
        else:
            log.info("%s is not sought: no trial of this search has that choice", each.line)
    return ordered


class _Tags:
    """Reads the tags of a search."""

    def __init__(self, swept: Sequence[Swept], fixed: Mapping[str, str], members: Members) -> None:
        self._choices: dict[str, list[str]] = {}  # of each key with a distribution; none of an interval
        for each in swept:
            self._choices.setdefault(each.key, []).extend(each.choices or [])
        self._fixed = {key: [text.partition("=")[2]] for key, text in fixed.items() if key not in self._choices}
        self._members = members

    def condition(self, swept: Swept) -> Condition:
        """The condition of a distribution; a key without choices where it cannot hold."""
        found: dict[str, tuple[str, ...]] = {}
        for tag in swept.tags:
            key, choices = self._read(tag, swept.line)
            found[key] = tuple(sorted({*found.get(key, ()), *choices}))
        return {key: found[key] for key in sorted(found) if key in self._choices or not found[key]}

    def _read(self, tag: str, line: str) -> tuple[str, tuple[str, ...]]:
        """The key and the choices that a tag names; no choices for a member that this search leaves out."""
        key, colon, name = (part.strip() for part in tag.partition(":"))
        if not colon:
            return self._of_any_key(key, line)
        texts = self._choices.get(key, self._fixed.get(key))
        if texts is None:
            raise ConfigError(f"{line}: {key} has no choices here: add {key}={name},OTHER. {self._all}")
        if not texts:
            raise ConfigError(f"{line}: {key} is drawn from numbers, and a tag names one of {key}=choice({name},OTHER)")
        found, members = _matching(name, key, texts), self._members(key)
        if not found and name not in members and (members or key in self._choices):
            near = nearest(name, texts)
            raise ConfigError(f"{line}: {key} has no choice {name!r} here{near} Choices: {', '.join(texts)}")
        return key, found

    def _of_any_key(self, name: str, line: str) -> tuple[str, tuple[str, ...]]:
        """The key that has a choice of this name; else one with that fixed value; else a group with such a member."""
        left_out: dict[str, tuple[str, ...]] = {
            key: () for key in self._choices | self._fixed if name in self._members(key)
        }
        for keys in (_all_matching(name, self._choices), _all_matching(name, self._fixed), left_out):
            if len(keys) > 1:
                tags = " or ".join(f"{key}:{name}" for key in keys)
                raise ConfigError(f"{line}: {name} is a choice of {' and of '.join(keys)}; write {tags}")
            if keys:
                return next(iter(keys.items()))
        every = [LOG, *(text for texts in self._choices.values() for text in texts)]
        raise ConfigError(f"{line}: there is no tag {name!r}{nearest(name, every)} {self._all}")

    @property
    def _all(self) -> str:
        named = tags_of({key: tuple(dict.fromkeys(texts)) for key, texts in self._choices.items()})
        return f"Tags: {', '.join([LOG, *named])}"


def _all_matching(name: str, choices: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    matching = {key: _matching(name, key, texts) for key, texts in choices.items()}
    return {key: found for key, found in matching.items() if found}


def _matching(name: str, key: str, texts: Sequence[str]) -> tuple[str, ...]:
    """The choices that a name means: an equal one, or the lists of a group's members that have it."""
    found = [text for text in texts if name in {text.strip("'\""), {"True": "true", "False": "false"}.get(text)}]
    if not found and "." not in key:
        found = [text for text in texts if text[:1] == "[" and name in map(str.strip, text[1:-1].split(","))]
    return tuple(found)


def check_branches(space: Space) -> None:
    """ConfigError for a parameter that no branch has, and for a key that has two distributions in one."""
    reached = set[str]()
    for branch in space.branches:
        names: dict[str, str] = {}
        for each in space.sought(branch):
            reached.add(each.name)
            key = plain_key(each.key)
            if names.setdefault(key, each.name) != each.name:
                chosen = " ".join(f"{other}={value}" for other, value in by_key(branch).items())
                raise ConfigError(
                    f"{key} has two distributions{f' where {chosen}' if chosen else ''}; give each of them its tags: "
                    f"'{key}=tag(CHOICE,...)'"
                )
    for each in space.parameters:
        if each.name not in reached:
            tags = ",".join(tags_of(each.when))
            raise ConfigError(f"{each.key}=tag({tags},...) is never sought: no trial has all of these choices")
