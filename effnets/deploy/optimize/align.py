"""Channels padded with zeros to a multiple that engines compute faster: 8 or 16 values fill a vector register."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from effnets.deploy.optimize.sequential_block import (
    Network,
    SequentialBlock,
    convs_of,
    float64,
    frozen,
    in_channels_of,
    with_weights,
)
from effnets.errors import ArgumentError
from effnets.nn.classifier import Classifier
from effnets.nn.features import FeaturePyramid
from effnets.nn.layers import Conv2d, MixedConv, SqueezeExcite

# Activations that map zero to zero, so that the added channels stay zero.
_KEEP_ZERO = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish)


class TrimChannels(nn.Module):
    """Returns the first `channels` channels and drops those that were added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x.narrow(1, 0, self.channels)

    def extra_repr(self) -> str:
        return str(self.channels)


def align_channels(network: Network, multiple: int) -> None:
    """Pad the channels of a flattened network to a multiple, squeeze-and-excite's inner ones too.

    The added weights are zeros, hence the added channels, and every activation here keeps them zero. Feature maps and
    the classifier's input, which are read from outside, keep their channels. Run it before pointwise groups are merged:
    the last group takes the added channels. Raises ArgumentError for a layer that is not one of this library's.
    """
    width = _align_block(network.stem, multiple, None)
    # Stages whose output is read from outside, or enters the classifier.
    read: set[int] = set()
    if isinstance(network, FeaturePyramid):
        read = {level.stage for level in network.plan.features}
    elif isinstance(network.head, nn.Identity):
        read = {len(network.stages) - 1}
    if -1 in read:
        width = _trim(network.stem, width, network.plan.stem.out_channels)
    for index, (stage, blocks) in enumerate(zip(network.stages, network.plan.stages, strict=True)):
        for block in stage.children():
            width = _align_block(block, multiple, width)
        if index in read:
            width = _trim(stage, width, blocks[-1].out_channels)
    if isinstance(network, Classifier):
        if isinstance(network.head, SequentialBlock):
            width = _trim(network.head, _align_block(network.head, multiple, width), network.num_features)
        if isinstance(network.hidden, SequentialBlock):
            _trim(network.hidden, _align_block(network.hidden, multiple, width), network.head_hidden_size)


def _trim(layers: nn.Module, width: int, channels: int) -> int:
    if width > channels:
        layers.add_module("trim", TrimChannels(channels))
    return channels


def _align_block(block: nn.Module, multiple: int, width: int | None) -> int:
    """Pad the layers for an input of `width` channels (None: not padded), and return the number of output channels."""
    assert isinstance(block, SequentialBlock)
    entering = width
    for name, layer in list(block.named_children()):
        if isinstance(layer, Conv2d | MixedConv):
            width = in_channels_of(layer) if width is None else width
            entering = width if entering is None else entering
            # A depthwise convolution gives as many channels as it takes.
            depthwise = all(_is_depthwise(conv) for conv in convs_of(layer))
            layer = _widen_conv(layer, width, width if depthwise else _round_up(_out_channels(layer), multiple))
            width = _out_channels(layer)
            block.add_module(name, layer)
        elif isinstance(layer, _BatchNorm) and width is not None:
            _widen_bn(layer, width)
        elif isinstance(layer, SqueezeExcite) and width is not None:
            inner = _round_up(layer.reduce.out_channels, multiple)
            layer.reduce = _widen_plain(layer.reduce, width, inner)
            if isinstance(layer.bn, _BatchNorm):
                _widen_bn(layer.bn, inner)
            layer.expand = _widen_plain(layer.expand, inner, width)
        elif not isinstance(layer, _KEEP_ZERO):
            raise ArgumentError(f"{name} is a {type(layer).__name__}, through which zeros may not stay zeros")
    assert width is not None
    if block.shortcut and entering is not None:
        # The input's own added channels are zeros: adding them changes nothing.
        block.splits = (entering, width - entering)
    return width


def _round_up(channels: int, multiple: int) -> int:
    return (channels + multiple - 1) // multiple * multiple


def _is_depthwise(conv: Conv2d) -> bool:
    return conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1


def _out_channels(layer: Conv2d | MixedConv) -> int:
    return sum(conv.out_channels for conv in convs_of(layer))


def _widen_conv(layer: Conv2d | MixedConv, inputs: int, outputs: int) -> Conv2d | MixedConv:
    if isinstance(layer, Conv2d):
        return _widen_plain(layer, inputs, outputs)
    *convs, last = convs_of(layer)
    added_inputs, added_outputs = inputs - in_channels_of(layer), outputs - _out_channels(layer)
    widened = _widen_plain(last, last.in_channels + added_inputs, last.out_channels + added_outputs)
    return MixedConv([*convs, widened])


def _widen_plain(conv: Conv2d, inputs: int, outputs: int) -> Conv2d:
    if (conv.in_channels, conv.out_channels) == (inputs, outputs):
        return conv
    added_inputs, added_outputs = inputs - conv.in_channels, outputs - conv.out_channels
    groups = 1
    if _is_depthwise(conv):
        groups, added_inputs = outputs, 0
    elif conv.groups > 1:
        raise ArgumentError("a grouped convolution cannot be padded; align channels before groups are merged")
    weight = F.pad(float64(conv.weight), (0, 0, 0, 0, 0, added_inputs, 0, added_outputs))
    bias = None if conv.bias is None else F.pad(float64(conv.bias), (0, added_outputs))
    return with_weights(conv, weight, bias, groups=groups)


def _widen_bn(bn: _BatchNorm, channels: int) -> None:
    """Add channels that map zero to zero: (0 - 0) / √(1 + ε) · 0 + 0."""
    added = channels - bn.num_features
    for values, fill in ((bn.weight, 0.0), (bn.bias, 0.0), (bn.running_mean, 0.0), (bn.running_var, 1.0)):
        if values is not None:
            values.data = frozen(F.pad(float64(values), (0, added), value=fill), values).data
    bn.num_features = channels
