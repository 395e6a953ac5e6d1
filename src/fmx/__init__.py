"""fmx: config-driven image-classification experiments on Fashion-MNIST and its relatives.

`fmx.train` trains like the command line; `fmx.open_run` and `fmx.open_runs` open run directories. Importing fmx
imports nothing heavy.
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
    """Train like `fmx OVERRIDE ...`, in this process, and open the new run.

    overrides: as on the command line but without shell quotes, such as "model=lenet", "data=digits",
    "trainer.max_epochs=3". config_dir: a folder of your own YAML files, as --config-dir.

    Raises ConfigError for wrong overrides, before any data is loaded, DataError for missing or damaged data, FmxError
    where the run fails, and KeyboardInterrupt, with the state saved, where it is interrupted. Afterwards the process's
    loggers, random states, signal handlers and working directory are restored.
    """
    from fmx.run import train

    return train(*overrides, config_dir=config_dir)


def open_run(path: str | Path, *, allow: str | Collection[str] = ()) -> "Run":
    """Open the directory of a finished run, or of one job of a sweep.

    allow: a package, or several, besides fmx's own whose code the run may name, as --allow: a run directory may come
    from anyone. Raises DataError where the folder is not a run, or the run is not finished.
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
