"""What --only names: some rows of a benchmark, of which the others stay as they are."""

from collections.abc import Collection

__all__ = ["chosen"]


def chosen(only: str, known: Collection[str]) -> list[str]:
    """The names in a list with commas, all where it is empty; SystemExit for one that is not known."""
    names = only.split(",") if only else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"--only: there is no {unknown[0]!r}; choices: {', '.join(known)}")
    return names
