"""The input's normalisation, (x - mean) / std, folded into the first convolution."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effnets.deploy.optimize.sequential_block import Chain, Network, exactly, with_weights
from effnets.errors import ArgumentError
from effnets.nn.layers import Conv2d, same_padding

__all__ = ["BorderedConv", "fold_normalisation"]


class BorderedConv(nn.Module):
    """A convolution whose border has one value instead of zeros: the mean, which normalisation would bring to zero."""

    def __init__(self, conv: Conv2d, border: float) -> None:
        super().__init__()
        self.conv = conv
        self.border = border

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        top = bottom = left = right = conv.reach // 2
        if conv.pads_by_size:
            top, bottom = same_padding(x.shape[-2], conv.reach, conv.stride[0])
            left, right = same_padding(x.shape[-1], conv.reach, conv.stride[1])
        x = F.pad(x, (left, right, top, bottom), value=self.border)
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def fold_normalisation(network: Network, mean: Sequence[float], std: Sequence[float]) -> tuple[Network, bool]:
    """A copy of a rewritten network for images that are not normalised, as far as that is exact.

    The scale 1 / std always goes into the weights. The shift goes into the bias where the border can follow: padding is
    zeros *after* normalisation, the mean before it, so that one value must do for all channels.

    Args:
        network: what `optimize` made without `Rewrites.fuse` and `Rewrites.channels_last`.
        mean, std: for each input channel.

    Returns:
        The copy, and whether the shift is in it. Where it is not, the caller still subtracts `mean` first.

    Raises:
        ArgumentError: there are not as many numbers as channels, or a std is not above 0.
    """
    if not len(mean) == len(std) == network.in_chans:
        raise ArgumentError(f"mean and std are {tuple(mean)} and {tuple(std)}; give {network.in_chans} numbers each")
    if min(std) <= 0:
        raise ArgumentError(f"std is {tuple(std)}; every number must be above 0")
    network = copy.deepcopy(network)
    stem: nn.Module = network.stem
    name, conv = next(stem.named_children(), ("", None))
    if not isinstance(stem, Chain) or type(conv) is not Conv2d:
        raise ArgumentError("the first layer is no plain convolution; rewrite the model without fuse and channels_last")
    weight = exactly(conv.weight) / torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
    if conv.reach and len(set(mean)) > 1:
        stem.add_module(name, with_weights(conv, weight, conv.bias))
        return network, False
    shift = -(weight.sum((2, 3)) @ torch.tensor(mean, dtype=torch.float64))
    folded = with_weights(conv, weight, shift if conv.bias is None else shift + exactly(conv.bias))
    stem.add_module(name, BorderedConv(folded, float(mean[0])) if conv.reach else folded)
    return network, True
