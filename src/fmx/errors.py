"""The errors that fmx shows to people as one or two plain lines, never as a traceback."""

from collections.abc import Iterator

__all__ = ["ConfigError", "DataError", "FmxError", "Refusal", "TrainingError", "chain"]


class FmxError(Exception):
    """An expected failure: what is wrong, where, and what to type instead.

    `exit_code` is what the process ends with.
    """

    exit_code = 1


class ConfigError(FmxError):
    """The command line or the configuration is wrong; nothing was loaded or written yet."""

    exit_code = 2


class DataError(FmxError):
    """A data set, an image, a checkpoint or a run directory is missing, damaged or does not fit."""


class TrainingError(FmxError):
    """Training cannot go on; the checkpoints so far are kept."""


class Refusal(BaseException):
    """An FmxError on its way through Hydra, which would turn an Exception in a callback into a warning."""

    def __init__(self, error: FmxError) -> None:
        super().__init__(str(error))
        self.error = error


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, its cause, and so on."""
    seen = set[int]()
    while error is not None and id(error) not in seen:  # contexts may run in a circle
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
