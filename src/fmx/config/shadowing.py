"""Name the files in a user's configuration folder that replace fmx's own."""

import filecmp
import re
import sys
from pathlib import Path

from omegaconf import DictConfig

from fmx.config.conf_dir import CONF_DIR

__all__ = ["print_shadowed_files"]


def print_shadowed_files(config: DictConfig) -> None:
    """Print one line to stderr for each user file that replaces a file of the same name in conf/."""
    words = {*re.findall(r"[\w-]+", " ".join([*map(str, config.hydra.runtime.choices.values()), *sys.argv[1:]]))}
    folders = [
        Path(each.path)
        for each in config.hydra.runtime.config_sources
        if each.schema == "file" and Path(each.path) != CONF_DIR
    ]
    for folder in folders:
        for file in sorted(folder.rglob("*.yaml")):
            name = file.relative_to(folder)
            own = CONF_DIR / name
            used = name.stem in words or name.stem.startswith("_") or name.as_posix() == "config.yaml"
            if used and own.is_file() and not filecmp.cmp(file, own, shallow=False):
                print(f"{file} is used in place of fmx's own {name.with_suffix('').as_posix()}", file=sys.stderr)
