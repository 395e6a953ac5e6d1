"""Find an installed font with the characters of the class names."""

import logging
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from matplotlib import font_manager
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager

__all__ = ["BASE_FAMILY", "drawable", "family_for", "lacks"]

log = logging.getLogger(__name__)

BASE_FAMILY = "DejaVu Sans"  # comes with matplotlib
EAST_ASIAN = ("CJK", "HANGUL", "HIRAGANA", "KATAKANA")
REGULAR = 400
SHOWN = 5


def drawable(class_names: Sequence[str], english: Sequence[str] | None) -> list[str]:
    """Return the class names if fonts have all characters, else the English ones, and log a warning.

    english: the names to draw instead; None: `class 0`, `class 1`, ...
    """
    _, missing = family_for("".join(class_names))
    if not missing:
        return list(class_names)
    instead = [f"class {label}" for label in range(len(class_names))] if english is None else list(english)
    east_asian = any(unicodedata.name(c, "").startswith(EAST_ASIAN) for c in missing)
    log.warning(
        "no installed font has %s%s, so the figures name the classes %s; the Debian package %s brings one",
        " ".join(c.encode(errors="backslashreplace").decode() for c in sorted(missing)[:SHOWN]),
        " ..." if len(missing) > SHOWN else "",
        ", ".join([*instead[:2], "..."]),
        "fonts-noto-cjk" if east_asian else "fonts-noto-core",
    )
    return instead


def family_for(text: str) -> tuple[str | None, frozenset[str]]:
    """Find the font family that has most of the characters that the base family lacks.

    Returns:
        The family, None if the base family is enough or no other helps; the characters that neither has.
    """
    characters = frozenset(c for c in text if not c.isascii() and not _is_blank(c))
    return _search(characters) if characters else (None, characters)


def _is_blank(character: str) -> bool:
    """Whether nothing is drawn for a character: spaces, control and format characters."""
    return character.isspace() or unicodedata.category(character) in {"Cc", "Cf"}


@cache
def _search(characters: frozenset[str]) -> tuple[str | None, frozenset[str]]:
    best: str | None = None
    missing = wanted = lacks(BASE_FAMILY, characters)
    for family in _candidates(wanted):
        left = lacks(family, wanted)
        if len(left) < len(missing):
            best, missing = family, left
        if not missing:
            break
    return best, missing


def lacks(family: str, characters: frozenset[str]) -> frozenset[str]:
    """The characters that a font family has no glyphs for."""
    # Look up by family, as matplotlib does when it draws, to get the same file.
    charmap = _charmap(findfont(FontProperties(family=[family])))
    return frozenset(c for c in characters if ord(c) not in charmap)


def _candidates(characters: frozenset[str]) -> Iterator[str]:
    """Yield the families with a file that has any of the characters, likely ones first."""
    if not characters:
        return
    known = {entry.fname for entry in fontManager.ttflist}
    yield from _with_any(characters, fontManager.ttflist)
    # matplotlib caches its list of fonts, which lacks those that were installed since.
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        try:
            fontManager.addfont(path)
        except (OSError, RuntimeError, NotImplementedError) as error:  # damaged, or only bitmaps
            log.debug("font %s is left out: %s", path, error)
    yield from _with_any(characters, [entry for entry in fontManager.ttflist if entry.fname not in known])


def _with_any(characters: frozenset[str], entries: Iterable[FontEntry]) -> Iterator[str]:
    for entry in sorted(entries, key=_unlikeliness):
        # The LastResort font has a box for every character.
        if "LastResort" not in entry.fname and any(ord(c) in _charmap(entry.fname) for c in characters):
            yield entry.name


def _unlikeliness(entry: FontEntry) -> tuple[bool | str, ...]:
    """Sort key: upright regular fonts first, then simplified Chinese (CJK fonts have one face per region)."""
    plain = entry.style == "normal" and entry.weight == REGULAR
    return (not plain, "CJK SC" not in entry.name, "Sans" not in entry.name, "Mono" in entry.name, entry.name)


@cache
def _charmap(path: str) -> frozenset[int]:
    """The code points that a font file has glyphs for; empty if the file is missing or damaged."""
    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError) as error:
        log.debug("font %s is left out: %s", path, error)
        return frozenset()
