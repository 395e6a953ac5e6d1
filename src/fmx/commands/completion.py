"""Shell completion of verbs, options and run directories, in addition to Hydra's groups and keys.

Hydra's shell script calls `fmx --shell-completion query=SHELL` with the line in COMP_LINE.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from fmx.commands.command_line import INFO_CHOICES, OWN_OPTIONS, RESUME_SWEEP, make_parser, options
from fmx.compat import parser_actions
from fmx.errors import ConfigError

__all__ = ["complete", "is_query"]

COMPLETION = {"--shell-completion", "-sc"}
ONE_LINE = {"bash", "zsh"}  # shells that read all candidates from one line
VALUES = {"--cfg": ["job", "hydra", "all"], "-c": ["job", "hydra", "all"], "--info": INFO_CHOICES, "-i": INFO_CHOICES}
FOLDERS = ["outputs/runs", "outputs/sweeps", "outputs/ensembles"]
# Keys whose value is a run directory, with other values to offer.
OF_RUNS: dict[str, list[str]] = {"resume": ["resume=auto"], "extend": [], "init": []}
NEWEST = 20  # number of run directories offered


def is_query(arguments: list[str]) -> bool:
    """Whether the arguments are a shell's request for candidates."""
    return bool(COMPLETION & {*arguments}) and any(each.startswith("query=") for each in arguments)


def complete(arguments: list[str]) -> list[str] | None:
    """Print fmx's candidates for the line in COMP_LINE; returns the arguments with which Hydra prints its own.

    None where Hydra has none to add, as after a verb.
    """
    shell = next(each for each in arguments if each.startswith("query=")).removeprefix("query=")
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    line = line[: int(point)] if point.isdigit() else line
    typed = line.split()[1:]
    word = typed.pop() if typed and not line[-1].isspace() else ""
    found, overrides = _candidates(typed, word, files=shell not in ONE_LINE)
    separator = " " if shell in ONE_LINE else "\n"
    fitting = [each for each in found if each.startswith(word) and not set(each) & {" ", "\t"}]
    if fitting:
        print(separator.join(fitting))
    if overrides is None:
        return None
    known, folders = overrides
    os.environ["COMP_LINE"] = " ".join(["fmx", *known, word])
    return ["--shell-completion", f"query={shell}", *folders]


HydraArguments = tuple[list[str], list[str]]  # overrides before the word, and Hydra's options


def _candidates(  # noqa: C901, PLR0911 - one return per case
    typed: list[str], word: str, *, files: bool
) -> tuple[list[str], HydraArguments | None]:
    """Candidates for a word, given the words before it, and the arguments for Hydra's own candidates."""
    from fmx.commands.verbs import MORE_VERBS, VERBS

    first: list[str] = []
    if typed[:1] == ["help"]:
        return [*VERBS, "run"], None
    if not typed:
        first = [*MORE_VERBS, *VERBS]
    elif typed[0] == "lr-find" and not word.startswith("-"):
        typed = typed[1:]
    elif typed[0] in VERBS:
        return [*_verb_candidates(typed[0], typed[1:], word, files=files)], None
    elif typed[0] == "run":
        typed = typed[1:]
    before = typed[-1] if typed else ""
    if before == RESUME_SWEEP:
        return _folders(word, ["outputs/sweeps"], files=files), None
    if before in VALUES:
        return VALUES[before], None
    if before in {"--config-dir", "-cd", "--config-path", "-cp"}:
        return _files(word) if files else [], None
    if word.startswith("-"):
        return [*options(), *OWN_OPTIONS], None
    key, is_value, value = word.partition("=")
    if is_value and key in OF_RUNS:
        folders = _folders(value, ["outputs/runs"], files=files)
        return [*OF_RUNS[key], *(f"{key}={each}" for each in folders)], None
    return first, _hydra_arguments(typed)


def _verb_candidates(verb: str, typed: list[str], word: str, *, files: bool) -> Iterator[str]:
    from fmx.commands.verbs import parser_of

    parser = parser_of(verb)
    actions = {name: action for action in parser_actions(parser) for name in action.option_strings}
    before = actions.get(typed[-1]) if typed else None
    if before is not None and before.choices:
        yield from map(str, before.choices)
    elif before is not None and before.nargs is None:  # any value: a file, a number
        yield from _files(word) if files else []
    elif word.startswith("-"):
        yield from [name for name in actions if name.startswith("--")]
    elif verb == "data":
        from fmx.config.key_names import members

        yield from members("data")
    else:
        yield from _folders(word, FOLDERS, files=files)


def _folders(word: str, homes: Sequence[str], *, files: bool) -> list[str]:
    """outputs/latest and the newest run or sweep directories, unless the word is the start of another path.

    files: whether to return matching files then, for shells that do not complete files themselves.
    """
    latest = Path("outputs/latest")
    found = [str(latest)] if latest.exists() and f"outputs/{latest.resolve().parent.name}" in homes else []
    for home in homes:
        names = [entry.name for entry in os.scandir(home) if entry.is_dir()] if Path(home).is_dir() else []
        found += [f"{home}/{name}" for name in sorted(names, reverse=True)[:NEWEST]]
    return found if any(each.startswith(word) for each in found) or not files else _files(word)


def _files(word: str) -> list[str]:
    folder, _, start = word.rpartition("/")
    path = Path(folder or ("/" if word.startswith("/") else "."))
    names = sorted(entry.name for entry in os.scandir(path)) if path.is_dir() else []
    return [word[: len(word) - len(start)] + name for name in names]


def _hydra_arguments(typed: list[str]) -> HydraArguments:
    parser = make_parser()
    parser.error = _raise_config_error  # type: ignore[method-assign]
    try:
        known, _ = parser.parse_known_intermixed_args([each for each in map(_shell_unquoted, typed) if each])
    except ConfigError:
        return [each for each in typed if not each.startswith("-")], []
    overrides = [*(["--multirun"] if known.multirun else []), *known.overrides]
    folders = [f"--{name}={getattr(known, name.replace('-', '_'))}" for name in ("config-dir", "config-name")
               if getattr(known, name.replace("-", "_"))]  # fmt: skip
    return overrides, folders


def _shell_unquoted(word: str) -> str:
    try:
        return "".join(shlex.split(word))
    except ValueError:
        return word


def _raise_config_error(message: str) -> NoReturn:
    raise ConfigError(message)
