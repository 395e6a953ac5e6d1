"""Print to streams whose encoding lacks some characters, such as latin-1, ASCII or a Windows code page."""

import codecs
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

__all__ = ["ascii_fallback"]

HANDLER = "fmx.degrade"
REPLACEMENTS = {
    "×": "x", "·": "-", "±": "+/-", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "←": "<-", "≤": "<=",
    "≥": ">=", "≈": "~", "²": "2", "│": "|", "┃": "|", "─": "-", "━": "-", "█": "#", "▲": "^", "▼": "v", "‘": "'",
    "’": "'", "“": '"', "”": '"', "•": "*", "✓": "+", "✗": "x",
}  # fmt: skip


@contextmanager
def ascii_fallback() -> Iterator[None]:
    """In the block, the standard streams replace characters that their encoding lacks with similar ASCII."""
    codecs.register_error(HANDLER, _replace)
    before = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors in {"strict", "backslashreplace"}:
            before.append((stream, stream.errors))
            stream.reconfigure(errors=HANDLER)
    try:
        yield
    finally:
        for stream, errors in before:
            stream.reconfigure(errors=errors)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_to_ascii, error.object[error.start : error.end])), error.end


def _to_ascii(character: str) -> str:
    """ASCII for a character: from the table, without accents, or as an escape."""
    if character in REPLACEMENTS:
        return REPLACEMENTS[character]
    if unicodedata.combining(character):
        return ""
    bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return bare or character.encode("ascii", "backslashreplace").decode()
