"""`--dry-run`: compose and check as usual, print what the command would do, and stop before anything is written."""

__all__ = ["FLAG", "ask", "is_asked"]

FLAG = "--dry-run"
_asked = False


def ask(asked: bool) -> None:
    """Set whether the current command is a dry run; one process, such as a notebook, may run several commands."""
    global _asked  # noqa: PLW0603 - Hydra passes no flags on
    _asked = asked


def is_asked() -> bool:
    """Whether the current command is a dry run."""
    return _asked
