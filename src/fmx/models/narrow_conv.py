"""A convolution whose weight gradient suits CPUs that multiply bfloat16 in tiles."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.grad import conv2d_input, conv2d_weight

__all__ = ["NarrowConv2d"]

ROW = 32  # columns that such a CPU takes into one product, of which a map of 7 x 7 fills few


class NarrowConv2d(nn.Conv2d):
    """A convolution for maps of few columns: the same results, and the same gradients but for the order of sums.

    Maps (B, in_channels, H, W) to (B, out_channels, H', W'). oneDNN sums the weight gradient over one row of one image
    at a time. Here several images lie side by side then, with columns of zeros between them: on a CPU with AMX that
    takes half the time at 7 columns. It does so in bfloat16 on a CPU, and is torch's own convolution elsewhere.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding)
        self.pads_little = 2 * padding < kernel_size  # or a row of images would get more columns than they have

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved maps."""
        mixed = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        narrow = 2 * x.shape[-1] <= ROW and self.pads_little
        if not (mixed and narrow and x.device.type == "cpu" and torch.is_grad_enabled()):
            return super().forward(x)
        weight, bias = self.weight.bfloat16(), None if self.bias is None else self.bias.bfloat16()
        convolved: Tensor = _Convolution.apply(x.bfloat16(), weight, bias, self)
        return convolved


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = layer.stride, layer.padding
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = conv2d_input(x.shape, weight, grad, ctx.stride, ctx.padding)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            step, padding = ctx.stride[1], ctx.padding[1]
            # Room for each image: no tap that counts may reach a neighbour, and a whole number of steps to the next.
            room = math.ceil((x.shape[-1] + padding) / step)
            maps = _side_by_side(x, ROW // room, room * step)
            columns = (maps.shape[-1] + 2 * padding - weight.shape[-1]) // step + 1
            grads = _side_by_side(grad, ROW // room, room)[..., :columns]
            of_weight = conv2d_weight(maps, weight.shape, grads, ctx.stride, ctx.padding)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None


def _side_by_side(maps: Tensor, count: int, room: int) -> Tensor:
    """Lay `count` maps (B, C, H, W) at a time beside one another, each in `room` columns: (B / count, C, H, …)."""
    maps = maps.permute(0, 2, 3, 1)
    batch, height, width, channels = maps.shape
    strips = maps.new_zeros(math.ceil(batch / count), height, count, room, channels)
    for place in range(count):
        part = maps[place::count]
        strips[: len(part), :, place, :width] = part
    return strips.view(len(strips), height, count * room, channels).permute(0, 3, 1, 2)
