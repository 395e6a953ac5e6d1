"""fmx: config-driven image-classification experiments on Fashion-MNIST and its relatives.

`fmx.train` trains as the command line does, `fmx.open_run` and `fmx.open_runs` open what it left. Importing fmx brings
nothing heavy.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmx.errors import ConfigError, DataError, FmxError
from fmx.process.version import __version__

if TYPE_CHECKING:
    from fmx.inference.opened_run import Run
    from fmx.reporting.run_frame import RunFrame

__all__ = ["ConfigError", "DataError", "FmxError", "Run", "__version__", "open_run", "open_runs", "train"]


def train(*overrides: str, config_dir: str | Path | None = None) -> "Run":
    """Train as `fmx OVERRIDE ...` does, in this process, and open the run that it leaves.

    overrides: as on the command line, such as "model=lenet", "data=digits", "trainer.max_epochs=3"; what a shell would
    take away, quotes around a word, is left out. config_dir: a folder of your own YAML files, as --config-dir.

    Raises ConfigError for what is wrong with them, before any data is loaded, DataError for data that is missing or
    damaged, FmxError where the run fails, and KeyboardInterrupt, with the state saved, where it is interrupted. What
    the run changes in the process (loggers, random states, signals, working folder) is given back.
    """
    from fmx.run import train

    return train(*overrides, config_dir=config_dir)


def open_run(path: str | Path, *, allow: Collection[str] = ()) -> "Run":
    """Open the directory of a finished run, or of one job of a sweep.

    allow: packages beside fmx's own whose code the run may name, as --allow does: a run directory may come from
    anywhere. Raises DataError where the folder is no run, or the run is not finished.
    """
    from fmx.inference.opened_run import open_run

    return open_run(path, allow=allow)


def open_runs(*paths: str | Path) -> "RunFrame":
    """Open runs, sweeps, or folders of them as a pandas DataFrame with one row per run.

    Columns: path, status, error, seed, data, the settings in which the runs differ, val_accuracy, test_accuracy and
    test_macro_f1 (shares of 1), params, train_seconds, started. `.leaderboard()` groups the rows as `fmx report` does.
    Raises DataError where there is no run.
    """
    from fmx.reporting.run_frame import open_runs

    return open_runs(*paths)


def __getattr__(name: str) -> Any:
    if name == "Run":
        from fmx.inference.opened_run import Run

        return Run
    raise AttributeError(f"module 'fmx' has no attribute {name!r}")
