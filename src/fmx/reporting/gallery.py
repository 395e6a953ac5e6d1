"""The figures of a run: PNG files in figures/, and the same in TensorBoard."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import nn

from fmx.compat import packed_image_writer
from fmx.data.module import ImageDataModule
from fmx.inference.scoring import Predictions
from fmx.reporting.figures.augmented import augmented
from fmx.reporting.figures.confusion import confusion_matrix
from fmx.reporting.figures.fonts import drawable
from fmx.reporting.figures.learning_curves import learning_curves
from fmx.reporting.figures.png import png
from fmx.reporting.figures.predictions import mistakes, predictions
from fmx.reporting.figures.samples import samples
from fmx.reporting.figures.steps import step_curves

__all__ = ["Gallery"]

NUM_AUGMENTED = 32  # images
RGB = 3  # channels of the PNG files


class Gallery:
    """Draws one run's figures, and writes each to its folder and to every logger that takes pictures."""

    def __init__(self, run_dir: Path, data: ImageDataModule, loggers: Iterable[Logger]) -> None:
        self.folder = run_dir / "figures"
        self.data = data
        self.names = drawable(data.class_names, data.english_names)
        self.writers = [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]
        self.files: dict[str, tuple[Path, int]] = {}  # of each figure, with its step

    def draw_samples(self) -> None:
        """Draw training images, and some as they are augmented, unless they are trained on as they are."""
        self._show("samples", samples(self.data.pictures("train"), self.data.labels("train"), self.names), step=0)
        if type(self.data.augment) is not nn.Identity:
            self._show("augmented", augmented(*self.data.augmented_samples(NUM_AUGMENTED), self.names), step=0)

    def draw_steps(self, steps: pd.DataFrame) -> None:
        """Draw the loss and accuracy of each training step."""
        self._show("steps", step_curves(steps), step=int(steps["step"].iloc[-1]))

    def draw_results(self, history: pd.DataFrame, chosen_step: int, test: Predictions) -> None:
        """Draw the learning curves with the chosen checkpoint marked, and the predictions on the test set."""
        pictures, predicted = self.data.pictures("test"), test.logits.argmax(1)
        figures = {
            "learning_curves": learning_curves(history, chosen_step),
            "confusion_matrix": confusion_matrix(test.labels, predicted, self.names),
            "predictions": predictions(pictures, test.labels, test.logits, self.names),
            "mistakes": mistakes(pictures, test.labels, test.logits, self.names),
        }
        for name, figure in figures.items():
            self._show(name, figure, step=chosen_step)

    def _show(self, name: str, figure: Figure, *, step: int) -> None:
        self.folder.mkdir(exist_ok=True)
        file, encoded = self.folder / f"{name}.png", png(figure)
        file.write_bytes(encoded)
        self.files[name] = (file, step)
        for writer in self.writers:  # add_figure would draw and encode everything again
            if events := packed_image_writer(writer):
                width, height = map(round, figure.bbox.size)
                image = Summary.Image(height=height, width=width, colorspace=RGB, encoded_image_string=encoded)
                events.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
            else:
                writer.add_image(name, np.asarray(Image.open(file)), step, dataformats="HWC")
