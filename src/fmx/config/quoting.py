"""Quote and unquote text for Hydra's override grammar, and escape OmegaConf interpolations."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

__all__ = ["as_typed", "escape_interpolations", "override", "quoted", "unquoted"]


def quoted(text: str) -> str:
    """A text quoted for Hydra's override grammar, where a backslash escapes only a quote that follows it."""
    escaped = re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'


def as_typed(overrides: Any) -> list[str]:
    """Hydra's list of overrides as typed; reading its members one by one would resolve their interpolations."""
    plain: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(each) for each in plain]


def unquoted(word: str) -> str:
    """The text of a value on a command line, without Hydra's quotes."""
    if len(word) < 2 or word[0] not in "'\"" or word[-1] != word[0]:  # noqa: PLR2004 - a pair of quotes
        return word
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        return str(OverridesParser.create().parse_override(f"key={word}").value())
    except OverrideParseException:
        return word


def override(key: str, path: Path) -> str:
    """`KEY=PATH` for Hydra's override grammar, quoted only where needed."""
    text = str(path)
    return f"{key}={text if re.fullmatch(r'[A-Za-z0-9_./+-]+', text) else quoted(text)}"


def escape_interpolations(node: Any, *, times: int = 1) -> Any:
    """A plain node whose `${…}` stay text when OmegaConf resolves it `times` times."""
    if isinstance(node, Mapping):
        return {key: escape_interpolations(child, times=times) for key, child in node.items()}
    if isinstance(node, list):
        return [escape_interpolations(child, times=times) for child in node]
    if isinstance(node, str):
        for _ in range(times):  # match a run of backslashes from its start, or the search takes quadratic time
            node = re.sub(r"(?<!\\)(\\*)\$\{", r"\1\1\\${", node)
    return node
