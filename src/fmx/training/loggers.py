"""The loggers of a run: which class each is, what a resumed run removes, and what each gets besides its points."""

import csv
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from fmx.config.suggest import nearest
from fmx.errors import ConfigError
from fmx.training.charts import purge_events

__all__ = [
    "NUMBERED",
    "check_loggers",
    "is_tracker",
    "keep_checkpoint",
    "log_history",
    "log_settings",
    "purge_after",
    "show_picture",
    "versions",
    "with_own_class",
]

log = logging.getLogger(__name__)

NUMBERED = (TensorBoardLogger, CSVLogger)  # whose folder is version_0, version_1, … where `version` names none
KEPT = "metrics.csv.kept"
PACKAGES = {"MLFlowLogger": "mlflow", "WandbLogger": "wandb"}  # that Lightning's loggers need, and fmx's extras
TRACKERS = ("fmx.training.mlflow_logger", "fmx.training.wandb_logger")
AT_THE_END = ("test/", "best/")  # figures that a resumed run logs anew
IDENTIFIER = re.compile(r"[\w-]{1,64}", re.ASCII)
LIGHTNINGS = re.compile(r"pytorch_lightning\.loggers\.(?:\w+\.)?(TensorBoardLogger|MLFlowLogger|WandbLogger)")


def with_own_class(
    node: DictConfig, run_dir: Path, *, folder: Path, version: object, writes: bool
) -> tuple[DictConfig, dict[str, Any]]:
    """A logger's node with fmx's subclass in place of Lightning's class, and arguments that its null keys get.

    The configuration keeps Lightning's names, so that runs of all versions can be resumed and compared. folder: where
    the command was typed. version: what `versions` recorded, in a resumed run.
    """
    match = LIGHTNINGS.fullmatch(str(node.get("_target_")))
    name = run_name(run_dir)
    extra: dict[str, Any]
    known = version if isinstance(version, str) and IDENTIFIER.fullmatch(version) else None
    if match is None:
        return node, {}
    if match[1] == "TensorBoardLogger":
        own, extra = "charts.SharedCharts", {}
    elif match[1] == "MLFlowLogger":
        from fmx.training.mlflow_logger import default_places

        own, extra = "mlflow_logger.RunInMLflow", {"run_name": name, "run_id": known, "writes": writes}
        if node.get("tracking_uri") is None:
            extra |= default_places(folder)
        extra["tags"] = {**({"sweep": sweep} if (sweep := sweep_name(run_dir)) else {}), **(node.get("tags") or {})}
    else:
        own, extra = (
            "wandb_logger.RunInWandb",
            {"name": name, "group": sweep_name(run_dir), "id": known, "writes": writes},
        )
        extra |= {"save_dir": str(run_dir)} if node.get("dir") is None else {"save_dir": node.dir, "dir": None}
    ours = node.copy()
    ours._target_ = f"fmx.training.{own}"
    return ours, {key: value for key, value in extra.items() if key == "tags" or node.get(key) is None}


def sweep_name(run_dir: Path) -> str | None:
    """The name of the sweep that a run is a job of, if any."""
    sweep = run_dir.parent
    return sweep.name if (sweep / "jobs").is_dir() or (sweep / "multirun.yaml").is_file() else None


def run_name(run_dir: Path) -> str:
    """The name of a run directory, with that of its sweep, where it is one."""
    sweep = sweep_name(run_dir)
    return run_dir.name if sweep is None else f"{sweep}/{run_dir.name}"


def check_loggers(loggers: Mapping[Any, Any]) -> None:
    """ConfigError where a logger's package is missing, or a key of W&B is unknown; no logger is made."""
    for name, node in loggers.items():
        match = LIGHTNINGS.fullmatch(str(node.get("_target_")))
        package = PACKAGES.get(match[1]) if match else None
        if package and find_spec(package) is None:
            raise ConfigError(f"logger.{name} needs {package}: pip install 'fmx[{package}]', or pip install {package}")
        if package == "wandb":
            _check_keys_of_wandb(str(name), node)


def _check_keys_of_wandb(name: str, node: Mapping[str, Any]) -> None:
    """ConfigError for a key that neither WandbLogger takes nor wandb.init, to which it passes what it does not know."""
    import inspect

    import wandb
    from pytorch_lightning.loggers import WandbLogger

    known = {*inspect.signature(WandbLogger).parameters, *inspect.signature(wandb.init).parameters} - {"kwargs"}
    for key in node:
        if key not in known and not str(key).startswith("_"):
            raise ConfigError(f"logger.{name}.{key}: W&B takes no {key!r}{nearest(str(key), known)}")
    try:
        wandb.Settings(**(node.get("settings") or {}))
    except ValueError as error:
        said = " ".join(str(error).splitlines()[1:3])
        raise ConfigError(f"logger.{name}.settings: W&B refuses them: {said}") from error


def log_settings(loggers: Sequence[Logger], settings: Mapping[str, Any], run_dir: Path) -> None:
    """Give each logger but TensorBoard, which has them at the end, the hyperparameters and the name of the run."""
    named = {"run": run_name(run_dir)} | ({"sweep": sweep} if (sweep := sweep_name(run_dir)) else {})
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            continue
        logger.log_hyperparams({**named, **settings})
        lacks = [
            what for what, taker in (("pictures", _picture_taker), ("checkpoint", _file_taker)) if not taker(logger)
        ]
        if lacks and not isinstance(logger, CSVLogger):
            log.info(
                "%s gets no %s: its class has no log_image(key, images, step) or no log_artifact(path)",
                type(logger).__name__,
                " and no ".join(lacks),
            )


def log_history(loggers: Sequence[Logger], file: Path) -> None:
    """Give each logger but TensorBoard the rows that history.csv begins with, as Lightning gives later ones."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = [*csv.DictReader(stream)]
    for row in rows:
        metrics = {name: float(value) for name, value in row.items() if "/" in name and value}
        for logger in loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_metrics({**metrics, "epoch": int(row["epoch"]) - 1}, step=int(row["step"]) - 1)


def show_picture(logger: Logger, name: str, file: Path, step: int) -> None:
    """Give a logger one PNG file, by its method `log_image(key, images, step)` or by that of its `experiment`.

    The former is as in Lightning's WandbLogger, the latter, `log_image(file, name, step=…)`, as in Comet's.
    """
    if isinstance(logger, CSVLogger):
        logger.log_hyperparams({f"figures/{name}": os.path.relpath(file, logger.log_dir)})
    elif (take := _picture_taker(logger)) is not None:
        take(name, file, step)


def _picture_taker(logger: Logger) -> Callable[[str, Path, int], None] | None:
    if (own := _method(logger, "log_image")) is not None:
        return lambda name, file, step: own(key=name, images=[str(file)], step=step)
    if (theirs := _method(getattr(logger, "experiment", None), "log_image")) is not None:
        return lambda name, file, step: theirs(str(file), name, step=step)
    return None


def keep_checkpoint(logger: Logger, file: Path) -> None:
    """Give a logger the tested checkpoint, by its `log_artifact(path)` or its experiment's `log_model(name, path)`."""
    if not getattr(logger, "log_model", True):
        return
    if isinstance(logger, CSVLogger):
        logger.log_hyperparams({"checkpoint": os.path.relpath(file, logger.log_dir)})
    elif (take := _file_taker(logger)) is not None:
        take(file)


def _file_taker(logger: Logger) -> Callable[[Path], None] | None:
    if (own := _method(logger, "log_artifact")) is not None:
        return lambda file: own(str(file))
    if (theirs := _method(getattr(logger, "experiment", None), "log_model")) is not None:
        return lambda file: theirs(file.stem, str(file))
    return None


def _method(owner: object, name: str) -> Callable[..., Any] | None:
    method = getattr(owner, name, None)
    return method if callable(method) else None


def versions(loggers: Mapping[str, Logger]) -> dict[str, Any]:
    """The version of each logger that a resumed run needs to go on with it, by its name in the configuration."""
    return {
        name: logger.version for name, logger in loggers.items() if isinstance(logger, NUMBERED) or is_tracker(logger)
    }


def is_tracker(logger: Logger) -> bool:
    """Whether a logger is fmx's own of MLflow or W&B, which ends with the run by `close(status)`."""
    return type(logger).__module__ in TRACKERS


def purge_after(loggers: Sequence[Logger], step: int) -> None:
    """Remove what each logger wrote from a step on, where training resumes; a warning names loggers that cannot.

    A user's logger can if its class has a method `purge(step)`.
    """
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            _purge_rows(logger, step)
        elif callable(purge := getattr(logger, "purge", None)):
            purge(step)
        elif isinstance(logger, TensorBoardLogger):
            purge_events(logger, step)
        elif step:
            log.warning(
                "%s keeps what it wrote from step %d on, which is written again: rows may be duplicated (a method "
                "purge(step) of its class would be called to remove them)",
                type(logger).__name__,
                step,
            )


def _purge_rows(logger: CSVLogger, step: int) -> None:
    """Keep the rows of metrics.csv before a step, where CSVLogger would delete the file.

    Meanwhile they lie in a second file: whenever the process is killed, one of the two is complete.
    """
    file, kept = (Path(logger.log_dir, name) for name in ("metrics.csv", KEPT))
    if file.is_file():
        _copy_rows(file, kept, step)
    writer = logger.experiment
    if kept.is_file() and isinstance(getattr(writer, "metrics_keys", None), list):  # in the first process only
        with kept.open(newline="", encoding="utf-8") as stream:
            writer.metrics_keys[:] = next(csv.reader(stream), [])
        kept.replace(file)


def _copy_rows(file: Path, kept: Path, step: int) -> None:
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        header = reader.fieldnames or []
        ends = [name for name in header if name.startswith(AT_THE_END)]
        rows = [
            row
            for row in reader
            if str(row.get("step") or "").isdigit() and int(row["step"]) < step and not any(row[name] for name in ends)
        ]
    with kept.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, header)
        writer.writeheader()
        writer.writerows(rows)
