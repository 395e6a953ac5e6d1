"""Where the configuration comes from, and the resolvers that its YAML files use."""

import os
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from fmx.errors import DataError
from fmx.ranks import agreed

__all__ = [
    "CONF_DIR",
    "as_typed",
    "compose_config",
    "literal",
    "override",
    "quoted",
    "register_resolvers",
    "stamp",
    "text_of",
]


def _conf_dir() -> Path:
    """The packaged `fmx/conf` of an installed wheel if it exists, else the repository's `conf/`."""
    package = Path(__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


CONF_DIR = _conf_dir()


def stamp() -> str:
    """The time and six random digits: runs that start in the same second never share a folder.

    The processes that torchrun started get the same.
    """
    return agreed(f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(3)}")


def _run_dir() -> str:
    """The run directory that Hydra made for this job; before there is one (--cfg job), a word for it."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return "<run directory>"
    runtime = HydraConfig.get().runtime
    return "<run directory>" if OmegaConf.is_missing(runtime, "output_dir") else str(runtime.output_dir)


def _subfolders(folder: str) -> list[str]:
    """The sorted names of the folders in `folder`: the classes of an image folder."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"no image folder at {folder} ({error.strerror}): data=image_folder expects one folder a class in "
            f"DIR/train and in DIR/test; name it with data.root=DIR"
        ) from None
    if not names:
        raise DataError(f"{folder} has no class folders: put the images of each class in a folder of its own")
    return names


def _run_home(resume: str | None, fresh: str, *, _root_: DictConfig) -> str:
    """The folder of a run: the one that `resume` names, or a fresh one."""
    from fmx.resume import home

    return home(resume, fresh, _root_)


def compose_config(overrides: list[str], *, config_dir: str | None = None) -> DictConfig:
    """Compose the configuration as a run's command line would, without starting one.

    config_dir: a folder that is searched first, as --config-dir is.
    """
    register_resolvers()
    search = [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]"] if config_dir else []
    from fmx.quick_hydra import own_files_first

    with own_files_first(), initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides=[*search, *overrides])


def quoted(text: str) -> str:
    """A text that Hydra's override grammar reads as it is: to it, a backslash escapes nothing but a quote after it."""
    escaped = re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'


def as_typed(overrides: Any) -> list[str]:
    """Hydra's list of overrides as they were typed: to read its members one by one would resolve `${run_dir}` in them.

    What a person took from the environment stays a reference to it.
    """
    plain: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(each) for each in plain]


def text_of(word: str) -> str:
    """The text that a value on a command line is, where it may be quoted for Hydra."""
    if len(word) < 2 or word[0] not in "'\"" or word[-1] != word[0]:  # noqa: PLR2004 - a pair of quotes
        return word
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        return str(OverridesParser.create().parse_override(f"key={word}").value())
    except OverrideParseException:
        return word


def override(key: str, path: Path) -> str:
    """`KEY=PATH` as a word that Hydra's override grammar reads as it is, unquoted where it may be."""
    text = str(path)
    return f"{key}={text if re.fullmatch(r'[A-Za-z0-9_./+-]+', text) else quoted(text)}"


def literal(node: Any, *, times: int = 1) -> Any:
    """A plain node in which OmegaConf finds nothing to resolve, however often (`times`) it looks: `${x}` is text."""
    if isinstance(node, Mapping):
        return {key: literal(child, times=times) for key, child in node.items()}
    if isinstance(node, list):
        return [literal(child, times=times) for child in node]
    if isinstance(node, str):
        for _ in range(times):  # from the first backslash of a row on, or a long row would take quadratic time
            node = re.sub(r"(?<!\\)(\\*)\$\{", r"\1\1\\${", node)
    return node


def _verbs() -> str:
    """The verbs of the command line, for --help."""
    from fmx.cli import verbs_in_help

    return verbs_in_help()


def register_resolvers() -> None:
    """Make the resolvers that conf/ uses known to OmegaConf; safe to repeat."""
    resolvers: list[tuple[str, Callable[..., Any], bool]] = [
        ("stamp", stamp, True),
        ("run_dir", _run_dir, False),
        ("run_home", _run_home, False),
        ("subfolders", _subfolders, False),
        ("count", len, False),
        ("verbs", _verbs, False),
    ]
    for name, resolver, use_cache in resolvers:
        OmegaConf.register_new_resolver(name, resolver, replace=True, use_cache=use_cache)
