"""Text for a stream whose encoding lacks some characters, such as latin-1, ASCII or a Windows code page."""

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
    """Meanwhile, let the standard streams write something like it where their encoding lacks a character."""
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
    """ASCII for a character: by the table, without its accents, or as the number that it has."""
    if character in REPLACEMENTS:
        return REPLACEMENTS[character]
    if unicodedata.combining(character):
        return ""
    bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return bare or character.encode("ascii", "backslashreplace").decode()
