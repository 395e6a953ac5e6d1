"""Hydra's and OmegaConf's exceptions in fmx's words: what is wrong, where, and the nearest right name."""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from fmx.composition import CONF_DIR
from fmx.errors import ConfigError, FmxError

__all__ = ["nearest", "translate"]


def nearest(name: str, choices: Iterable[str]) -> str:
    """`; did you mean 'dilated'?` where one of the choices is close to the name, else a full stop."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def translate(raised: BaseException) -> FmxError | None:
    """The ConfigError that says plainly what a Hydra or OmegaConf exception means; None for any other exception."""
    if isinstance(raised, MissingConfigException):
        return _missing_member(raised)
    if isinstance(raised, OverrideParseException):
        return ConfigError(f"cannot read the override {raised.override!r}: write KEY=VALUE, for example optim.lr=0.01")
    chain = list(_chain(raised))
    for cause in chain:  # a resolver of ours may have raised the plain error already
        if isinstance(cause, FmxError):
            return cause
    for cause in chain:
        if isinstance(cause, OmegaConfBaseException):
            return _bad_key(cause, raised)
    if isinstance(raised, ConfigCompositionException) and (group := re.match(r"Could not override '([^']+)'", str(raised))):
        return ConfigError(f"{group[1]!r} is no group or key{nearest(group[1], _groups())} Groups: {', '.join(_groups())}")
    if isinstance(raised, HydraException):
        return ConfigError(" ".join(str(raised).split()))
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _groups() -> list[str]:
    return sorted(entry.name for entry in CONF_DIR.iterdir() if entry.is_dir())


def _missing_member(raised: MissingConfigException) -> ConfigError:
    """`model=dilatd`: the nearest member of the group, and all of them."""
    group, _, name = str(raised.missing_cfg_file or "").rpartition("/")
    if not raised.options:
        return ConfigError(
            f"there is no group {group or name!r}{nearest(group or name, _groups())} Groups: {', '.join(_groups())}"
        )
    members = [Path(option).name for option in raised.options if not option.startswith("_")]
    return ConfigError(f"{group}={name}: there is no {group} {name!r}{nearest(name, members)} Choices: {', '.join(members)}")


def _bad_key(cause: OmegaConfBaseException, raised: BaseException) -> FmxError:
    """A key that does not exist, a value that is missing, or an interpolation that leads nowhere."""
    key = str(cause.full_key or cause.key or "")
    if isinstance(cause, MissingMandatoryValue):
        return ConfigError(f"{key} has no value: give it one with {key}=VALUE")
    if isinstance(cause, InterpolationResolutionError):
        return ConfigError(f"{key}: {' '.join(str(cause).partition('full_key')[0].split())}")
    if "is not in struct" in str(cause.msg):
        where, _, last = key.rpartition(".")
        siblings = [str(name) for name in cause.parent_node or [] if name != "hydra" and not str(name).startswith("_")]
        hint = f" (a key that the target takes but the YAML does not list: +{key}=VALUE)" if where else ""
        return ConfigError(
            f"{key}: {where or 'the configuration'} has no key {last!r}{nearest(last, siblings)} "
            f"Keys: {', '.join(siblings)}{hint}"
        )
    return ConfigError(" ".join(f"{raised} {cause if raised is not cause else ''}".partition("full_key")[0].split()))
