"""Which network a plan is, for frameworks that have some networks only. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from effnets.errors import WeightsError
from effnets.spec.plan import BlockPlan, NetworkPlan

__all__ = ["is_mobilenet_v1", "is_mobilenet_v2", "is_rexnet", "is_rexnet_lite", "no_such_network"]

_REDUCTION = 32


def is_mobilenet_v1(plan: NetworkPlan, *, depth: int | None = None) -> bool:
    """Whether this is MobileNetV1 at some width: 3×3 depthwise separable blocks and no head, `depth` of them."""
    blocks = list(plan.blocks)
    return (
        all(block.type == "dsa" and _is_plain(block) for block in blocks)
        and _are_alike(blocks)
        and plan.head is None
        and _is_usual(plan)
        and depth in (None, len(blocks))
    )


def is_mobilenet_v2(plan: NetworkPlan, *, depth: int | None = None) -> bool:
    """Whether this is MobileNetV2 at some width: a separable block, inverted ones, all 3×3, `depth` in all; a head."""
    first, *rest = plan.blocks
    return (
        first.type == "ds"
        and all(block.type == "ir" for block in rest)
        and all(_is_plain(block) for block in (first, *rest))
        and _are_alike([first, *rest])
        and plan.head is not None
        and _is_usual(plan)
        and depth in (None, len(rest) + 1)
    )


def is_rexnet(plan: NetworkPlan) -> bool:
    """Whether this is ReXNet at some width: SiLU, and channels that lie on a line, which ReXNetR's do not."""
    channels = [block.out_channels for block in plan.blocks]
    step = (channels[-1] - channels[0]) / max(1, len(channels) - 1)
    return (
        _are_bottlenecks(plan, "silu")
        and not plan.hidden_channels
        and all(abs(channels[0] + step * index - value) <= 1 for index, value in enumerate(channels))
    )


def is_rexnet_lite(plan: NetworkPlan) -> bool:
    """Whether this is ReXNet-lite at some width: ReLU6, no squeeze-and-excite, 1024 channels after pooling."""
    return (
        _are_bottlenecks(plan, "relu6")
        and plan.hidden_channels == 1024
        and not any(block.squeeze_channels for block in plan.blocks)
    )


def no_such_network(framework: str, networks: str) -> WeightsError:
    """The error for a network that `framework` does not have; `networks` are those it has."""
    return WeightsError(
        f"{framework} has no network like this one, only {networks}; choose the model that the file was made for, or "
        "save in dialect effnets, which holds every network"
    )


def _is_plain(block: BlockPlan) -> bool:
    """3×3 kernels alone, no groups, no squeeze-and-excite."""
    return _has_plain_convolutions(block) and not block.squeeze_channels


def _has_plain_convolutions(block: BlockPlan) -> bool:
    return (
        [conv.kernel_size for conv in block.convolution] == [3] and len(block.expand) <= 1 and len(block.project) == 1
    )


def _are_alike(blocks: Sequence[BlockPlan]) -> bool:
    return len({block.activation for block in blocks}) == 1


def _is_usual(plan: NetworkPlan) -> bool:
    """Nothing behind pooling but the classifier; the usual reduction."""
    return not plan.hidden_channels and _has_usual_reduction(plan)


def _has_usual_reduction(plan: NetworkPlan) -> bool:
    """A 32nd, be it with dilation in place of strides."""
    *_, last = plan.blocks
    strides = math.prod(block.stride for block in plan.blocks) * plan.stem.stride
    return strides * last.convolution[0].dilation == _REDUCTION


def _are_bottlenecks(plan: NetworkPlan, activation: str) -> bool:
    return (
        all(
            block.type == "lb" and block.activation == activation and _has_plain_convolutions(block)
            for block in plan.blocks
        )
        and plan.head is not None
        and _has_usual_reduction(plan)
    )
