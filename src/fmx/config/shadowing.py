"""Name the files in a user's configuration folder that replace fmx's own."""

import filecmp
import re
import sys
from pathlib import Path

from omegaconf import DictConfig

from fmx.compat import SWITCH, TESTED, is_tested
from fmx.config.conf_dir import CONF_DIR
from fmx.errors import ConfigError

__all__ = ["check_replaces_nothing", "print_shadowed_files"]


def print_shadowed_files(config: DictConfig) -> None:
    """Print one line to stderr for each user file that replaces a file of the same name in conf/.

    ConfigError where the installed version of Hydra uses fmx's own file instead (compat.own_files_first).
    """
    words = {*re.findall(r"[\w-]+", " ".join([*map(str, config.hydra.runtime.choices.values()), *sys.argv[1:]]))}
    folders = [Path(each.path) for each in config.hydra.runtime.config_sources if each.schema == "file"]
    for folder in [each for each in folders if each != CONF_DIR]:
        for file in sorted(folder.rglob("*.yaml")):
            name = file.relative_to(folder)
            used = name.stem in words or name.stem.startswith("_") or name.as_posix() == "config.yaml"
            if used and _replaces(file, name):
                if folders.index(folder) > folders.index(CONF_DIR):
                    raise _not_replaced(file, name)
                print(f"{file} is used in place of fmx's own {_member(name)}", file=sys.stderr)


def check_replaces_nothing(folder: Path) -> None:
    """ConfigError for a file of a user's folder that the installed version of Hydra would not use; see above."""
    if is_tested("hydra-core"):
        return
    for file in sorted(folder.rglob("*.yaml")):
        if _replaces(file, file.relative_to(folder)):
            raise _not_replaced(file, file.relative_to(folder))


def _replaces(file: Path, name: Path) -> bool:
    own = CONF_DIR / name
    return own.is_file() and not filecmp.cmp(file, own, shallow=False)


def _member(name: Path) -> str:
    return name.with_suffix("").as_posix()


def _not_replaced(file: Path, name: Path) -> ConfigError:
    return ConfigError(
        f"{file} cannot replace fmx's own {_member(name)} with this version of hydra-core: rename it, "
        f"install {' or '.join(TESTED['hydra-core'])}, or unset {SWITCH}"
    )
