"""Parse a run's command line: overrides and Hydra's options in any order, with suggestions for unknown options."""

import argparse
import re
from collections.abc import Iterator
from typing import NoReturn

from fmx.config.printed_command import printed_command
from fmx.config.suggest import nearest
from fmx.errors import ConfigError
from fmx.runs.data_root import KEY, parse_root

__all__ = ["INFO_CHOICES", "OWN_OPTIONS", "RESUME_SWEEP", "in_hydra_order", "make_parser", "options", "resumed_sweep"]

RESUME_SWEEP = "--resume-sweep"
OWN_OPTIONS = [RESUME_SWEEP, "--dry-run", "--detach"]
INFO = ["--info", "-i"]
# Hydra 1.3's options (its page "Hydra's command line flags").
FLAGS = [
    ("--help", "-h"),
    ("--hydra-help",),
    ("--resolve",),
    ("--run", "-r"),
    ("--multirun", "-m"),
    ("--shell-completion", "-sc"),
]
WITH_VALUE = [
    ("--package", "-p"),
    ("--config-path", "-cp"),
    ("--config-name", "-cn"),
    ("--config-dir", "-cd"),
    ("--experimental-rerun",),
]
INFO_CHOICES = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]


def in_hydra_order(arguments: list[str]) -> list[str]:
    """The arguments reordered for Hydra, which accepts only adjacent overrides.

    Raises ConfigError for an unknown option or one without its value.
    """
    arguments = [*_with_info_named(arguments)]
    _refuse_two_folders(arguments)
    parser = make_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    known, rest = parser.parse_known_args(arguments)
    if rest:
        known, rest = parser.parse_known_intermixed_args(arguments)
        for word in rest:
            _refuse_option(word)
        given = {f"--{name.replace('_', '-')}": value for name, value in vars(known).items() if name != "overrides"}
        flags = [name if value is True else f"{name}={value}" for name, value in given.items() if value]
        arguments = [*known.overrides, *flags]
    return arguments


def _refuse_two_folders(arguments: list[str]) -> None:
    """ConfigError where --config-dir is given twice, of which Hydra would take the last."""
    names = next(names for names in WITH_VALUE if "--config-dir" in names)
    given = [word for word in arguments if word.partition("=")[0] in names]
    if len(given) > 1:
        raise ConfigError(f"--config-dir is given {len(given)} times, and only one counts: put all into one folder")


def make_parser() -> argparse.ArgumentParser:
    """A parser of Hydra's options, of which Hydra offers none; tests/test_compat.py compares it with Hydra's own."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    for names in FLAGS:
        parser.add_argument(*names, action="store_true")
    for names in WITH_VALUE:
        parser.add_argument(*names)
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--info", "-i", const="all", nargs="?", choices=INFO_CHOICES)
    parser.add_argument("--version", action="store_true")
    return parser


def options() -> list[str]:
    """Hydra's long options."""
    return [*(names[0] for names in [*FLAGS, *WITH_VALUE]), "--cfg", "--info", "--version"]


def resumed_sweep(arguments: list[str]) -> tuple[str, list[str], str | None] | None:
    """The DIR of `--resume-sweep DIR`, each PKG of `--allow PKG`, and the DIR of data.root=DIR; None without it.

    Raises ConfigError for any other argument next to it.
    """
    if not any(each.partition("=")[0] == RESUME_SWEEP for each in arguments):
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.error = _refuse_beside  # type: ignore[method-assign]
    parser.add_argument(RESUME_SWEEP, dest="folder", required=True)
    parser.add_argument("--allow", action="append", default=[])
    known, rest = parser.parse_known_args(arguments)
    roots = [each for each in rest if each.startswith(f"{KEY}=")]
    if len(rest) > len(roots) or len(roots) > 1 or not known.folder:
        _refuse_beside()
    return known.folder, known.allow, parse_root(roots[0]) if roots else None


def _refuse_beside(message: str = "") -> NoReturn:  # noqa: ARG001 - argparse's message says less
    raise ConfigError(
        f"{RESUME_SWEEP} takes the directory of a sweep, packages to trust, the folder of its data, and nothing else: "
        f"{RESUME_SWEEP} DIR [--allow PKG] [data.root=DIR]"
    )


def _with_info_named(arguments: list[str]) -> Iterator[str]:
    """Give `--info` an explicit value, since argparse would take the next override as its value."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        yield f"{word}=all" if word in INFO and following not in INFO_CHOICES else word


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message} ({printed_command('fmx', '--hydra-help')} lists the options)")


def _refuse_option(word: str) -> NoReturn:
    """Raise ConfigError for an unknown option, suggesting a similar option or a key without dashes."""
    name, _, value = word.partition("=")
    known = [*options(), *OWN_OPTIONS]
    if near := re.search(r"'(.+)'", nearest(name, known, cutoff=0.75)):
        raise ConfigError(f"there is no option {name!r}; did you mean {near[1]!r}?")
    from fmx.config.conf_dir import CONF_DIR
    from fmx.config.key_names import is_key, suggest_keys
    from fmx.runs.composition import compose_config

    bare = name.lstrip("-")
    groups = [entry.name for entry in CONF_DIR.iterdir() if entry.is_dir()]
    keys = [bare] if bare in groups or is_key(bare) else suggest_keys(bare, compose_config([]))
    if keys:
        key, with_, member = keys[0].partition(" with ")
        word = printed_command(key.strip("'") if "=" in key else f"{key}={value or 'VALUE'}")
        example = word + (f" with {member}" if with_ else "")
        raise ConfigError(f"there is no option {name!r}: settings are written without dashes, {example}")
    raise ConfigError(f"there is no option {name!r}; {printed_command('fmx', '--help')} lists all")
