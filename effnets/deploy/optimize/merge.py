"""Mixed convolutions merged into fewer, larger ones; the added weights are zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from effnets.deploy.optimize.rewrites import Pointwise, Rewrites
from effnets.deploy.optimize.sequential_block import Network, blocks_of, convs_of, with_weights
from effnets.errors import ArgumentError
from effnets.nn.layers import Conv2d, MixedConv

# Copies of maps with at least so many pixels leave the near caches.
_FULL_PRICE = 14 * 14


def merge_depthwise(network: Network, rewrites: Rewrites) -> None:
    """Merge the mixed depthwise convolutions of a flattened network as `rewrites` says.

    The smaller kernels are padded with zeros. With symmetric padding every kernel is centered on the same pixel. With
    TensorFlow's, a kernel of reach r = dilation · (k - 1) begins ⌊(T + r) / 2⌋ pixels before the first one, where T
    depends only on size and stride; r is even, so two kernels begin (r₁ - r₂) / 2 pixels apart at every input size.
    """
    pixels = _pixels(network)
    for block_name, block in blocks_of(network):
        for name, layer in list(block.named_children()):
            if isinstance(layer, MixedConv) and _is_depthwise(layer):
                rule = rewrites.rule_of(f"{block_name}.{name}", rewrites.depthwise)
                price = rewrites.copy_taps * min(1.0, pixels[block_name] / _FULL_PRICE)
                if any(conv.in_channels % rewrites.group_multiple for conv in convs_of(layer)):
                    price = math.inf
                block.add_module(name, _merged(layer, _runs(rule, convs_of(layer), price)))


def merge_pointwise(network: Network, rewrites: Rewrites) -> None:
    """Merge the mixed pointwise convolutions likewise; raises ArgumentError for a rule that groups unequal groups."""
    for block_name, block in blocks_of(network):
        for name, layer in list(block.named_children()):
            if isinstance(layer, MixedConv) and all(_is_pointwise(conv) for conv in convs_of(layer)):
                equal = len({conv.weight.shape for conv in convs_of(layer)}) == 1
                default: Pointwise = rewrites.equal_pointwise if equal else rewrites.unequal_pointwise
                rule = rewrites.rule_of(f"{block_name}.{name}", default)
                if rule == "group" and not equal:
                    raise ArgumentError(f"{block_name}.{name} has unequal groups; its rule must be keep or dense")
                if rule != "keep":
                    block.add_module(name, _grouped(layer) if rule == "group" else _dense(layer))


def _is_depthwise(mixed: MixedConv) -> bool:
    """Return whether all are depthwise and pad alike; SAME pads nothing for strided 1×1 kernels, unlike the others."""
    return all(conv.groups == conv.in_channels == conv.out_channels for conv in convs_of(mixed)) and (
        len({(conv.stride, conv.pads_by_size) for conv in convs_of(mixed)}) == 1
    )


def _is_pointwise(conv: Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1


def _pixels(network: Network) -> dict[str, int]:
    """Return the pixels of the map that enters each block, by the block's name, at the network's input size."""
    side = _strided(network.spec.input_size, network.plan.stem.stride)
    pixels = {}
    for stage_index, blocks in enumerate(network.plan.stages):
        for index, block in enumerate(blocks):
            pixels[f"stages.{stage_index}.{index}"] = side * side
            side = _strided(side, block.stride)
    return pixels


def _strided(side: int, stride: int) -> int:
    return (side + stride - 1) // stride


def _runs(rule: str, convs: Sequence[Conv2d], copy_price: float) -> list[int]:
    """Return how many neighboring groups are merged at a time."""
    if rule == "all":
        return [len(convs)]
    if rule == "cost":
        return _cheapest_runs(convs, copy_price)
    runs = [int(run) for run in rule.split("+")] if rule != "keep" else []
    return runs if sum(runs) == len(convs) else [1] * len(convs)


def _cheapest_runs(convs: Sequence[Conv2d], copy_price: float) -> list[int]:
    """Return the cheapest of all ways to divide the groups into runs of neighbors; six groups have 32.

    Each output value costs the multiply-adds of its group's kernel. With more than one run it is copied too, and so are
    as many inputs as the stride skips.
    """
    copied = copy_price * (1 + convs[0].stride[0] ** 2)

    def cost(cuts: tuple[int, ...]) -> float:
        parts = [convs[start:end] for start, end in pairwise((0, *cuts, len(convs)))]
        added = copied if cuts else 0
        return sum(sum(conv.in_channels for conv in part) * (_merged_size(part) ** 2 + added) for part in parts)

    places = range(1, len(convs))
    best = min((cuts for count in range(len(convs)) for cuts in combinations(places, count)), key=cost)
    return [end - start for start, end in pairwise((0, *best, len(convs)))]


def _merged(mixed: MixedConv, runs: Sequence[int]) -> Conv2d | MixedConv:
    convs, merged = convs_of(mixed), []
    for run in runs:
        merged.append(_merge(convs[:run]))
        convs = convs[run:]
    return merged[0] if len(merged) == 1 else MixedConv(merged)


def _merge(convs: Sequence[Conv2d]) -> Conv2d:
    """Return one depthwise convolution for several: the kernels at a common dilation, centered in the widest reach."""
    if len(convs) == 1:
        return convs[0]
    dilation, size = _common_dilation(convs), _merged_size(convs)
    weight = torch.cat([_centered(_spread(conv, dilation), size) for conv in convs])
    return with_weights(convs[0], weight, _biases(convs), groups=len(weight), dilation=dilation)


def _common_dilation(convs: Sequence[Conv2d]) -> int:
    """Return the largest dilation that divides every kernel's."""
    return math.gcd(*(conv.dilation[0] for conv in convs if conv.reach)) or 1


def _merged_size(convs: Sequence[Conv2d]) -> int:
    return max(conv.reach for conv in convs) // _common_dilation(convs) + 1


def _spread(conv: Conv2d, dilation: int) -> Tensor:
    """Return the kernel as one of smaller `dilation`, with zeros between its taps."""
    if conv.dilation[0] == dilation or not conv.reach:
        return conv.weight
    size, step = conv.reach // dilation + 1, conv.dilation[0] // dilation
    spread = conv.weight.new_zeros(*conv.weight.shape[:2], size, size)
    spread[..., ::step, ::step] = conv.weight
    return spread


def _centered(weight: Tensor, size: int) -> Tensor:
    margin = (size - weight.shape[-1]) // 2
    return F.pad(weight, (margin, margin, margin, margin))


def _grouped(mixed: MixedConv) -> Conv2d:
    convs = convs_of(mixed)
    return with_weights(convs[0], torch.cat([conv.weight for conv in convs]), _biases(convs), groups=len(convs))


def _dense(mixed: MixedConv) -> Conv2d:
    convs = convs_of(mixed)
    matrices = [conv.weight.flatten(1) for conv in convs]
    weight: Tensor = torch.block_diag(*matrices)  # type: ignore[no-untyped-call]
    return with_weights(convs[0], weight[..., None, None], _biases(convs))


def _biases(convs: Sequence[Conv2d]) -> Tensor | None:
    biases = [conv.bias for conv in convs if conv.bias is not None]
    return torch.cat(biases) if biases else None
