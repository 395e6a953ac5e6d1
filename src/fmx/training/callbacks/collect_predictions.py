"""The predictions of all batches in one array."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

__all__ = ["CollectPredictions"]


class CollectPredictions(Callback):
    """Writes what each batch's step returns, tensors of as many rows as the batch has images, into `arrays`.

    The step is predict_step, or test_step, which returns them by name. images: how many there may be; `count` of them
    were predicted. The arrays are preallocated: tensors kept from each batch would fragment the heap, and memory would
    grow with the number of batches.
    """

    def __init__(self, images: int) -> None:
        self._images = images
        self.arrays: list[Tensor] = []
        self.count = 0

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """Store the rows of a batch."""
        self._store(outputs)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """Store the rows of a batch."""
        self._store([*outputs.values()])

    def _store(self, outputs: Sequence[Tensor]) -> None:
        self.arrays = self.arrays or [each.new_empty(self._images, *each.shape[1:]) for each in outputs]
        for array, rows in zip(self.arrays, outputs, strict=True):
            array[self.count : self.count + len(rows)] = rows
        self.count += len(outputs[0])
