"""Count parameters and multiply-adds, by arithmetic on the plan of a network. Free of torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

from effnets.spec.models import load_spec
from effnets.spec.plan import BlockPlan, ConvPlan, NetworkPlan, make_plan
from effnets.spec.specs import ModelSpec
from effnets.utils.arguments import check_size


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters and multiply-adds of a network.

    `params` counts weights and biases that train (not running statistics). `madds` counts the multiply-adds of
    convolutions and of the classifier for one image, squeeze-and-excitation included; batch normalization,
    activations, pooling and additions are left out, as in the papers.
    """

    params: int = 0
    madds: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.madds + other.madds)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """One part of a network (stem, a stage, head, classifier) with its output's size in pixels and its cost."""

    name: str
    channels: int
    size: tuple[int, int]
    cost: Cost


@runtime_checkable
class Planned(Protocol):
    """A built network with the plan that it was built from."""

    spec: ModelSpec
    plan: NetworkPlan


def count(
    model_or_name: str | os.PathLike[str] | ModelSpec | Planned,
    input_size: int | tuple[int, int] | None = None,
) -> Cost:
    """Count the parameters and multiply-adds of a network.

    Args:
        model_or_name: a name, a YAML file, a spec, or a built network (with its actual classifier and input channels).
        input_size: side of the input in pixels, or (height, width); None takes the network's own.

    Raises:
        UnknownModelError, ConfigError: as `load_spec`. ArgumentError: if `input_size` is not a size.
    """
    if isinstance(model_or_name, Planned):
        spec, plan = model_or_name.spec, model_or_name.plan
    else:
        spec = load_spec(model_or_name)
        plan = make_plan(spec)
    return sum_costs(stage_costs(plan, spec.input_size if input_size is None else input_size))


def sum_costs(stages: Iterable[StageCost]) -> Cost:
    """Add the costs of all `stages`."""
    return sum((stage.cost for stage in stages), Cost())


def stage_costs(plan: NetworkPlan, input_size: int | tuple[int, int]) -> list[StageCost]:
    """Count each part of a network, in the order in which they run.

    Raises:
        ArgumentError: if `input_size` is neither a side nor (height, width).
    """
    size = strided_size(check_size(input_size, "input_size"), plan.stem.stride)
    stages = [_stage("stem", plan.stem.out_channels, size, conv_bn_cost((plan.stem,), size))]
    for index, blocks in enumerate(plan.stages):
        cost = Cost()
        for block in blocks:
            cost += _block(block, size)
            size = strided_size(size, block.stride)
        stages.append(_stage(f"stages.{index}", blocks[-1].out_channels, size, cost))
    if plan.head:
        stages.append(_stage("head", plan.head.out_channels, size, conv_bn_cost((plan.head,), size)))
    if hidden := plan.hidden_channels:
        stages.append(_stage("hidden", hidden, (1, 1), _linear(plan.num_features, hidden) + _bn(hidden)))
    if classes := plan.num_classes:
        stages.append(_stage("classifier", classes, (1, 1), _linear(plan.pre_logits_channels, classes)))
    return stages


def peak_memory(plan: NetworkPlan, input_size: int | tuple[int, int]) -> int:
    """Return the bytes that feature maps of one image take at most, in float32, without weights.

    Convolutions run one by one, each with its normalization and activation: alive are its input, its output, and the
    input of the block where a shortcut still needs it (MobileNetV2, arXiv:1801.04381, section 5.1, whose further saving
    by splitting blocks is left out). An engine may take more.

    Raises:
        ArgumentError: if `input_size` is neither a side nor (height, width).
    """
    height, width = check_size(input_size, "input_size")
    size = strided_size((height, width), plan.stem.stride)
    peak = plan.stem.in_channels * height * width + plan.stem.out_channels * math.prod(size)
    for block in plan.blocks:
        before, size = math.prod(size), strided_size(size, block.stride)
        after = math.prod(size)
        taken = block.in_channels * before
        maps = [taken, *([block.expanded_channels * before] if block.expand else [])]
        spatial = sum(conv.out_channels for conv in block.convolution) * after
        maps += [spatial, *([block.out_channels * after] if block.project else [])]
        kept = taken if block.shortcut else 0
        pairs = [first + second for first, second in pairwise(maps)]
        peak = max(peak, pairs[0], *(pair + kept for pair in pairs[1:]))
    if plan.head:
        peak = max(peak, (plan.head.in_channels + plan.head.out_channels) * math.prod(size))
    return 4 * peak


def _stage(name: str, channels: int, size: tuple[int, int], cost: Cost) -> StageCost:
    return StageCost(name=name, channels=channels, size=size, cost=cost)


def strided_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the size of a map after a stride: the ceiling, with SAME padding and symmetric padding of odd kernels."""
    return -(-size[0] // stride), -(-size[1] // stride)


def conv_bn_cost(convs: Iterable[ConvPlan], size: tuple[int, int]) -> Cost:
    """Count convolutions with an output of `size`, and the batch normalization after them."""
    weights = channels = 0
    for conv in convs:
        weights += conv.weights
        channels += conv.out_channels
    return Cost(weights, weights * size[0] * size[1]) + _bn(channels)


def _bn(channels: int) -> Cost:
    return Cost(params=2 * channels)


def _linear(inputs: int, outputs: int) -> Cost:
    return Cost(params=inputs * outputs + outputs, madds=inputs * outputs)


def _block(block: BlockPlan, size: tuple[int, int]) -> Cost:
    out_size = strided_size(size, block.stride)
    cost = (
        conv_bn_cost(block.expand, size)
        + conv_bn_cost(block.convolution, out_size)
        + conv_bn_cost(block.project, out_size)
    )
    if squeeze := block.squeeze_channels:
        cost += _linear(block.expanded_channels, squeeze) + _linear(squeeze, block.expanded_channels)
        if block.type == "lb":
            cost += _bn(squeeze)
    return cost
