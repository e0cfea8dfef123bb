"""`ModelSpec` → every convolution of the network with its numbers, by arithmetic alone. Free of torch.

The multipliers of `effnets.scaling` act here; channels are split over kernel groups, and strides become dilation where
asked for. Counting (`effnets.cost`) sums over a plan and `effnets.nn.build` makes a module of each piece, so that both
see the same network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from effnets.block_plan import BlockPlan, ConvPlan, plan_block
from effnets.errors import ArgumentError, ConfigError
from effnets.scaling import out_channels, scale_channels, unroll_blocks
from effnets.spec import ModelSpec
from effnets.utils.arguments import MAX_PARAMETERS, check_integer

__all__ = ["FeaturePlan", "NetworkPlan", "make_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePlan:
    """A level of the feature pyramid: what stage `stage` (-1: the stem) puts out before the resolution halves again."""

    stage: int
    channels: int
    reduction: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """The whole network; `head` is None and `hidden_channels` 0 where there is none."""

    stem: ConvPlan
    stages: tuple[tuple[BlockPlan, ...], ...]
    head: ConvPlan | None
    hidden_channels: int
    num_classes: int
    features: tuple[FeaturePlan, ...]

    @property
    def num_features(self) -> int:
        """Channels of the last feature map, after the head convolution."""
        return self.head.out_channels if self.head else self.stages[-1][-1].out_channels

    @property
    def pre_logits_channels(self) -> int:
        """Inputs of the classifier."""
        return self.hidden_channels or self.num_features

    @property
    def blocks(self) -> Iterator[BlockPlan]:
        """All blocks in order."""
        return (block for stage in self.stages for block in stage)

    @property
    def convolutions(self) -> Iterator[ConvPlan]:
        """All convolutions of stem, blocks and head; those of squeeze-and-excite left out."""
        yield self.stem
        for block in self.blocks:
            yield from (*block.expand, *block.convolution, *block.project)
        if self.head:
            yield self.head


def make_plan(
    spec: ModelSpec, *, in_chans: int = 3, num_classes: int | None = None, output_stride: int = 32
) -> NetworkPlan:
    """Work out every convolution of `spec`.

    Args:
        spec: the network.
        in_chans: channels of the input.
        num_classes: outputs of the classifier, 0 for none; None takes the spec's.
        output_stride: 8 or 16: from there on strides become dilation (DeepLab, arXiv:1606.00915); 32 leaves them all.

    Raises:
        ConfigError: channels cannot be split as a row asks, or there are too many blocks; the message names model and
            row.
        ArgumentError: an argument out of range.
    """
    num_classes = spec.num_classes if num_classes is None else num_classes
    in_chans = check_integer("in_chans", in_chans, 1, "an image has at least 1 channel")
    num_classes = check_integer("num_classes", num_classes, 0, "it must be 0 (no classifier) or more")
    if output_stride not in (8, 16, 32):
        raise ArgumentError(f"output_stride is {output_stride}; it must be 8, 16 or 32")
    stem_channels = scale_channels(spec.stem, spec.stem_scaling, spec)
    stem = ConvPlan(in_channels=in_chans, out_channels=stem_channels, kernel_size=3, stride=spec.stem_stride)
    stages, features = _plan_stages(spec, stem, output_stride)
    channels = stages[-1][-1].out_channels
    head = None
    if spec.head:
        head = ConvPlan(
            in_channels=channels, out_channels=scale_channels(spec.head, spec.head_scaling, spec), kernel_size=1
        )
    plan = NetworkPlan(
        stem=stem,
        stages=stages,
        head=head,
        hidden_channels=spec.head_hidden,
        num_classes=num_classes,
        features=features,
    )
    if (weights := sum(conv.weights for conv in plan.convolutions)) > MAX_PARAMETERS:
        raise ConfigError(
            f"{spec.name}: {weights:,} weights are over the limit of {MAX_PARAMETERS:,}; "
            "lower the width multiplier, or channels and kernel sizes"
        )
    return plan


def _plan_stages(
    spec: ModelSpec, stem: ConvPlan, output_stride: int
) -> tuple[tuple[tuple[BlockPlan, ...], ...], tuple[FeaturePlan, ...]]:
    unrolled = unroll_blocks(spec)
    # 32 is the default and means the network as its table states it, also if that goes below a 32nd.
    limit = output_stride if output_stride < 32 else math.inf
    total = sum(len(stage) for stage in unrolled)
    channels, reduction, dilation = stem.out_channels, stem.stride, 1
    here = FeaturePlan(stage=-1, channels=channels, reduction=reduction)
    stages: list[tuple[BlockPlan, ...]] = []
    features: list[FeaturePlan] = []
    index = 0
    for stage_index, stage in enumerate(unrolled):
        blocks: list[BlockPlan] = []
        for row, block in stage:
            if block.stride > 1:
                features.append(here)
            strided = block.stride > 1 and reduction * block.stride <= limit
            blocks.append(
                plan_block(
                    spec,
                    block,
                    row=row,
                    in_channels=channels,
                    out_channels=out_channels(spec, block, index, total),
                    stride=block.stride if strided else 1,
                    dilation=dilation,
                )
            )
            if strided:
                reduction *= block.stride
            else:
                dilation *= block.stride
            channels = blocks[-1].out_channels
            here = FeaturePlan(stage=stage_index, channels=channels, reduction=reduction)
            index += 1
        stages.append(tuple(blocks))
    return tuple(stages), (*features, here)
