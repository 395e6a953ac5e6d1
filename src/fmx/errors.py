"""The errors that fmx shows to people as one or two plain lines, never as a traceback."""

__all__ = ["ConfigError", "DataError", "FmxError", "TrainingError"]


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
