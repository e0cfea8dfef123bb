"""`MicroBatchClassifier`: a large batch goes through the first layers in parts that stay in the processor's caches."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from effnets.deploy.optimize.sequential_block import SequentialBlock, needs_plain_operators
from effnets.nn.classifier import Classifier
from effnets.nn.layers import SqueezeExcite


class MicroBatchClassifier(Classifier):
    """A flattened classifier each of whose layers takes as many images at a time as fit; made by `use_micro_batches`.

    The maps of a few images fit into a cache, and into memory that malloc keeps. Those of a large batch do neither:
    glibc maps every block above 32 MiB again, and clearing its pages takes longer than many a convolution. The first
    layers, whose maps are large, so run on parts of a batch, and the last, with small maps, on all of it.

    On other devices, with gradients, with hooks on stages, and wherever the network is traced, compiled or exported,
    batches stay whole. Hooks of blocks are called with parts.
    """

    max_map_bytes: int
    _peaks: list[float]

    def forward_features(self, x: Tensor) -> Tensor:
        layers = _first_layers(self)
        if needs_plain_operators(x) or x.ndim != 4 or not x.numel() or len(layers) != len(self._peaks):
            return super().forward_features(x)
        if any(part._forward_hooks or part._forward_pre_hooks for part in (self.stages, *self.stages)):
            return super().forward_features(x)  # who watches a stage wants all of its output
        image_bytes = x.shape[2] * x.shape[3] * x.element_size()
        sizes = [max(1, int(self.max_map_bytes / (image_bytes * peak))) for peak in self._peaks]
        features: Tensor = self.head(_run(layers, sizes, x))
        return features


def _run(layers: list[nn.Module], sizes: list[int], x: Tensor) -> Tensor:
    """Run `layers` on `x`, the last of them on at most so many images at a time as its size, each before it as well."""
    if not layers:
        return x
    if len(x) > sizes[-1]:
        parts = x.chunk(-(-len(x) // sizes[-1]))
        return torch.cat([_run(layers, sizes, part) for part in parts])
    y: Tensor = layers[-1](_run(layers[:-1], sizes[:-1], x))
    return y


def use_micro_batches(network: Classifier, megabytes: int) -> None:
    """Let a flattened classifier compute on parts of a batch whose maps take at most so many megabytes each.

    One with a forward of its own, or with stages that have one, is left as it is.
    """
    stages = (network.stages, *network.stages)
    if type(network) is not Classifier or any(type(part) is not nn.Sequential for part in stages):
        return
    network.__class__ = MicroBatchClassifier
    made = cast(MicroBatchClassifier, network)
    made.max_map_bytes = megabytes * 10**6
    made._peaks = _largest_maps(made)


def _first_layers(network: Classifier) -> list[nn.Module]:
    return [network.stem, *(block for stage in network.stages for block in stage.children())]


def _largest_maps(network: Classifier) -> list[float]:
    """Return how many values the largest map within the stem and each block has, for each pixel of the image."""
    stride, peaks = 1, [float(network.in_chans)]
    for layer in _first_layers(network):
        found = []
        for part in (part for block in layer.modules() if isinstance(block, SequentialBlock) for part in block):
            convs = [conv for conv in part.modules() if isinstance(conv, nn.Conv2d)]
            if convs and not isinstance(part, SqueezeExcite):
                stride *= convs[0].stride[0]
                found.append(sum(conv.out_channels for conv in convs) / stride**2)
        peaks.append(max(found, default=peaks[-1]))
    return peaks[1:]
