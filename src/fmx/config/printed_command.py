"""Quote the command lines that fmx prints, so that they can be pasted into a shell.

Every command in a message, record or page is made here, so its callers are all the places that print one.
"""

import shlex

__all__ = ["printed_command"]


def printed_command(*words: str) -> str:
    """The arguments of a program, program name first, as one line quoted for a shell.

    Paths in overrides must already be quoted for Hydra: see `fmx.config.quoting.override`.
    """
    return shlex.join(words)
