"""Batch normalisation folded into the convolution before it."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from effnets.deploy.optimize.sequential_block import Chain, Network, chains_of, convs_of, exactly, with_weights
from effnets.errors import ArgumentError
from effnets.nn.layers import Conv2d, MixedConv, SqueezeExcite


def fold_batch_norms(network: Network) -> Network:
    """A copy of a flattened network without batch normalisation, also inside of squeeze-and-excite.

    With scale s = γ / √(σ² + ε), ``bn(W x + b)`` is ``(s W) x + (s b + β - s μ)``. It is worked out in float64 and
    rounded once.

    Raises:
        ArgumentError: a batch normalisation has no running statistics, so that it has no fixed scale.
    """
    network = copy.deepcopy(network)
    for _, chain in chains_of(network):
        _fold_chain(chain)
    for se in network.modules():
        if isinstance(se, SqueezeExcite) and isinstance(se.bn, _BatchNorm):
            se.reduce = _scaled_conv(se.reduce, *_scale_and_shift(se.bn))
            se.bn = nn.Identity()
    return network


def _fold_chain(chain: Chain) -> None:
    layers = list(chain.named_children())
    for (conv_name, conv), (bn_name, bn) in pairwise(layers):
        if isinstance(conv, Conv2d | MixedConv) and isinstance(bn, _BatchNorm):
            chain.add_module(conv_name, _scaled(conv, *_scale_and_shift(bn)))
            delattr(chain, bn_name)


def _scale_and_shift(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Batch normalisation in evaluation mode as ``scale * x + shift``, in float64."""
    if bn.running_mean is None or bn.running_var is None:
        raise ArgumentError("a batch normalisation keeps no running statistics; only fixed ones can be folded")
    scale = 1 / torch.sqrt(exactly(bn.running_var) + bn.eps)
    shift = -exactly(bn.running_mean) * scale
    if bn.affine:
        weight = exactly(bn.weight)
        scale, shift = scale * weight, shift * weight + exactly(bn.bias)
    return scale, shift


def _scaled(conv: Conv2d | MixedConv, scale: Tensor, shift: Tensor) -> Conv2d | MixedConv:
    if isinstance(conv, Conv2d):
        return _scaled_conv(conv, scale, shift)
    convs = convs_of(conv)
    sizes = [part.out_channels for part in convs]
    parts = zip(convs, torch.split(scale, sizes), torch.split(shift, sizes), strict=True)
    return MixedConv(_scaled_conv(*part) for part in parts)


def _scaled_conv(conv: Conv2d, scale: Tensor, shift: Tensor) -> Conv2d:
    bias = shift if conv.bias is None else shift + scale * exactly(conv.bias)
    return with_weights(conv, exactly(conv.weight) * scale.view(-1, 1, 1, 1), bias)
