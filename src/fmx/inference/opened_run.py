"""A finished run as an object: its metrics, its history, its network and its predictions."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmx.errors import ConfigError, DataError
from fmx.runs import run_dir
from fmx.runs.calibration import needed_calibration
from fmx.runs.ensemble import is_ensemble, open_members, refuse_checkpoint, weights_digest
from fmx.runs.predictions import HELD_OUT, StoredPredictions, read_predictions

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image
    from torch import nn

    from fmx.inference.export.signature import Signature
    from fmx.inference.images import Invert

    Images = NDArray[Any] | Image.Image | str | Path | Sequence[Image.Image | str | Path | NDArray[Any]]

__all__ = ["Prediction", "Run", "open_run"]

BATCH_SIZE = 256  # images


class Prediction(NamedTuple):
    """Predictions for N images: the most probable class of each, and the probabilities of all K classes."""

    names: list[str]  # N
    probabilities: NDArray[np.float64]  # (N, K)
    class_names: list[str]  # K


@dataclass(frozen=True, repr=False)
class Run(run_dir.Run):
    """One finished run, whose files are read when they are asked for.

    path, status; record: run.json; metrics: metrics.json, such as metrics["test"]["accuracy"]; config: the whole
    resolved configuration.
    """

    allow: tuple[str, ...] = ()  # packages whose code the run may name

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def history(self) -> "pd.DataFrame":
        """history.csv, one row per validation: epoch, step, lr, train/loss, train/accuracy, val/loss, ..., seconds."""
        import pandas as pd

        path = self.path / "history.csv"
        try:
            return pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error

    @property
    def predictions(self) -> StoredPredictions:
        """The tested checkpoint's predictions on the test set: labels (N,), logits float32 (N, K), indices (N,)."""
        return read_predictions(self.path)

    @property
    def held_out(self) -> StoredPredictions:
        """The same on the fold that was held out, at positions in the training set; DataError without folds."""
        if not (self.path / HELD_OUT).exists():
            raise DataError(
                f"{self.path} has no {HELD_OUT}: only a run with data.folds leaves the predictions of its fold"
            )
        return read_predictions(self.path, HELD_OUT)

    @property
    def figures(self) -> dict[str, Path]:
        """The PNG files of the run by their names, such as figures["confusion_matrix"]."""
        return {path.stem: path for path in sorted((self.path / "figures").glob("*.png"))}

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return list(self._signature.class_names)

    @property
    def _signature(self) -> "Signature":
        from fmx.inference.export.signature import signature_of
        from fmx.runs.trusted_config import trusted_config

        run = open_members(self.path)[0] if is_ensemble(self.path) else self
        return signature_of(trusted_config(run, self.allow, trains=False), normalize="inside", record=run.record)

    def load_model(self, checkpoint: str | None = None, *, raw: bool = False) -> "nn.Module":
        """The trained network in eval mode on the CPU, which maps images to logits (N, K).

        It takes tensors, arrays and PIL images as `predict` does, and normalises them itself. raw: the
        bare network, which takes normalised float32 (N, C, H, W). checkpoint: best, last or a file; None for the
        one that the run tested. DataError for weights that do not fit, and for code that is not trusted.
        """
        from fmx.inference.image_model import ImageModel
        from fmx.runs.trusted_config import trusted_config
        from fmx.training.restore import restore_classifier

        net = restore_classifier(
            trusted_config(self, self.allow, trains=False), self.checkpoint(checkpoint or self.tested)
        ).net
        return net if raw else ImageModel(self._signature, net).eval()

    def predict(
        self,
        images: "Images",
        *,
        checkpoint: str | None = None,
        invert: "Invert" = "auto",
        calibrated: bool = False,
    ) -> Prediction:
        """Classify images.

        images: (N, H, W), (N, C, H, W) or, where only that fits, (N, H, W, C) of the model's own size, with the values
        of the data set (mostly uint8); a PIL image, a path, or a sequence of these, which are converted as by
        `fmx predict`. invert: swap light and dark;
        auto decides by the border of a picture. calibrated: with the temperature of `fmx evaluate --calibration`.
        DataError for a file that is no image, and where no temperature was fitted; ConfigError for other arrays.
        """
        import torch

        from fmx.inference.image_model import pixels_of

        if is_ensemble(self.path):
            return self._predict_by_members(images, checkpoint=checkpoint, invert=invert, calibrated=calibrated)
        pixels = pixels_of(images, self._signature, invert)
        if not len(pixels):
            raise ConfigError("there are no images to predict")
        temperature = self._temperature(checkpoint) if calibrated else 1.0
        model = self.load_model(checkpoint)
        with torch.inference_mode():
            starts = range(0, len(pixels), BATCH_SIZE)
            logits = [model(torch.from_numpy(pixels[first : first + BATCH_SIZE])) for first in starts]
        probabilities = (torch.cat(logits).double() / temperature).softmax(dim=1).numpy()
        names = self.class_names
        return Prediction([names[number] for number in probabilities.argmax(axis=1)], probabilities, names)

    def _predict_by_members(
        self, images: "Images", *, checkpoint: str | None, invert: "Invert", calibrated: bool
    ) -> Prediction:
        """The mean of the probabilities of an ensemble's members, each with images of its own size and mode."""
        from fmx.inference.calibration import with_temperature

        refuse_checkpoint(self.path, checkpoint)
        temperature = self._temperature(None) if calibrated else 1.0
        members = [Run(run.path, run.record, run.status, self.allow) for run in open_members(self.path)]
        if not isinstance(images, np.ndarray | str | Path | Sequence):  # a generator is read once
            images = list(images) if isinstance(images, Iterable) else images
        each = [member.predict(images, invert=invert) for member in members]
        probabilities = with_temperature(np.mean([one.probabilities for one in each], axis=0), temperature)
        names = each[0].class_names
        return Prediction([names[number] for number in probabilities.argmax(axis=1)], probabilities, names)

    def _temperature(self, checkpoint: str | None) -> float:
        return needed_calibration(self.path, weights_digest(self, checkpoint)).temperature


def open_run(path: str | Path, *, allow: str | Collection[str] = ()) -> Run:
    """Open the directory of a finished run; DataError if it is none."""
    run = run_dir.open_run(path)
    return Run(
        path=run.path, record=run.record, status=run.status, allow=(allow,) if isinstance(allow, str) else tuple(allow)
    )
