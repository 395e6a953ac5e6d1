"""A run in MLflow: Lightning's MLFlowLogger, whose points are sent with each row of history.csv."""

import logging
import os
import re
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import MLFlowLogger

from fmx.errors import first_line
from fmx.process.lock import exclusive
from fmx.training.logged_points import as_in_history

__all__ = ["RunInMLflow", "default_places"]

log = logging.getLogger(__name__)

NOT_ALLOWED = re.compile(r"[^\w/. -]", re.ASCII)  # in the names of MLflow's metrics and parameters
LOCK = ".mlflow.lock"
AT_ONCE = 1000  # points that MLflow takes in one call
AGAIN_S = 60.0  # after a failure
OF_MLFLOW = {  # read where it is imported
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 7 would wait for four minutes for a server that is not there
}
ENDS = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


def default_places(folder: Path) -> dict[str, str]:
    """`tracking_uri`, and `artifact_location` where it is a file in outputs/, of a run started in a folder."""
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        return {"tracking_uri": server}
    outputs = folder / "outputs"
    outputs.mkdir(exist_ok=True)
    return {
        "tracking_uri": f"sqlite:///{outputs / 'mlflow.db'}",
        "artifact_location": (outputs / "mlartifacts").as_uri(),
    }


class RunInMLflow(MLFlowLogger):
    """Lightning's MLFlowLogger for the whole of a run: training, test, figures and checkpoint.

    Points wait until a row of history.csv is complete, so that no step waits for a database or a server. Where MLflow
    does not answer, they wait longer, and the run goes on. A resumed run continues its own: points that it has already
    are not sent again. run_id: of the run to continue; a new one is begun where MLflow does not know it. writes:
    whether this process of a distributed run writes.
    """

    def __init__(
        self,
        *,
        tracking_uri: str,
        writes: bool = True,
        experiment_name: str = "fmx",
        artifact_location: str | None = None,
        run_id: str | None = None,
        log_model: Any = True,
        prefix: str = "",
        synchronous: bool | None = None,
        **others: Any,
    ) -> None:
        if tracking_uri.startswith("file:"):  # MLflow refuses its older store unless it is asked for by name
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        for name, value in OF_MLFLOW.items():
            os.environ.setdefault(name, value)
        self.log_model = bool(log_model)
        self._before_names = f"{prefix}{self.LOGGER_JOIN_CHAR}" if prefix else ""
        self._how: dict[str, Any] = {} if synchronous is None else {"synchronous": synchronous}
        self._waiting: list[Any] = []
        self._sent: set[tuple[str, int]] = set()
        self._failed_at: float | None = None
        with _quiet():
            from mlflow import MlflowClient

            with _alone(tracking_uri):
                self._client = MlflowClient(tracking_uri)
            if writes:
                run_id = self._known(run_id)
                self._create_experiment(experiment_name, artifact_location)
            super().__init__(
                tracking_uri=tracking_uri,
                experiment_name=experiment_name,
                artifact_location=artifact_location,
                run_id=run_id,
                log_model=log_model if log_model == "all" else False,
                **others,
            )
            if writes:
                self._client.update_run(str(self.run_id), status="RUNNING")

    def _known(self, run_id: str | None) -> str | None:
        """The id of a run that MLflow knows, after its points were read."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            log.warning("MLflow does not know the run %s, so a new one goes on: %s", run_id, first_line(error))
            return None
        for key in run.data.metrics:
            self._sent |= {(key, point.step) for point in self._client.get_metric_history(run_id, key)}
        return run_id

    def _create_experiment(self, name: str, artifact_location: str | None) -> None:
        from mlflow.exceptions import MlflowException

        if self._client.get_experiment_by_name(name) is None:
            try:
                self._client.create_experiment(name, artifact_location=artifact_location)
            except MlflowException:
                if self._client.get_experiment_by_name(name) is None:  # no other job has made it meanwhile
                    raise

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Send the parameters that the run does not have yet: MLflow never changes one."""
        with _quiet():
            known = self._client.get_run(str(self.run_id)).data.params
            given = params if isinstance(params, dict) else vars(params)
            named = {NOT_ALLOWED.sub("_", key): value for key, value in given.items()}
            super().log_hyperparams({key: value for key, value in named.items() if key not in known})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep points until `save`."""
        from mlflow.entities import Metric

        values, at = as_in_history(metrics, step)
        now = int(time.time() * 1000)
        self._waiting += [
            Metric(key=self._before_names + NOT_ALLOWED.sub("_", key), value=float(value), timestamp=now, step=at)
            for key, value in values.items()
        ]

    @rank_zero_only
    def save(self) -> None:
        """Send the points that wait; where MLflow does not answer, they go on waiting for a minute."""
        if self._failed_at is not None and time.monotonic() - self._failed_at < AGAIN_S:
            return
        try:
            self._send()
            self._failed_at = None
        except Exception as error:  # noqa: BLE001 - of a database, or of a server's client
            if self._failed_at is None:
                log.warning("MLflow takes no points at the moment, the run goes on: %s", first_line(error))
            self._failed_at = time.monotonic()

    def _send(self) -> None:
        with _quiet():
            while self._waiting:
                points = self._waiting[:AT_ONCE]
                new = [each for each in points if (each.key, each.step) not in self._sent]
                self._client.log_batch(str(self.run_id), metrics=new, **self._how)
                self._sent |= {(each.key, each.step) for each in new}
                del self._waiting[: len(points)]

    def purge(self, step: int) -> None:
        """Remove nothing, where training resumes: MLflow removes no point, and none is sent twice."""

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[str], step: int | None = None) -> None:  # noqa: ARG002 - as W&B's
        """Keep picture files as artifacts in figures/."""
        with _quiet():
            for file in images:
                self._client.log_artifact(str(self.run_id), file, "figures")

    @rank_zero_only
    def log_artifact(self, path: str) -> None:
        """Keep the tested checkpoint as an artifact in checkpoints/."""
        with _quiet():
            self._client.log_artifact(str(self.run_id), path, "checkpoints")

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:  # noqa: ARG002 - `close` says how the run ended
        """Send what waits: Lightning calls this after training, and the run goes on to its test."""
        self.save()

    @rank_zero_only
    def close(self, status: str) -> None:
        """Send what waits, and say how the run ended: completed, failed or interrupted."""
        self._send()
        with _quiet():
            self._client.set_terminated(str(self.run_id), ENDS[status])


@contextmanager
def _alone(tracking_uri: str) -> Iterator[None]:
    """Let one process at a time open a database of SQLite, which each would otherwise create."""
    path = tracking_uri.removeprefix("sqlite:///")
    with exclusive(Path(path).with_name(LOCK), needed=False) if path != tracking_uri else nullcontext():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what MLflow and its database say to developers off the terminal."""
    import mlflow  # noqa: F401 - it sets levels where it is imported

    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        yield
