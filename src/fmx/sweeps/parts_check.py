"""Check the parts of a sweep's jobs in a process that has imported torch, while further jobs are composed."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import cache
from typing import NamedTuple, Self

from fmx.config.check import Checked
from fmx.config.hydra_errors import translate
from fmx.config.passed import Passed
from fmx.errors import ConfigError, FmxError
from fmx.runs.composition import register_resolvers
from fmx.runs.record import config_fingerprint
from fmx.sweeps.warm import subprocess
from fmx.training.check import check_resolved_parts

__all__ = ["PartsCheck", "as_fmx_error"]

AT_ONCE = 50  # jobs that are sent to the process together
AHEAD = 2  # such groups that wait there, so that memory stays bounded


class _Parts(NamedTuple):
    checked: Checked
    bounded: bool


# What identifies the parts, these, and what names the job in an error.
_Added = tuple[str, _Parts, Callable[[str], str]]


class PartsCheck:
    """A context that checks the parts of the jobs added to it; those that differ only in the seed are checked once.

    here: whether the jobs will run on this machine; if not, they are checked in this process, which needs no fork.
    sizes: the bytes of a job's checkpoints by what `add` returned.
    """

    def __init__(self, *, here: bool) -> None:
        self.sizes: dict[str, int] = {}
        self._here = here
        self._added: list[_Added] = []
        self._sent: deque[tuple[list[_Added], Future[list[int | str]]]] = deque()
        self._known: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._here:
            self._submit = self._stack.enter_context(subprocess())
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def add(self, checked: Checked, *, bounded: bool, message: Callable[[str], str]) -> str:
        """Add a job, and return what identifies its parts; ConfigError if an earlier one cannot run.

        message: makes an error's text name the job.
        """
        key = config_fingerprint({**checked.resolved, "seed": None})
        if key not in self._known:
            self._known.add(key)
            self._added.append((key, _Parts(checked, bounded), message))
            if len(self._added) >= AT_ONCE:
                self._send()
                self._take(leave=AHEAD)
        return key

    def finish(self) -> None:
        """Wait for all checks; ConfigError if a job cannot run."""
        self._send()
        self._take(leave=0)

    def _send(self) -> None:
        parts, self._added = self._added, []
        if not parts:
            return
        given = [each for _, each, _ in parts]
        if self._here:
            self._sent.append((parts, self._submit(_sizes_or_error, given)))
            return
        done: Future[list[int | str]] = Future()
        done.set_result(_sizes_or_error(given, here=False))
        self._sent.append((parts, done))

    def _take(self, *, leave: int) -> None:
        while len(self._sent) > leave or (self._sent and self._sent[0][1].done()):
            parts, future = self._sent.popleft()
            for (key, _, message), outcome in zip(parts, future.result(), strict=False):
                if isinstance(outcome, str):
                    raise ConfigError(message(outcome))
                self.sizes[key] = outcome


def as_fmx_error(error: Exception) -> FmxError | None:
    """An error of a job's configuration as one that the user reads; None for any other."""
    return error if isinstance(error, FmxError) else translate(error)


@cache
def _passed() -> Passed:
    """The checks that this process has done."""
    return Passed()


def _sizes_or_error(jobs: Sequence[_Parts], *, here: bool = True) -> list[int | str]:
    """The bytes of each job's checkpoints, up to the first whose parts cannot be instantiated, and then the reason."""
    from fmx.sweeps.disk import checkpoint_bytes

    register_resolvers()
    outcomes: list[int | str] = []
    for each in jobs:
        try:
            check_resolved_parts(each.checked, here=here, bounded=each.bounded, passed=_passed())
        except Exception as error:
            plain = as_fmx_error(error)
            if plain is None:
                raise
            return [*outcomes, str(plain)]
        outcomes.append(checkpoint_bytes(each.checked.resolved, _passed()))
    return outcomes
