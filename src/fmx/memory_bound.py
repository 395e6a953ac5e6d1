"""A bound on the memory that something from elsewhere may take while it is made."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fmx.errors import DataError

__all__ = ["at_most_bytes"]

THREAD_BYTES = 80 << 20  # of address space that a thread's stack and the arena of its allocator reserve
PAGES_IN_USE = Path("/proc/self/statm")  # Linux alone: elsewhere there is no such bound


@contextmanager
def at_most_bytes(num_bytes: int, what: str) -> Iterator[None]:
    """Let this process take no more than so many bytes beyond what it has; DataError where something needs more.

    It bounds addresses, so what is reserved counts before it is touched. what: names it in the message.
    """
    before = _limited(num_bytes)
    try:
        yield
    except BaseException as error:
        if before is not None and _is_lack_of_memory(error):
            raise DataError(f"{what} would take more memory than the run can have had: {num_bytes:,} bytes") from None
        raise
    finally:
        if before is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, before)


def _limited(num_bytes: int) -> tuple[int, int] | None:
    """Set the limit, and return the one before; None where this system has none."""
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


def _is_lack_of_memory(error: BaseException | None) -> bool:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "std::bad_alloc" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
