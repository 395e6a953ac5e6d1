"""A run in Weights & Biases: Lightning's WandbLogger, offline unless the user says otherwise."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import WandbLogger

from fmx.training.logged_points import PointsFile, as_in_history

__all__ = ["RunInWandb"]

AT_THE_END = ("test/", "best/")  # figures that a resumed run logs anew
OF_LIGHTNING = ("prefix", "checkpoint_name", "add_file_policy", "anonymous")  # arguments of WandbLogger alone
PLACES = ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")


class RunInWandb(WandbLogger):
    """Lightning's WandbLogger for the whole of a run: training, test, figures and checkpoint.

    An offline run of W&B cannot be continued: each process writes a file of its own, whose last seconds are lost where
    it is killed. So the points are kept in points.jsonl too, and a resumed run writes them again into the one file that
    stays. WANDB_MODE decides where it is set. writes: whether this is the process of a distributed run that writes.
    """

    def __init__(
        self,
        *,
        save_dir: str,
        writes: bool = True,
        offline: bool = True,
        log_model: Any = True,
        version: str | None = None,
        **others: Any,
    ) -> None:
        mode = os.environ.get("WANDB_MODE") or others.pop("mode", None) or ("offline" if offline else "online")
        of_lightning = {key: others.pop(key) for key in OF_LIGHTNING if key in others}
        others["id"] = version or others.get("id")
        self.log_model = bool(log_model)
        self._is_online = mode == "online"
        self._folder = Path(save_dir) / "wandb"
        self._earlier = [*self._folder.glob("offline-run-*")]
        self._points = PointsFile(self._folder / "points.jsonl")
        self._sent: set[tuple[int | None, str]] = set()
        self._set_here: list[str] = []  # environment variables
        super().__init__(
            project=others.get("project"),
            save_dir=save_dir,
            experiment=self._started(mode, others) if writes else None,
            log_model=log_model if log_model == "all" else False,
            **of_lightning,
        )

    def _started(self, mode: str, others: dict[str, Any]) -> Any:
        """Begin the run; what W&B keeps of its own goes into its folder, not into the user's home."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, value in [
            *((each, str(self._folder / "cache")) for each in PLACES),
            ("WANDB_ERROR_REPORTING", "false"),
        ]:
            if name not in os.environ:
                os.environ[name] = value
                self._set_here.append(name)
        import wandb

        logging.getLogger("wandb").propagate = False  # it has a file of its own
        run = wandb.init(dir=str(self._folder.parent), mode=mode, resume="allow", **others)  # type: ignore[arg-type]
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return run

    @rank_zero_only
    def purge(self, step: int) -> None:
        """Write the points before a step again, where training resumes, in place of those of earlier processes."""
        if self._is_online:
            self._sent = {(at, key) for at, metrics in self._points.read() for key in metrics}
        self._points.keep_before(step)
        if not self._is_online:
            for at, metrics in self._points.read():
                self._log(metrics, at)
            for folder in self._earlier:
                shutil.rmtree(folder, ignore_errors=True)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log each point once, also where an earlier process of an online run has logged it."""
        if not any(key.startswith(AT_THE_END) for key in metrics):
            self._points.add(metrics, step)
        self._log(metrics, step)

    def _log(self, metrics: Mapping[str, Any], step: int | None) -> None:
        new = {key: value for key, value in metrics.items() if (step, key) not in self._sent}
        self._sent |= {(step, key) for key in new}
        values, at = as_in_history(new, step)
        if values.keys() - {"epoch"}:
            super().log_metrics(values, at)

    @rank_zero_only
    def log_artifact(self, path: str) -> None:
        """Name the tested checkpoint as an artifact; offline, W&B reads the file when it is synchronised."""
        import wandb

        artifact = wandb.Artifact(f"model-{self.version}", type="model")
        artifact.add_file(path, name=Path(path).name, policy="immutable")
        self.experiment.log_artifact(artifact)

    @rank_zero_only
    def close(self, status: str) -> None:
        """End the run, and W&B's own process."""
        import wandb

        try:
            self.experiment.finish(exit_code=0 if status == "completed" else 1)
        finally:
            wandb.teardown()
            for name in self._set_here:
                os.environ.pop(name, None)
