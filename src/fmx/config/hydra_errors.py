"""Turn Hydra's and OmegaConf's exceptions into plain errors: what is wrong, where, and the nearest valid name."""

import difflib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from traceback import walk_tb
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import Container
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import MarkedYAMLError

from fmx.compat import root_of
from fmx.config.conf_dir import CONF_DIR
from fmx.config.printed_command import printed_command
from fmx.config.quoting import quoted
from fmx.config.suggest import nearest
from fmx.errors import ConfigError, FmxError, chain

__all__ = ["likely_keys", "translate"]

EXAMPLE = "write KEY=VALUE, for example optim.lr=0.01"
KEY = re.compile(r"[+~]*[A-Za-z_][\w./@-]*")
CLOSE, VERY_CLOSE = 0.6, 0.8
LIBRARIES = ("hydra.", "pytorch_lightning.", "lightning_fabric.")


def likely_keys(key: str, last: str, siblings: Iterable[str], node: Container | None) -> str:
    """`; did you mean 'optim.lr'?` for a key that does not exist, else a full stop.

    last: the unknown part of the key. siblings: the keys at its level. node: any node of the configuration.
    """
    names = list(siblings)
    from fmx.config.key_names import is_known_elsewhere, settings_of_members, suggest_keys  # read all of conf/

    settings = settings_of_members(root_of(node))
    same = [name for name in settings if name.rpartition(".")[2] == last]
    in_hydra, is_alone = key.startswith("hydra."), last == key
    is_known = bool(same) if in_hydra else is_alone and (bool(same) or is_known_elsewhere(last))
    if not is_known and (in_hydra or difflib.get_close_matches(last, names, n=1, cutoff=VERY_CLOSE)):
        return nearest(last, names)
    found = suggest_keys(same[0] if in_hydra else key, root_of(node))
    quoted_names = [name if "'" in name else repr(name) for name in found]
    return f"; did you mean {' or '.join(quoted_names)}?" if quoted_names else nearest(last, names, cutoff=CLOSE)


def translate(raised: BaseException) -> FmxError | None:
    """The plain error for a library's refusal of a configuration; None for any other exception."""
    kinds: list[tuple[type[BaseException], Callable[[Any], FmxError]]] = [
        (FmxError, lambda error: error),  # raised by one of fmx's resolvers
        (MissingConfigException, _missing_member),
        (OverrideParseException, _unreadable_override),
        (OmegaConfBaseException, lambda cause: _nested_distribution(cause) or _bad_key(cause, raised)),
        (MarkedYAMLError, _bad_yaml),
    ]
    for kind, to_error in kinds:
        for cause in chain(raised):
            if isinstance(cause, kind):
                return to_error(cause)
    if isinstance(raised, InstantiationException):
        return _failed_target(raised)
    return _composition(raised) if isinstance(raised, HydraException) or _refused_by_library(raised) else None


def _groups() -> list[str]:
    return sorted(entry.name for entry in CONF_DIR.iterdir() if entry.is_dir())


def _missing_member(raised: MissingConfigException) -> ConfigError:
    """The error for `model=dilatd`: the nearest member of the group, and all members."""
    group, _, name = str(raised.missing_cfg_file or "").rpartition("/")
    searched = [Path(root) / group for root in re.findall(r"path=file://(.+)", str(raised))]
    options = raised.options or [file.stem for folder in searched for file in folder.glob("*.yaml")]
    if not group:
        return ConfigError(f"there is no configuration {name!r}: leave --config-name out")
    if (group, name) == ("data", "_loader"):  # of files that were written for an earlier version
        return ConfigError("data/_loader.yaml is conf/_loader.yaml now: write defaults: [/_loader@_here_, _self_]")
    if not options:
        return ConfigError(f"there is no group {group!r}{nearest(group, _groups())} Groups: {', '.join(_groups())}")
    parent = re.match(r"In '([^']+)'", str(raised))
    where = f"{parent[1]}: " if parent and parent[1] not in {"config", "hydra/config"} else ""
    members = sorted(Path(option).name for option in options if not option.startswith("_"))
    from fmx.config.key_names import nearest_member

    near = nearest_member(group, name, members)
    likely = _forgotten_config_dir(group, name) or (f"; did you mean {near!r}?" if near else ".")
    return ConfigError(f"{where}{group}={name}: there is no {group} {name!r}{likely} Choices: {', '.join(members)}")


def _forgotten_config_dir(group: str, name: str) -> str:
    """`; 'my/model/tiny.yaml' is one: add --config-dir my` where the working directory or a folder in it has one."""
    folders = [Path(), *sorted(each for each in Path().iterdir() if each.is_dir())]
    found = next((each for each in folders if (each / group / f"{name}.yaml").is_file()), None)
    if found is None:
        return ""
    return f"; {str(found / group / f'{name}.yaml')!r} is one: add {printed_command('--config-dir', str(found))}."


def _unreadable_override(raised: OverrideParseException) -> ConfigError:
    reason = re.search(r"Error while evaluating .*", str(raised))
    if re.search(r"=\w*\(?tag\(", str(raised.override)):
        return ConfigError(
            f"cannot read the override {raised.override!r}: tag() takes names, CHOICE or KEY:CHOICE, and at its end "
            "choice(A,B), range(A,B) or interval(A,B)"
        )
    key, equals, value = str(raised.override).partition("=")
    if function := re.match(r"(\w+)\(", value):
        return ConfigError(
            f"cannot read the override {raised.override!r}: {function[1]}(…) is not written so. For sweeps and "
            "searches there are choice(A,B), range(A,B), interval(A,B) and tag(log,interval(A,B)); "
            f"a text is quoted twice: {printed_command(f'{key}={quoted(value)}')}"
        )
    if not reason and equals and value and value[0] not in "[{" and KEY.fullmatch(key):
        twice = printed_command(f"{key}={quoted(value)}")
        return ConfigError(f"cannot read the override {raised.override!r}: quote a text twice: {twice}")
    return ConfigError(f"cannot read the override {raised.override!r}: {reason[0] if reason else EXAMPLE}")


def _bad_yaml(raised: MarkedYAMLError) -> ConfigError:
    mark = raised.problem_mark or raised.context_mark
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return ConfigError(f"{where}{raised.problem}")


def _nested_distribution(cause: OmegaConfBaseException) -> ConfigError | None:
    """The error for `optim.lr={sgd:interval(1,2)}`, of which OmegaConf says that it cannot hold such an object."""
    if "Unexpected type annotation" not in str(cause):
        return None
    return ConfigError(
        "a mapping or a list on the command line cannot hold distributions: write one for each choice, as in "
        f"{printed_command('optim.lr=tag(sgd,log,interval(1e-2,1))')}"
    )


def _bad_key(cause: OmegaConfBaseException, raised: BaseException) -> ConfigError:
    """The error for an unknown key, a missing value or an interpolation without a target."""
    key = str(cause.full_key or cause.key or "")
    if isinstance(cause, MissingMandatoryValue):
        return ConfigError(f"{key} has no value: give it one with {key}=VALUE")
    if isinstance(cause, InterpolationKeyError):
        return _leads_nowhere(key, cause)
    if isinstance(cause, InterpolationResolutionError):
        return _unresolved(key, cause)
    if key.startswith("hydra.sweeper.params."):
        return ConfigError("hydra.sweeper.params is for experiment files; here write KEY=A,B or 'KEY=interval(A,B)'")
    of_hydra = key.startswith("hydra.") and re.match(r"Key '.*' not in '\w+'", str(cause.msg)) is not None
    if of_hydra or "is not in struct" in str(cause.msg):
        where, _, last = key.rpartition(".")
        siblings = [str(name) for name in cause.parent_node or [] if name != "hydra" and not str(name).startswith("_")]
        keys = f" Keys: {', '.join(siblings)}" if siblings else ""
        add = f" (+{where}.KEY=VALUE adds one that the YAML does not list)" if where and not of_hydra else ""
        typed = re.match(r"Could not override '[+~]*([^']+)'", str(raised))
        full = typed[1] if typed and f"{typed[1]}.".startswith(f"{key}.") else key
        likely = likely_keys(full, last, siblings, cause.parent_node)
        if f"{full!r} with " in likely:  # other members of the group have it
            likely = _by_choice(full) or likely
        return ConfigError(f"{full}: {where or 'the configuration'} has no key {last!r}{likely}{keys}{add}")
    return ConfigError(f"{key}: {' '.join(str(cause.msg or cause).partition('full_key')[0].split())}")


def _by_choice(key: str) -> str:
    """What to type where the command line sweeps over the group of a fixed value.

    Hydra first composes fixed values with the default member of a swept group.
    """
    group = key.partition(".")[0]
    swept = any(re.match(rf"{re.escape(group)}=(.+,|choice\()", word) for word in sys.argv[1:])
    value = next((word.partition("=")[2] for word in sys.argv[1:] if word.startswith(f"{key}=")), "")
    if not swept or not value or "," in value:
        return ""
    of_all = printed_command(f"{key}=choice({value})")
    if "hydra/sweeper=search" not in sys.argv:
        return f"; if every {group} here has it, write {of_all}."
    of_one = printed_command(f"{key}=tag(CHOICE,choice({value}))")
    return f"; if one choice of {group} has it, write {of_one}, and if all have it, {of_all}."


def _leads_nowhere(key: str, cause: InterpolationKeyError) -> ConfigError:
    found = re.search(r"'([^']+)'", str(cause.msg or cause))
    wanted = found[1] if found else "?"
    if not key:  # OmegaConf does not name the key if it belongs to the hydra node
        typed = next((word for word in sys.argv[1:] if f"${{{wanted}}}" in word), "")
        key = typed.partition("=")[0] or "hydra"
    return ConfigError(f"{key} refers to {wanted}, which does not exist")


def _unresolved(key: str, cause: InterpolationResolutionError) -> ConfigError:
    if variable := re.search(r"Environment variable '(.+)' not found", str(cause)):
        return ConfigError(
            f"{key or 'a value of hydra'} needs the environment variable {variable[1]}, which is not set: set it, or "
            f"give it a default: ${{oc.env:{variable[1]},DEFAULT}}"
        )
    return ConfigError(f"{key}: {' '.join(str(cause).partition('full_key')[0].split())}")


def _failed_target(raised: InstantiationException) -> ConfigError:
    """The error for a constructor that raised an unexpected exception, which may be a bug in it."""
    message, _, key = str(raised).partition("full_key: ")
    if target := re.match(r"Error locating target '([^']+)'", message):
        from fmx.config.targets import locate

        try:
            locate(target[1], key.strip())  # it raises for the same reason, and names it
        except ConfigError as error:
            return error
    return ConfigError(
        f"{f'{key.strip()}: ' if key else ''}{' '.join(message.split())} (HYDRA_FULL_ERROR=1 shows the traceback)"
    )


def _refused_by_library(raised: BaseException) -> bool:
    """Whether Hydra or Lightning refused a configuration with a plain ValueError or MisconfigurationException."""
    if not isinstance(raised, ValueError) and type(raised).__name__ != "MisconfigurationException":
        return False
    frames = [frame for frame, _ in walk_tb(raised.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith(LIBRARIES)


def _composition(raised: BaseException) -> ConfigError:
    """The error for groups, defaults lists and overrides that Hydra cannot compose."""
    message = " ".join(str(raised).split())
    if group := re.match(r"(?:In '([^']+)': )?Could not override '([^']+)'", message):
        where = f"{group[1]}: " if group[1] else ""
        return ConfigError(
            f"{where}{group[2]!r} is no group or key{nearest(group[2], _groups())} Groups: {', '.join(_groups())}"
        )
    if kind := re.match(r"Config group override must be a string or a list. Got (\w+)", message):
        got = "null" if kind[1] == "NoneType" else f"a value of type {kind[1]}"
        return ConfigError(f"a group takes the name of a member, such as model=mlp, but one override gives it {got}")
    if override := re.match(r"Ambiguous value for argument '(\S+)'", message):
        return ConfigError(f"{override[1]} gives several values: {_for_each()}, or write [A,B] for one list")
    if override := re.match(r"Sweep parameters (.+) requires --multirun", message):
        search = "" if _is_python() else ", and hydra/sweeper=search to draw from them"
        return ConfigError(f"{override[1]} gives many values: {_for_each()}{search}")
    if "does not support sweep type" in message:
        return ConfigError("an interval has no values to run one after another: draw from it with hydra/sweeper=search")
    return ConfigError(message)


def _for_each() -> str:
    """How to run each of several values; `fmx.train` takes no options."""
    return "call fmx.train for each of them" if _is_python() else "add -m to run them all"


def _is_python() -> bool:
    return sys.argv[0] == "fmx.train"
