"""Mixed depthwise convolution by PyTorch's convolutions, one for each group; and what its groups are.

The functions are those of `effnets.nn.mixed_depthwise_triton`, and compute on any device and in any dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from effnets.nn.layers import Conv2d, same_padding

_LARGEST = 15  # of kernel sizes

ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hard_swish": F.hardswish,
}


@dataclass(frozen=True, slots=True)
class Geometry:
    """The groups of a mixed depthwise convolution.

    Attributes:
        channels, kernel_sizes, dilations: of each group, in channel order.
        stride: 1 or 2. same: TensorFlow's padding, else symmetric.
    """

    channels: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    dilations: tuple[int, ...]
    stride: int = 1
    same: bool = False

    @classmethod
    def of(cls, convs: Sequence[Conv2d]) -> Geometry | None:
        """Return the geometry of convolutions side by side; None if the operator does not compute them."""
        first = convs[0]
        alike = len({(conv.stride, conv.pads_by_size, conv.bias is None, conv.weight.dtype) for conv in convs}) == 1
        depthwise = all(conv.groups == conv.in_channels == conv.out_channels for conv in convs)
        if not alike or not depthwise or first.stride[0] > 2 or max(c.kernel_size[0] for c in convs) > _LARGEST:
            return None
        return cls(
            tuple(conv.in_channels for conv in convs),
            tuple(conv.kernel_size[0] for conv in convs),
            tuple(conv.dilation[0] for conv in convs),
            first.stride[0],
            first.pads_by_size,
        )

    @property
    def weights(self) -> int:
        """How many values the packed weights have."""
        return sum(c * k * k for c, k in zip(self.channels, self.kernel_sizes, strict=True))

    @property
    def reaches(self) -> list[int]:
        """Dilation · (kernel size - 1) of each group."""
        return [dilation * (k - 1) for k, dilation in zip(self.kernel_sizes, self.dilations, strict=True)]

    def padding(self, size: int) -> list[tuple[int, int]]:
        """Return the rows, or columns, of padding before and after an input of `size`, for each group."""
        if not self.same:
            return [(reach // 2, reach // 2) for reach in self.reaches]
        return [same_padding(size, reach, self.stride) for reach in self.reaches]

    def padding_before(self, size: int) -> list[int]:
        """Return the rows, or columns, of padding before an input of `size`, for each group."""
        return [before for before, _ in self.padding(size)]

    def output_size(self, size: int) -> int:
        """Return the output's side for an input's."""
        return (size + self.stride - 1) // self.stride

    @classmethod
    def from_arguments(
        cls, channels: list[int], kernel_sizes: list[int], dilations: list[int], stride: int, same: bool
    ) -> Geometry:
        """Return the geometry of `arguments`."""
        return cls(tuple(channels), tuple(kernel_sizes), tuple(dilations), stride, same)

    @property
    def arguments(self) -> tuple[list[int], list[int], list[int], int, bool]:
        """As the operators take it."""
        return list(self.channels), list(self.kernel_sizes), list(self.dilations), self.stride, self.same


def pack(weights: Iterable[Tensor]) -> Tensor:
    """Return the weights of all groups, each ``[C, 1, k, k]``, as one flat tensor: of each group ``[k · k, C]``."""
    return torch.cat([weight.flatten(1).t().reshape(-1) for weight in weights])


def unpack(packed: Tensor, geometry: Geometry) -> list[Tensor]:
    """Return what was packed."""
    shapes = list(zip(geometry.channels, geometry.kernel_sizes, strict=True))
    parts = torch.split(packed, [c * k * k for c, k in shapes])
    return [part.view(k * k, c).t().reshape(c, 1, k, k) for part, (c, k) in zip(parts, shapes, strict=True)]


def empty_channels_last(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor without values, with the dtype and device of `like`, in the channels_last memory format."""
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, activation: str) -> Tensor:
    """Return the layer's output for `x`, in its dtype and channels_last; arguments as of `mixed_depthwise`."""
    outputs = []
    for part, kernel, conv in zip(
        _split(x, geometry), unpack(weight, geometry), _convolutions(x, geometry), strict=True
    ):
        outputs.append(F.conv2d(conv.pad(part), kernel.to(x.dtype), None, *conv.arguments))
    y = torch.cat(outputs, dim=1)
    if bias is not None:
        y += bias.to(y.dtype)[:, None, None]
    return ACTIVATE[activation](y).contiguous(memory_format=torch.channels_last)


def input_gradient(gradient: Tensor, weight: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Return the gradient of an input of `size` (height, width), in `gradient`'s dtype."""
    found = []
    convs = _convolutions(gradient.new_empty((1, 1, 1, 1)).expand(1, 1, *size), geometry)
    for part, kernel, conv in zip(_split(gradient, geometry), unpack(weight, geometry), convs, strict=True):
        left, right, top, bottom = conv.margins
        padded = (*part.shape[:2], size[0] + top + bottom, size[1] + left + right)
        whole = conv2d_input(padded, kernel.to(part.dtype), part, *conv.arguments)  # type: ignore[no-untyped-call]
        found.append(whole[:, :, top : top + size[0], left : left + size[1]])
    return torch.cat(found, dim=1).contiguous(memory_format=torch.channels_last)


def weight_gradient(x: Tensor, gradient: Tensor, geometry: Geometry) -> Tensor:
    """Return the gradient of the packed weights, in float32, or float64 if `x` is."""
    found = []
    parts = zip(_split(x, geometry), _split(gradient, geometry), _convolutions(x, geometry), strict=True)
    for (part, slopes, conv), k in zip(parts, geometry.kernel_sizes, strict=True):
        shape = (part.shape[1], 1, k, k)
        found.append(conv2d_weight(conv.pad(part), shape, slopes, *conv.arguments))  # type: ignore[no-untyped-call]
    return pack(found).to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True, slots=True)
class _Convolution:
    """Padding, stride, dilation and groups of one group's convolution, as torch takes them.

    `margins` are left, right, top and bottom, as `F.pad` takes them: zeros where the convolution pads by itself.
    """

    margins: tuple[int, int, int, int]
    arguments: tuple[int, tuple[int, int], int, int]

    def pad(self, x: Tensor) -> Tensor:
        return F.pad(x, self.margins) if any(self.margins) else x


def _convolutions(x: Tensor, geometry: Geometry) -> list[_Convolution]:
    found = []
    rows, columns = geometry.padding(x.shape[2]), geometry.padding(x.shape[3])
    for above_below, left_right, dilation, channels in zip(
        rows, columns, geometry.dilations, geometry.channels, strict=True
    ):
        uneven = len({*above_below}) + len({*left_right}) > 2
        padding = (0, 0) if uneven else (above_below[0], left_right[0])
        margins = (*left_right, *above_below) if uneven else (0, 0, 0, 0)
        found.append(_Convolution(margins, (geometry.stride, padding, dilation, channels)))
    return found


def _split(x: Tensor, geometry: Geometry) -> tuple[Tensor, ...]:
    return torch.split(x, list(geometry.channels), dim=1)
