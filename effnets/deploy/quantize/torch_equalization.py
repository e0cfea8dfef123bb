"""Cross-layer equalization of a rewritten network, for formats that are made from it; as for ONNX graphs, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from effnets.deploy.optimize.sequential_block import SequentialBlock, float64, frozen
from effnets.deploy.quantize.cross_layer_equalization import Interval, choose_factors, grouped_weight, through_conv
from effnets.nn.classifier import Classifier
from effnets.nn.layers import Conv2d

_CEILINGS: dict[type[nn.Module], float] = {nn.ReLU: np.inf, nn.ReLU6: 6.0}


@dataclass(eq=False)
class _Stream:
    """Convolutions around values whose channels must be scaled alike; not `possible` if another operation sees them."""

    writers: list[Conv2d] = field(default_factory=list)
    readers: list[Conv2d] = field(default_factory=list)
    clips: list[tuple[NDArray[np.float64], float]] = field(default_factory=list)
    possible: bool = True


def equalize_network(network: Classifier, pixels: tuple[float, float]) -> int:
    """Equalize the channels of a rewritten network with batch normalization folded, in place.

    `pixels` are the bounds of its input. Returns the number of scaled channels.
    """
    scaled = 0
    for stream in _streams(network, pixels):
        writers = [float64(conv.weight).numpy() for conv in stream.writers]
        factors = choose_factors(writers, [_grouped(conv) for conv in stream.readers], stream.clips)
        changed = int((np.abs(factors - 1) > 1e-6).sum())
        if not changed:
            continue
        scaled += changed
        by_channel = torch.from_numpy(factors)
        for conv in stream.writers:
            conv.weight = frozen(float64(conv.weight) * by_channel.view(-1, 1, 1, 1), conv.weight)
            if conv.bias is not None:
                conv.bias = frozen(float64(conv.bias) * by_channel, conv.bias)
        for conv in stream.readers:
            grouped = _grouped(conv)
            divided = grouped / factors.reshape(grouped.shape[0], 1, grouped.shape[2], 1)
            conv.weight = frozen(torch.from_numpy(divided.reshape(conv.weight.shape)), conv.weight)
    return scaled


def _streams(network: Classifier, pixels: tuple[float, float]) -> Iterator[_Stream]:
    """Yield the streams that can be scaled, with the bounds of their values over all images."""
    found: list[_Stream] = []

    def start(*writers: Conv2d) -> _Stream:
        found.append(_Stream(list(writers), possible=bool(writers)))
        return found[-1]

    unknown: Interval = (np.array([-np.inf]), np.array([np.inf]))
    bounds: Interval = (np.array([pixels[0]], np.float64), np.array([pixels[1]], np.float64))
    stream = start()
    parts = [network.stem, *(block for stage in network.stages for block in stage.children()), network.head]
    for part in parts:
        if isinstance(part, nn.Identity):
            continue
        entering, entering_bounds = stream, bounds
        for layer in part if isinstance(part, SequentialBlock) else [part]:
            if type(layer) is Conv2d:
                stream.readers.append(layer)
                bias = None if layer.bias is None else float64(layer.bias).numpy()
                stream, bounds = start(layer), through_conv(_grouped(layer), bias, bounds)
            elif type(layer) in _CEILINGS:
                ceiling = _CEILINGS[type(layer)]
                if np.isfinite(ceiling):
                    stream.clips.append((bounds[1], ceiling))
                bounds = (np.clip(bounds[0], 0, ceiling), np.clip(bounds[1], 0, ceiling))
            else:
                stream.possible = False
                stream, bounds = start(), unknown
        if isinstance(part, SequentialBlock) and part.shortcut:
            if part.splits[1]:  # only some channels are added to
                entering.possible = stream.possible = False
                stream, bounds = start(), unknown
            else:
                entering.writers += stream.writers
                entering.clips += stream.clips
                entering.possible &= stream.possible
                found.remove(stream)
                stream = entering
                bounds = (bounds[0] + entering_bounds[0], bounds[1] + entering_bounds[1])
    stream.possible = False  # the classifier reads it
    yield from (one for one in found if one.possible and one.readers)


def _grouped(conv: Conv2d) -> NDArray[np.float64]:
    return grouped_weight(float64(conv.weight).numpy(), conv.groups)
