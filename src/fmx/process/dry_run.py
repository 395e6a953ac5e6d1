"""`--dry-run`: compose and check as usual, print what the command would do, and stop before anything is written."""

from fmx.process.flag import Flag

__all__ = ["FLAG", "ask", "is_asked"]

_flag = Flag("--dry-run")
FLAG, ask, is_asked = _flag.word, _flag.ask, _flag.is_asked
