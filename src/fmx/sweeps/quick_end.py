"""Imported by the process that jobs are forked from, which then ends without freeing all that it imported, at once."""

import atexit
import os

__all__: list[str] = []

SERVER = os.getpid()


@atexit.register
def _end() -> None:
    if os.getpid() == SERVER:  # the jobs inherit this function, and end in their own way
        os._exit(0)
