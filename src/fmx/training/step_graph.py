"""A training step on a GPU as one CUDA graph: one launch instead of the hundreds of a small network."""

from collections.abc import Callable, Sequence

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from fmx.compat import has_step_hooks
from fmx.data.module import ImageDataModule
from fmx.training.classifier import Batch, Classifier

__all__ = ["StepGraph", "can_be_captured", "fixed_parts"]

# Packages whose modules do the same at every step, except for random numbers that torch draws on the GPU. torchvision's
# transforms draw on the CPU and branch in Python.
KNOWN = ("torch.", "torchvision.models.", "torchvision.ops.", "fmx.")


def can_be_captured(classifier: Classifier, data: LightningDataModule) -> bool:
    """Whether a step does the same each time: a graph does not repeat the decisions that Python makes."""
    if type(classifier) is not Classifier or type(data) is not ImageDataModule or torch.is_anomaly_enabled():
        return False
    if classifier.compiled is not None:
        return False
    modules = _modules(classifier, data)
    hooked = any(has_step_hooks(each) for each in [*modules, *classifier.parameters()])
    return not hooked and all(f"{type(module).__module__}.".startswith(KNOWN) for module in modules)


def fixed_parts(classifier: Classifier, data: ImageDataModule) -> list[object]:
    """What a graph assumes constant: modules and their plain values, the addresses of tensors, and which are trained.

    Where two such lists differ, a part has changed since, and the graph is stale.
    """
    fixed: list[object] = []
    for module in _modules(classifier, data):
        fixed += [module, {name: value for name, value in vars(module).items() if _is_plain(value)}]
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            fixed += [id(tensor), tensor.data_ptr(), tensor.requires_grad]
    return fixed


def _modules(classifier: Classifier, data: ImageDataModule) -> list[nn.Module]:
    """All modules that a step calls."""
    frozen = getattr(classifier.loss, "frozen", ())
    parts = [classifier.net, classifier.loss, *frozen, data.augment, data.normalize]
    return [each for part in parts for each in part.modules()]


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


class StepGraph:
    """Loss, logits, labels and gradients of a batch, captured once and replayed on each batch of that shape.

    outputs: loss and logits of images (B, C, H, W) and labels (B,), and the labels, which it may mix. Random numbers
    from the GPU's generator are drawn at each replay, as in a call. The capture itself runs nothing. RuntimeError:
    something cannot be captured, such as waiting for the GPU.
    https://docs.pytorch.org/docs/stable/notes/cuda.html, CUDA Graphs.
    """

    def __init__(
        self,
        outputs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
        batch: Batch,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        self._images, self._labels = (part.clone() for part in batch)
        self._parameters = parameters
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            loss, logits, labels = outputs(self._images, self._labels)
            # Not backward(), which runs on the stream of the very first step.
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            self._gradients = [
                None if gradient is None else _with_layout_of(parameter, gradient)
                for parameter, gradient in zip(parameters, gradients, strict=True)
            ]
        self._outputs = loss.detach(), logits.detach(), labels

    def fits(self, batch: Batch) -> bool:
        """Whether a batch has the shape that was captured."""
        return batch[0].shape == self._images.shape

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Give the parameters their gradients; return loss, logits and labels, which the next call overwrites."""
        self._images.copy_(batch[0])
        self._labels.copy_(batch[1])
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._outputs


def _with_layout_of(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """The gradient in the parameter's memory format, which fused optimizers require."""
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
