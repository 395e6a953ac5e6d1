"""Errors that users see as one or two plain lines, without a traceback."""

from collections.abc import Iterator

__all__ = ["ConfigError", "DataError", "FmxError", "Refusal", "TrainingError", "chain", "first_line"]


class FmxError(Exception):
    """An expected failure; the message says what is wrong, where, and what to type instead.

    `exit_code` is the exit code of the process.
    """

    exit_code = 1


class ConfigError(FmxError):
    """The command line or the configuration is wrong; nothing has been loaded or written."""

    exit_code = 2


class DataError(FmxError):
    """A data set, an image, a checkpoint or a run directory is missing, damaged or unsuitable."""


class TrainingError(FmxError):
    """Training cannot continue; the checkpoints so far are kept."""


class Refusal(BaseException):
    """Carries an FmxError through Hydra, which turns an Exception in a callback into a warning."""

    def __init__(self, error: FmxError) -> None:
        super().__init__(str(error))
        self.error = error


def first_line(error: BaseException) -> str:
    """The first line of what an exception says."""
    return str(error).strip().partition("\n")[0]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, its cause or context, and so on."""
    seen = set[int]()
    while error is not None and id(error) not in seen:  # contexts may form a cycle
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
