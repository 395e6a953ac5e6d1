"""Callbacks of Lightning that would not do in a run what they say: each is refused, with what to use instead."""

from collections.abc import Mapping

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    ProgressBar,
    StochasticWeightAveraging,
    ThroughputMonitor,
    WeightAveraging,
)

from fmx.errors import ConfigError

__all__ = ["check_callbacks"]

INSTEAD: Mapping[type[Callback], str] = {
    StochasticWeightAveraging: (
        "it never validates its average, so select=best tests other weights and select=last has no figure of them; use "
        "'callbacks=[default,swa]'"
    ),
    LearningRateFinder: (
        "it would train at another rate than the configuration says; `fmx lr-find OVERRIDES` prints the rate to set"
    ),
    BatchSizeFinder: (
        "it would train with another batch size than the configuration says; try sizes with "
        "-m data.batch_size=64,128,256"
    ),
    GradientAccumulationScheduler: (
        "the schedule of the rate is as long as the training, which it would shorten; set "
        "trainer.accumulate_grad_batches=N for all epochs"
    ),
    ModelPruning: (
        "it prunes the weights after they are validated, so the figure would be of other weights than those tested; "
        "prune the network of a finished run: fmx.open_run(RUN).load_model() and torch.nn.utils.prune"
    ),
}


def check_callbacks(callbacks: Mapping[str, Callback], *, shows_progress_bar: bool, epochs: int) -> None:
    """ConfigError for the first callback that does not go with a run, or with another one.

    callbacks: by name. shows_progress_bar: whether the Trainer takes bars besides fmx's. epochs: of the training.
    """
    averages: str | None = None
    for name, callback in callbacks.items():
        what = f"callbacks.{name}: {type(callback).__name__}"
        for kind, instead in INSTEAD.items():
            if isinstance(callback, kind):
                raise ConfigError(f"{what} does not go with a run: {instead}")
        if isinstance(callback, ProgressBar) and not shows_progress_bar:
            raise ConfigError(
                f"{what} would be a second bar beside callbacks.progress: leave it out, or have it in place of that "
                "one with ~callbacks.progress trainer.enable_progress_bar=true"
            )
        if isinstance(callback, ThroughputMonitor) and not callable(callback.batch_size_fn):
            raise ConfigError(
                f"{what} needs a function for batch_size_fn, got {callback.batch_size_fn!r}; run.json has the images "
                "per second of each run (timing.images_per_s) without it"
            )
        if isinstance(callback, WeightAveraging):
            if averages is not None:
                raise ConfigError(f"callbacks.{averages} and callbacks.{name} both average the weights: leave one out")
            averages = name
            if any(callback.should_update(epoch_idx=epoch) for epoch in range(epochs)):
                raise ConfigError(
                    f"{what} would change the average at the end of an epoch, after its validation, so the figure "
                    "would be of other weights than those tested; average after steps (should_update(step_idx=…), "
                    "update_starting_at_step), or use 'callbacks=[default,swa]'"
                )
