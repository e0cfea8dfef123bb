"""What int8 does to a network in torch, whatever the format: rounding of weights and inputs, and its correction.

All formats round weights to -127..127 with a scale for each output channel, and values to 256 levels. So biases can be
corrected, and layers compared, before any file is made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effnets.deploy.optimize.sequential_block import float64, frozen
from effnets.deploy.quantize.qdq_graph import Ranges
from effnets.nn.layers import Conv2d

_LEVELS, _LARGEST_WEIGHT = 255, 127
_LARGEST_BIAS = 2.0**30  # of int32's 2^31, so that the sum of the products has room

Batches = Iterable[NDArray[np.float32]]


def layers_of_network(network: nn.Module) -> dict[str, Conv2d | nn.Linear]:
    """Return the layers with weights by name, in their order."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, Conv2d | nn.Linear)}


@torch.inference_mode()
def logits_by_torch(network: nn.Module, batches: Batches) -> NDArray[np.float32]:
    """Return logits ``[N, C]``."""
    return np.concatenate([network(torch.from_numpy(images)).numpy() for images in batches])


def input_ranges(network: nn.Module, batches: Batches) -> Ranges:
    """Return the least and the largest input of each layer, zero included, which every quantization represents."""
    ranges: Ranges = {}

    def watch(name: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
        least, most = torch.aminmax(inputs[0])
        low, high = ranges.get(name, (0.0, 1e-9))
        ranges[name] = min(low, least.item()), max(high, most.item())

    with _hooks(network, lambda name, layer: layer.register_forward_pre_hook(partial(watch, name))):
        logits_by_torch(network, batches)
    return ranges


def round_weight(weight: Tensor) -> Tensor:
    """Return the weight as int8 represents it, with a scale for each output channel."""
    dims = tuple(range(1, weight.ndim))
    scale = (weight.abs().amax(dims, keepdim=True) / _LARGEST_WEIGHT).clamp_min(1e-30)
    return (weight / scale).round() * scale


def round_values(values: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Return values as int8 represents them in that range."""
    low, high = bounds
    scale = (high - low) / _LEVELS
    zero = round(-low / scale)
    return ((values / scale).round() + zero).clamp(0, _LEVELS).sub(zero) * scale


def rounded_network(network: nn.Module, ranges: Ranges, float_layers: Collection[str] = ()) -> nn.Module:
    """Return a copy that rounds weights and inputs of all layers except `float_layers`."""
    rounded = copy.deepcopy(network)
    for name, layer in layers_of_network(rounded).items():
        if name not in float_layers:
            layer.weight = frozen(round_weight(layer.weight), layer.weight)
            layer.register_forward_pre_hook(partial(_round_inputs, ranges[name]))
    return rounded


def _round_inputs(bounds: tuple[float, float], _: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return round_values(inputs[0], bounds)


def correct_biases(network: nn.Module, ranges: Ranges, batches: Batches) -> None:
    """Subtract the mean error by rounding from the bias of each convolution, in place (Nagel et al. 2019, section 4.2).

    Every layer is measured on its rounded float inputs, so that its correction does not depend on which others are in
    int8. The means are over the calibration images (the paper derives them from batch normalization).
    """
    convs = {name: layer for name, layer in layers_of_network(network).items() if isinstance(layer, Conv2d)}
    twins = copy.deepcopy(convs)
    for twin in twins.values():
        twin.weight = frozen(round_weight(twin.weight), twin.weight)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        error = twins[name](round_values(inputs[0], ranges[name])) - output
        sums[name] = sums.get(name, 0.0) + float64(error.mean((2, 3))).sum(0)
        counts[name] = counts.get(name, 0) + len(output)

    def register(name: str, layer: nn.Module) -> Any:
        return layer.register_forward_hook(partial(watch, name)) if name in convs else None

    with _hooks(network, register):
        logits_by_torch(network, batches)
    for name, total in sums.items():
        conv = convs[name]
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
        conv.bias = frozen(float64(bias) - total / counts[name], conv.weight)


def fit_biases(network: nn.Module, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise tiny weights, in place, of channels whose biases would not fit into 32 bits.

    A bias is rounded to the scale of the products, that of the inputs times that of the channel's weights. Networks
    that were quantized before have channels with a bias alone; converters would clip it. The largest weight of such a
    channel becomes the least that suffices, which changes its output by less than 1e-4 of its bias.
    """
    for name, layer in layers_of_network(network).items():
        if layer.bias is None:
            continue
        low, high = ranges[name]
        weight = float64(layer.weight).flatten(1)
        least = float64(layer.bias).abs() * _LARGEST_WEIGHT * _LEVELS / ((high - low) * _LARGEST_BIAS)
        most, where = weight.abs().max(1)
        rows = torch.nonzero(most < least).flatten()
        if len(rows):
            sign = torch.where(weight[rows, where[rows]] < 0, -1.0, 1.0)
            weight[rows, where[rows]] = sign * least[rows]
            layer.weight = frozen(weight.view(layer.weight.shape), layer.weight)


@contextmanager
def _hooks(network: nn.Module, register: Callable[[str, nn.Module], Any]) -> Iterator[None]:
    handles = [register(name, layer) for name, layer in layers_of_network(network).items()]
    try:
        yield
    finally:
        for handle in handles:
            if handle is not None:
                handle.remove()
