"""Bound the memory and CPU time for instantiating objects from an untrusted configuration."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from fmx.errors import DataError, chain

__all__ = ["SPARE_BYTES", "at_most_bytes"]

SPARE_BYTES = 256 << 20  # for Python objects and imports
THREAD_BYTES = 80 << 20  # address space that a thread's stack and malloc arena reserve
BYTES_PER_S = 16 << 20  # the slowest allocation rate to allow for
REPEAT_S = 1.0  # until the exception is raised again, in case code caught it and went on
PAGES_IN_USE = Path("/proc/self/statm")  # Linux alone; no bound elsewhere


@contextmanager
def at_most_bytes(num_bytes: int, what: str) -> Iterator[None]:
    """Limit the block to `num_bytes` more address space, and to one second of CPU time per 16 MiB of them.

    Reserved memory counts even if untouched. DataError where the block exceeds a limit. what: its subject in the
    message.
    """
    before = _set_limit(num_bytes)
    try:
        with _at_most_seconds(num_bytes / BYTES_PER_S, what):
            yield
    except BaseException as error:
        if before is not None and _is_lack_of_memory(error):
            raise DataError(f"{what} would take more memory than the run can have had: {num_bytes:,} bytes") from None
        raise
    finally:
        if before is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, before)


def _set_limit(num_bytes: int) -> tuple[int, int] | None:
    """Set the limit; returns the previous one, or None where no limit was set."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(PAGES_IN_USE.read_text(encoding="ascii").split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
        threads = min(64, os.cpu_count() or 1) * THREAD_BYTES
        limit = pages * resource.getpagesize() + num_bytes + threads
        if before[0] == resource.RLIM_INFINITY or limit < before[0]:
            resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
            return before
    return None


@contextmanager
def _at_most_seconds(seconds: float, what: str) -> Iterator[None]:
    """Raise DataError after this much CPU time; no effect outside the main thread, or on Windows."""
    error = DataError(f"{what} would take more time than the run can have had: {seconds:.0f} s of a processor")
    late = False

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal late
        late = True
        raise error

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, REPEAT_S)
    try:
        yield
    except BaseException:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if late:
            raise error from None  # it may have been wrapped
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _is_lack_of_memory(error: BaseException) -> bool:
    messages = ("can't allocate memory", "std::bad_alloc")
    return any(isinstance(each, MemoryError) or any(text in str(each) for text in messages) for each in chain(error))
