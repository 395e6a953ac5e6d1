"""Name a key that only some choices of a search have, and the line that seeks it with these alone."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmx.config.printed_command import printed_command
from fmx.errors import ConfigError, chain
from fmx.sweeps.search.distributions import choices
from fmx.sweeps.search.space import Condition, key_of, tags_of
from fmx.sweeps.search.swept import Swept, plain_key

__all__ = ["naming_partial_keys"]

CALL = re.compile(r"\w+\(.*\)")
TAG = "tag("


@contextmanager
def naming_partial_keys(
    sought: Sequence[tuple[Swept, Condition]], fixed: Mapping[str, str], compose: Callable[[list[str]], DictConfig]
) -> Iterator[None]:
    """Replace an error about an unknown key by one that says which choices have it, and what to type.

    fixed: the overrides of every trial by key. compose: the configuration with these overrides alone.
    """
    try:
        yield
    except Exception as error:
        if any(isinstance(cause, OmegaConfBaseException) for cause in chain(error)):
            for message in _messages(sought, fixed, compose):
                raise ConfigError(message) from error
        raise


def _messages(
    sought: Sequence[tuple[Swept, Condition]], fixed: Mapping[str, str], compose: Callable[[list[str]], DictConfig]
) -> Iterator[str]:
    space = choices(sought)
    of_all = [text for key, text in fixed.items() if "." not in key]
    lines: list[tuple[str, str, Condition, tuple[str, ...]]] = [(key, text, {}, ()) for key, text in fixed.items()]
    lines += [(each.key, each.line, when, each.tags) for each, when in sought]
    for group in [each for each in space.parameters if "." not in each.key]:
        configs: dict[str, object] = {}
        for choice in group.corners():
            values = next(each for each in space.corners() if each.get(group.name) == choice)
            chosen = space.overrides({key: value for key, value in values.items() if "." not in key_of(key)})
            with suppress(Exception):  # this choice is what is wrong
                configs[choice] = OmegaConf.to_container(compose([*of_all, *chosen]))
        for key, line, when, tags in lines:
            have = tuple(choice for choice, config in configs.items() if _has(config, key))
            own = plain_key(group.key)
            if "." in key and line[0] not in "+~" and own not in when and 0 < len(have) < len(configs):
                instead = _tagged(line, [*tags_of({own: have}), *(tag for tag in tags if tag not in line)])
                yield (
                    f"{line}: of {own}={','.join(configs)} only {' and '.join(have)} "
                    f"{'has' if len(have) == 1 else 'have'} this key; write {printed_command(instead)}"
                )


def _has(config: object, key: str) -> bool:
    """Whether a configuration has a key, whatever its value."""
    node = config
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _tagged(line: str, tags: Sequence[str]) -> str:
    """An override with these tags besides its own."""
    key, _, value = line.partition("=")
    if value.startswith(TAG):
        value = value.removeprefix(TAG).removesuffix(")")
    elif not CALL.fullmatch(value):
        value = f"choice({value})"
    return f"{key}={TAG}{','.join(tags)},{value})"
