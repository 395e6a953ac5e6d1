"""Checks that need not be repeated: the jobs of a sweep differ in few of the values that a check reads."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Passed"]

Result = TypeVar("Result")


class Passed:
    """The results of checks that have passed, by the values that they read."""

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}

    def once(self, check: str, values: Any, run: Callable[[], Result]) -> Result:
        """The result of `run`, which is called unless this check has passed for equal values.

        values: all that `run` depends on, as plain values.
        """
        key = json.dumps([check, values], default=repr)
        if key not in self._results:
            self._results[key] = run()
        result: Result = self._results[key]
        return result
