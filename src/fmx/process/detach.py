"""`--detach`: submit the jobs of a sweep to a cluster, and end without waiting for them."""

from fmx.errors import ConfigError

__all__ = ["FLAG", "ask", "is_asked", "refuse"]

FLAG = "--detach"
_asked = False


def ask(asked: bool) -> None:
    """Set whether the current command detaches; one process, such as a notebook, may run several commands."""
    global _asked  # noqa: PLW0603 - Hydra passes no flags on
    _asked = asked


def is_asked() -> bool:
    """Whether the current command detaches."""
    return _asked


def refuse(what: str) -> None:
    """ConfigError where --detach was asked of what needs its command. what: a noun in the plural."""
    if is_asked():
        raise ConfigError(
            f"{FLAG} is for sweeps on a cluster (-m hydra/launcher=slurm), whose jobs wait in its queue; {what} need "
            "this command: start it under nohup or in tmux"
        )
