"""A training step on a GPU as one CUDA graph: the hundreds of kernels of a small network are launched as one."""

from collections.abc import Callable, Sequence

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from fmx.compat import has_step_hooks
from fmx.data.module import ImageDataModule
from fmx.training.classifier import Batch, Classifier

__all__ = ["StepGraph", "can_be_captured", "fixed_parts"]

# Whose modules do the same at every step, up to what they draw with torch on the GPU. torchvision's transforms draw on
# the CPU, and decide in Python what they do.
KNOWN = ("torch.", "torchvision.models.", "torchvision.ops.", "fmx.")


def can_be_captured(classifier: Classifier, data: LightningDataModule) -> bool:
    """Whether a step does the same each time: what Python decides anew at each step, a graph would not ask again."""
    if type(classifier) is not Classifier or type(data) is not ImageDataModule or torch.is_anomaly_enabled():
        return False
    modules = _modules(classifier, data)
    hooked = any(has_step_hooks(each) for each in [*modules, *classifier.parameters()])
    return not hooked and all(f"{type(module).__module__}.".startswith(KNOWN) for module in modules)


def fixed_parts(classifier: Classifier, data: ImageDataModule) -> list[object]:
    """What a graph takes for fixed: modules and their plain values, where tensors lie, and which of them are trained.

    Where two such lists differ, somebody has changed a part since, and the graph is no longer its step.
    """
    fixed: list[object] = []
    for module in _modules(classifier, data):
        fixed += [module, {name: value for name, value in vars(module).items() if _is_plain(value)}]
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            fixed += [id(tensor), tensor.data_ptr(), tensor.requires_grad]
    return fixed


def _modules(classifier: Classifier, data: ImageDataModule) -> list[nn.Module]:
    """All that a step calls."""
    return [each for part in (classifier.net, classifier.loss, data.augment, data.normalize) for each in part.modules()]


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


class StepGraph:
    """Loss, logits and gradients of a batch, captured once and replayed on each batch of that shape.

    loss_and_logits: of images (B, C, H, W) and labels (B,). What it draws from the GPU's generator is drawn anew at
    each replay, as if it had been called. The capture itself runs nothing. RuntimeError: something in it cannot be
    captured, as what waits for the GPU. https://docs.pytorch.org/docs/stable/notes/cuda.html, CUDA Graphs.
    """

    def __init__(
        self,
        loss_and_logits: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        batch: Batch,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        self._images, self._labels = (part.clone() for part in batch)
        self._parameters = parameters
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            loss, logits = loss_and_logits(self._images, self._labels)
            # Not backward(), which works on the stream of the first step of all.
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            self._gradients = [
                None if gradient is None else _laid_out_as(parameter, gradient)
                for parameter, gradient in zip(parameters, gradients, strict=True)
            ]
        self._loss, self._logits = loss.detach(), logits.detach()

    def fits(self, batch: Batch) -> bool:
        """Whether a batch has the shape that was captured."""
        return batch[0].shape == self._images.shape

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give the parameters their gradients; return the loss and the logits, which the next call overwrites."""
        self._images.copy_(batch[0])
        self._labels.copy_(batch[1])
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss, self._logits


def _laid_out_as(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """The gradient in the parameter's memory format, which fused optimizers ask for."""
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
