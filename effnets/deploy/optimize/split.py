"""Depthwise convolutions with large kernels as sums of small ones, for engines that have fast code for these alone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from effnets.deploy.optimize.sequential_block import Network, blocks_of, convs_of, frozen
from effnets.nn.layers import Conv2d, MixedConv, same_padding


class SplitConv(nn.ModuleList):
    """A convolution whose kernel is cut into bands of rows, each a convolution of its own; their sum is the output.

    Args:
        conv: the convolution, without dilation. rows: of the kernel in a band; the last may have fewer.
    """

    def __init__(self, conv: Conv2d, rows: int) -> None:
        size = conv.kernel_size[0]
        bands = [(top, min(top + rows, size)) for top in range(0, size, rows)]
        super().__init__(_band(conv, top, bottom) for top, bottom in bands)
        self.bands, self.size, self.stride = bands, size, conv.stride[0]
        self.pads_by_size, self.padding = conv.pads_by_size, conv.reach // 2
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        above, below = left, right = self.padding, self.padding
        if self.pads_by_size:
            above, below = same_padding(x.shape[-2], self.size - 1, self.stride)
            left, right = same_padding(x.shape[-1], self.size - 1, self.stride)
        x = F.pad(x, (left, right, above, below))
        height = x.shape[-2]
        total: Tensor | None = None
        for conv, (top, bottom) in zip(self, self.bands, strict=True):
            part: Tensor = conv(x.narrow(2, top, height - self.size + bottom - top))
            total = part if total is None else total + part
        assert total is not None, "there is at least one band"
        return total


def split_depthwise(network: Network, taps: tuple[int, ...]) -> None:
    """Split the depthwise kernels of a flattened network that have more values than any of `taps`."""
    for _, block in blocks_of(network):
        for name, layer in list(block.named_children()):
            if isinstance(layer, Conv2d):
                block.add_module(name, _split(layer, taps))
            elif isinstance(layer, MixedConv):
                for index, conv in enumerate(convs_of(layer)):
                    layer[index] = _split(conv, taps)


def _split(conv: Conv2d, taps: tuple[int, ...]) -> nn.Module:
    size = conv.kernel_size[0]
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    if not depthwise or conv.dilation[0] > 1 or not size <= max(taps) < size * size:
        return conv
    return SplitConv(conv, cheapest_rows(size, taps))


def cheapest_rows(size: int, taps: tuple[int, ...]) -> int:
    """Return how many rows of a kernel of that size cost least together, the most if several do.

    A convolution costs what the smallest fast one costs that has its values.
    """

    def cost(rows: int) -> int:
        bands = [rows] * (size // rows) + [size % rows] * (size % rows > 0)
        return sum(min(fast for fast in taps if fast >= band * size) for band in bands)

    return min(range(1, max(taps) // size + 1), key=lambda rows: (cost(rows), -rows))


def _band(conv: Conv2d, top: int, bottom: int) -> nn.Conv2d:
    """Return the convolution with some rows of the kernel, without padding; the first has the bias."""
    band = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (bottom - top, conv.kernel_size[1]),
        conv.stride[0],
        groups=conv.groups,
        bias=conv.bias is not None and top == 0,
        device="meta",
    )
    band.weight = frozen(conv.weight.detach()[:, :, top:bottom], conv.weight)
    if band.bias is not None and conv.bias is not None:
        band.bias = frozen(conv.bias.detach(), conv.weight)
    return band
