"""Distillation: a network learns from the outputs of a trained one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fmx.models.logits import logits_of

__all__ = ["Distillation"]


class Distillation(nn.Module):
    """Cross entropy with the labels, and with what a teacher makes of the same images (Hinton et al., 2015,
    arXiv:1503.02531): (1 - alpha) H(labels, p) + alpha T^2 KL(q_T || p_T), of softmax at the temperature T.

    teacher: the directory of its run; allow: packages whose code that run may name. The network itself comes later, by
    `use_teacher`: no evaluation needs it. alpha: the teacher's share, from 0 to 1. In eval mode the loss is the plain
    cross entropy. Raises ValueError for a temperature or a share that is out of range.
    """

    takes_images = True  # the third argument of forward

    def __init__(self, *, teacher: str | None, temperature: float, alpha: float, allow: Sequence[str]) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
        self.teacher = teacher
        self.temperature = temperature
        self.alpha = alpha
        self.allow = tuple(allow)
        self._teachers: tuple[nn.Module, ...] = ()  # a tuple, so that it is no part of the checkpoint

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """The networks that a step calls and that are no part of this one."""
        return self._teachers

    def use_teacher(self, net: nn.Module) -> None:
        """Set the teacher, a network from normalised images (B, C, H, W) to logits (B, K); it is not trained."""
        self._teachers = (net.eval().requires_grad_(requires_grad=False),)

    def forward(self, logits: Tensor, labels: Tensor, images: Tensor | None = None) -> Tensor:
        """Return the mean loss of the batch, a scalar; labels (B,), or (B, K) of mixed images."""
        by_labels = functional.cross_entropy(logits, labels)
        if not self.training:
            return by_labels
        if images is None or not self._teachers:
            raise ValueError("distillation needs the images of a step and a teacher: call use_teacher before training")
        with torch.no_grad():
            (teacher,) = self._teachers
            taught = logits_of(teacher.to(images.device)(images)) / self.temperature
        by_teacher = functional.kl_div(
            functional.log_softmax(logits / self.temperature, dim=1),
            functional.log_softmax(taught, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.alpha) * by_labels + self.alpha * self.temperature**2 * by_teacher
