"""Check the words of a command line, and quote names and paths so that Hydra keeps them as text."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from fmx.config.conf_dir import CONF_DIR
from fmx.config.empty_arguments import empty_argument
from fmx.config.key_names import is_key
from fmx.config.printed_command import printed_command
from fmx.config.quoting import quoted
from fmx.errors import ConfigError

__all__ = ["check_typed", "quote_texts"]

OVERRIDE = re.compile(r"(?P<key>\+{0,2}[\w./@-]+)=(?P<value>.*)", re.DOTALL)
SIMPLE = re.compile(r"[A-Za-z0-9_./+-]+")
# Values that Hydra's grammar reads as a number or a boolean.
NO_TEXT = re.compile(r"[+-]?[\d_.]+(e[+-]?\d+)?|[+-]?(inf|nan)|true|false", re.IGNORECASE)
TEXTS = {
    "resume",
    "extend",
    "teacher",
    "init",
    "root",
    "dir",
    "subdir",
    "folder",
    "file",
    "name",
    "path",
    "dirpath",
    "save_dir",
    "filename",
}
TEXTS |= {"partition", "account", "qos", "constraint"}  # names chosen by a cluster's administrators
# Keys that a part of one's own may have for something else, such as a number.
AMBIGUOUS = {"root", "dir", "subdir", "folder", "file", "name", "path"}
OF_OWN_PARTS = ("model.net.", "loss.", "optim.", "schedule.", "augment.", "metrics.", "callbacks.")
CHOSEN_PARTS = ("hydra.launcher", "hydra.sweeper", "hydra.job_logging", "hydra.hydra_logging", "hydra.help")


def check_typed(arguments: Sequence[str]) -> None:
    """ConfigError for an empty argument, a group written as a key, or a working directory that Hydra cannot handle."""
    if "${" in (folder := str(Path.cwd())):
        raise ConfigError(f"the current folder is {folder}: Hydra takes ${{ in a path for a reference; work in another")
    if empty_argument(arguments) is not None:
        # Hydra's error for unknown names has suggestions.
        known = [word for word in arguments if not _is_unknown(word.strip().rstrip("="))]
        if message := empty_argument(known):
            raise ConfigError(message)
    for word in arguments:
        key, _, value = word.partition("=")
        if "/" in key and is_key(dotted := key.replace("/", ".")):
            raise ConfigError(f"{key} is no group; did you mean {dotted}={value}?")
        if key in CHOSEN_PARTS and not value.startswith("{"):
            command = printed_command(f"{key.replace('.', '/')}={value}")
            raise ConfigError(f"{word} would be without effect: {key} is a group, so type {command}")


def _is_unknown(name: str) -> bool:
    """Whether a word is not empty, an option, or the name of a known group or key."""
    given = not name or name.startswith(("-", "+", "hydra."))
    return not given and "." not in name and not is_key(name) and not (CONF_DIR / name).is_dir()


def quote_texts(arguments: Sequence[str]) -> list[str]:
    """The arguments with quotes around names and paths that Hydra would misread or could not parse.

    `hydra.run.dir=2024_01_15` is not the number 20240115, and `resume=/home/jörg/runs/3` is a path.
    """
    return [_quote_text(word) for word in arguments]


def _quote_text(word: str) -> str:
    found = OVERRIDE.fullmatch(word)
    if found is None or not _is_text(found["key"].lstrip("+")):
        return word
    values = found["value"].split(",")
    if any(NO_TEXT.fullmatch(value.strip()) for value in values) and not _may_be_own(found["key"].lstrip("+")):
        texts = [f"'{value.strip()}'" if NO_TEXT.fullmatch(value.strip()) else value for value in values]
        return f"{found['key']}={','.join(texts)}"
    if SIMPLE.fullmatch(found["value"]):
        return word
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return f"{found['key']}={quoted(found['value'])}"
    return word


def _may_be_own(key: str) -> bool:
    """Whether a key may belong to a part of the user's own, for whose `name` or `root` a number may be right."""
    return key.startswith(OF_OWN_PARTS) and key.rpartition(".")[2] in AMBIGUOUS and not is_key(key)


def _is_text(key: str) -> bool:
    """Whether the value of a key is a name or a path; a group's value is the name of a member."""
    return re.split(r"[./]", key)[-1] in TEXTS or (CONF_DIR / key.partition("@")[0].lstrip("/")).is_dir()
