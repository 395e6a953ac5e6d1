"""`--detach`: submit the jobs of a sweep to a cluster, and end without waiting for them."""

from fmx.errors import ConfigError
from fmx.process.flag import Flag

__all__ = ["FLAG", "ask", "is_asked", "refuse"]

_flag = Flag("--detach")
FLAG, ask, is_asked = _flag.word, _flag.ask, _flag.is_asked


def refuse(what: str) -> None:
    """ConfigError where --detach was asked of what needs its command. what: a noun in the plural."""
    if is_asked():
        raise ConfigError(
            f"{FLAG} is for sweeps on a cluster (-m hydra/launcher=slurm), whose jobs wait in its queue; {what} need "
            "this command: start it under nohup or in tmux"
        )
