"""The folder of fmx's own YAML files."""

from pathlib import Path

__all__ = ["CONF_DIR"]


def _conf_dir() -> Path:
    """The packaged `fmx/conf` of an installed wheel if it exists, else the repository's `conf/`."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


CONF_DIR = _conf_dir()
