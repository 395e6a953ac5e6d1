"""`--dry-run`: a command is composed and checked as ever, says what it would do, and stops before it writes."""

__all__ = ["FLAG", "ask", "is_asked"]

FLAG = "--dry-run"
_asked = False


def ask(asked: bool) -> None:
    """Let the command that begins now only say what it would do, or not; a notebook's process runs several."""
    global _asked  # noqa: PLW0603 - Hydra hands a command's own flags on to nobody
    _asked = asked


def is_asked() -> bool:
    """Whether this process must not begin anything."""
    return _asked
