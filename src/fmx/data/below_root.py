"""Files of a data set that a person names: relative ones lie below data.root, so that they move with it."""

from pathlib import Path

from fmx.data.download import missing_file_error
from fmx.errors import ConfigError

__all__ = ["data_file"]


def data_file(root: str, file: str | None, *, key: str, example: str) -> Path:
    """The path of a file or folder that `key` names.

    Raises:
        ConfigError: no file is named. `example` is what to type.
        DataError: it does not exist.
    """
    if not file:
        raise ConfigError(f"{key} names no file: type {example}; a relative name is looked for below data.root={root}")
    path = Path(root, Path(file).expanduser())
    if path.exists():
        return path
    here = f"data.root=. (a relative {key} is looked for below data.root, and {file} is in this folder)"
    raise missing_file_error(
        path, reason="", instead=[*([here] if Path(file).exists() else []), f"{key}=FILE with its whole path"]
    )
