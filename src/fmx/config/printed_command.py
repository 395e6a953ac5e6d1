"""How fmx prints a command line: as a person can type it, in any folder.

Every command that a message, a record or a page shows comes from here, so whoever looks for them looks for the callers.
"""

import shlex

__all__ = ["printed_command"]


def printed_command(*words: str) -> str:
    """Words of a command line, as its program is to see them, quoted for a shell.

    A path in an override is quoted for Hydra before: see `fmx.config.quoting.override`.
    """
    return shlex.join(words)
