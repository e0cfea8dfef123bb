"""Convolutions made anew with other weights, and the arithmetic that several rewrites share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effnets.nn.layers import Conv2d, MixedConv

__all__ = ["convs_of", "exactly", "frozen", "with_weights"]


def convs_of(layer: Conv2d | MixedConv) -> list[Conv2d]:
    """The convolutions of a mixed one, or the one that a plain one is."""
    return [conv for conv in layer.modules() if isinstance(conv, Conv2d)]


def exactly(tensor: Tensor) -> Tensor:
    """The values in float64, in which a rewrite computes; on the CPU, since Apple's GPUs have no such numbers."""
    return tensor.detach().to(device="cpu", dtype=torch.float64)


def frozen(values: Tensor, like: Tensor) -> nn.Parameter:
    """`values` as a parameter without gradient, of the device and dtype of `like`."""
    return nn.Parameter(values.to(device=like.device, dtype=like.dtype).contiguous(), requires_grad=False)


def with_weights(
    conv: Conv2d, weight: Tensor, bias: Tensor | None, *, groups: int | None = None, dilation: int | None = None
) -> Conv2d:
    """`conv` with other weights ``[out, in / groups, k, k]``, channels and kernel size as they say."""
    groups = conv.groups if groups is None else groups
    made = Conv2d(
        in_channels=weight.shape[1] * groups,
        out_channels=weight.shape[0],
        kernel_size=weight.shape[-1],
        stride=conv.stride[0],
        dilation=conv.dilation[0] if dilation is None else dilation,
        groups=groups,
        bias=bias is not None,
        padding="same" if conv.pads_by_size else "symmetric",
        device=torch.device("meta"),
    )
    made.weight = frozen(weight, conv.weight)
    if bias is not None:
        made.bias = frozen(bias, conv.weight)
    return made.eval()
