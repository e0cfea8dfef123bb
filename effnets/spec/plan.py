"""Work out every convolution of a network with its numbers: channels, kernels, strides, sizes. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from effnets.errors import ArgumentError, ConfigError
from effnets.spec.specs import MAX_BLOCKS, Activation, BlockSpec, BlockType, ModelSpec, Scaling
from effnets.utils.arguments import check_integer

_MAX_WEIGHTS = 2_000_000_000  # more would only exhaust the memory


def round_channels(channels: float, divisor: int) -> int:
    """Return the nearest multiple of `divisor`, or one more if that loses over a tenth (MobileNetV2's code)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def scale_channels(channels: int, scaling: Scaling, spec: ModelSpec) -> int:
    """Return the channels of stem or head after the width multiplier."""
    if scaling == "fixed":
        return channels
    return round_channels(channels * (max(1.0, spec.width) if scaling == "up" else spec.width), spec.divisor)


def _group_stages(blocks: tuple[BlockSpec, ...]) -> list[list[int]]:
    """Indices of the rows of each stage: a new one begins where the width changes, or the stride is not 1."""
    stages: list[list[int]] = []
    for index, block in enumerate(blocks):
        same = bool(index) and block.stride == 1 and block.channels is not None
        if same and block.channels == blocks[index - 1].channels:
            stages[-1].append(index)
        else:
            stages.append([index])
    return stages


def _scale_depth(repeats: list[int], spec: ModelSpec) -> list[int]:
    """Repeats of the rows of one stage times the depth multiplier, rounded for the stage as a whole.

    The rows share the total in proportion, from the last to the first, which thus grows last: it usually has the
    stride (the scaling of EfficientNet and timm).
    """
    left = sum(repeats)
    exact = left * spec.depth
    left_scaled = max(1, round(exact) if spec.depth_rounding == "nearest" else math.ceil(exact))
    scaled: list[int] = []
    for count in reversed(repeats):
        share = max(1, round(count / left * left_scaled))
        scaled.insert(0, share)
        left -= count
        left_scaled -= share
    return scaled


def unroll_blocks(spec: ModelSpec) -> list[list[tuple[int, BlockSpec]]]:
    """Repeat the rows as blocks, stage by stage, each with its row's index; only the first of a row keeps the stride.

    Raises:
        ConfigError: if there are so many blocks that the memory would not suffice.
    """
    rows = _group_stages(spec.blocks)
    stages = []
    total = 0
    for number, indices in enumerate(rows):
        repeats = [spec.blocks[index].repeats for index in indices]
        if not (spec.depth_fixed_ends and number in (0, len(rows) - 1)):
            repeats = _scale_depth(repeats, spec)
        total += sum(repeats)
        if total > MAX_BLOCKS:
            raise ConfigError(
                f"{spec.name}: block row {indices[-1] + 1}: over {MAX_BLOCKS:,} blocks in all; "
                "lower the repeats r, or the depth multiplier"
            )
        stage = []
        for index, count in zip(indices, repeats, strict=True):
            first = spec.blocks[index]
            rest = first if first.stride == 1 else replace(first, stride=1)
            stage += [(index, first), *[(index, rest)] * (count - 1)]
        stages.append(stage)
    return stages


def out_channels(spec: ModelSpec, block: BlockSpec, index: int, total: int) -> int:
    """Return the channels of block `index` of `total`."""
    if spec.channels is None:
        assert block.channels is not None, "ModelSpec checks this"
        return round_channels(block.channels * spec.width, spec.divisor)
    ramp = spec.channels
    steps = max(1, total - 1) if ramp.inclusive else total
    # Below α = 1 the official code divides the start by α first, so that only the growth shrinks.
    exact = (ramp.start / min(spec.width, 1.0) + ramp.grown(index, steps)) * spec.width
    return round_channels(round(exact), spec.divisor)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvPlan:
    """One convolution without bias; the fields are the arguments of `effnets.nn.layers.Conv2d`."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.out_channels * self.in_channels // self.groups * self.kernel_size**2


# A mixed convolution has several, each on its own slice of the channels; a plain one has one.
ConvGroups = tuple[ConvPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan:
    """One block: its convolutions in the order in which they run; `expand` is empty in blocks without expansion.

    `cn` blocks have only `convolution`, a full one; in the others it is the depthwise convolution. `row` is the index
    in ``ModelSpec.blocks`` of the row that the block came from.
    """

    type: BlockType
    row: int
    in_channels: int
    out_channels: int
    expand: ConvGroups
    convolution: ConvGroups
    squeeze_channels: int
    project: ConvGroups
    activation: Activation
    shortcut: bool

    @property
    def expanded_channels(self) -> int:
        """Channels that enter the depthwise convolution."""
        return sum(conv.in_channels for conv in self.convolution)

    @property
    def stride(self) -> int:
        """Stride of the block."""
        return self.convolution[0].stride


def split_channels(channels: int, groups: int, exponential: bool = False) -> tuple[int, ...]:
    """Split channels over kernel groups (MixConv, arXiv:1907.09595, section 3.2).

    Shares are equal with the remainder to the first group, as in the official TensorFlow code; or exponential: a half,
    a quarter, …, and the rest to the last group.

    Raises:
        ConfigError: if a group gets no channel.
    """
    if exponential:
        shares = [channels >> (group + 1) for group in range(groups - 1)]
        shares.append(channels - sum(shares))
    else:
        share, remainder = divmod(channels, groups)
        shares = [share + remainder, *[share] * (groups - 1)]
    if min(shares) < 1:
        raise ConfigError(f"{channels} channels do not divide into {groups} groups; take fewer groups or more channels")
    return tuple(shares)


def plan_block(
    spec: ModelSpec,
    block: BlockSpec,
    *,
    row: int,
    in_channels: int,
    out_channels: int,
    stride: int,
    dilation: int,
) -> BlockPlan:
    """Plan `block`, from row `row` of the table, at its place in the network.

    Raises:
        ConfigError: if channels cannot be split as the row asks.
    """
    expanded = in_channels
    expand: ConvGroups = ()
    project: ConvGroups = ()
    try:
        # An lb of expansion 1 has no pointwise expansion; an ir of expansion 1 has one, as in timm's FBNet.
        if block.type == "ir" or (block.type == "lb" and block.expansion != 1):
            expanded = round_channels(in_channels * (block.expansion or 1), spec.divisor)
            expand = _pointwise(in_channels, expanded, block.expand_groups)
        if block.type != "cn":
            project = _pointwise(expanded, out_channels, block.project_groups)
        return BlockPlan(
            type=block.type,
            row=row,
            in_channels=in_channels,
            out_channels=out_channels,
            expand=expand,
            convolution=_spatial(block, expanded, out_channels, stride, dilation),
            squeeze_channels=_squeeze_channels(spec, block, expanded),
            project=project,
            activation=block.activation or spec.activation,
            shortcut=_has_shortcut(block, in_channels, out_channels),
        )
    except ConfigError as error:
        raise ConfigError(f"{spec.name}: block row {row + 1}: {error}") from None


def _pointwise(in_channels: int, out_channels: int, groups: int) -> ConvGroups:
    pairs = zip(split_channels(in_channels, groups), split_channels(out_channels, groups), strict=True)
    return tuple(ConvPlan(in_channels=inputs, out_channels=outputs, kernel_size=1) for inputs, outputs in pairs)


def _spatial(block: BlockSpec, expanded: int, out_channels: int, stride: int, dilation: int) -> ConvGroups:
    """Plan the k×k convolution: full for `cn`, else depthwise with a kernel size for each group."""
    depthwise = block.type != "cn"
    splits = split_channels(expanded, len(block.kernel_sizes), block.exponential)
    out_splits = splits if depthwise else split_channels(out_channels, len(block.kernel_sizes))
    groups = []
    for inputs, outputs, kernel_size in zip(splits, out_splits, block.kernel_sizes, strict=True):
        # The official code keeps the large kernels of strided blocks: TensorFlow has no strided dilation.
        shrink = block.dilated and block.stride == 1 and kernel_size > 3
        groups.append(
            ConvPlan(
                in_channels=inputs,
                out_channels=outputs,
                kernel_size=3 if shrink else kernel_size,
                stride=stride,
                dilation=dilation * ((kernel_size - 1) // 2 if shrink else 1),
                groups=inputs if depthwise else 1,
            )
        )
    return tuple(groups)


def _squeeze_channels(spec: ModelSpec, block: BlockSpec, expanded: int) -> int:
    if block.se_ratio is None:
        return 0
    if block.type == "lb":
        return round_channels(int(expanded * block.se_ratio), spec.divisor)
    # The ratio refers to the block's input: divide by the expansion.
    return max(1, round(expanded * block.se_ratio / Fraction(block.expansion or 1)))


def _has_shortcut(block: BlockSpec, in_channels: int, out_channels: int) -> bool:
    """Whether input is added to output. The row's own stride decides, also where it became dilation."""
    if block.stride != 1 or block.shortcut is False or block.type == "dsa":
        return False
    if block.type == "lb":
        return in_channels <= out_channels
    return in_channels == out_channels and (block.type != "cn" or block.shortcut is True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePlan:
    """A level of the feature pyramid: the output of stage `stage` (-1: the stem) before the resolution halves again."""

    stage: int
    channels: int
    reduction: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """The whole network; without head convolutions, `head` is None and `hidden_channels` 0."""

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
        """All convolutions of stem, blocks and head; without those of squeeze-and-excitation."""
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
        num_classes: outputs of the classifier, 0 for no classifier; None takes the spec's.
        output_stride: 8 or 16: from there on strides become dilation (DeepLab, arXiv:1606.00915); 32 keeps all strides.

    Raises:
        ConfigError: if channels cannot be split as a row asks, or there are too many blocks; the message names model
            and row.
        ArgumentError: if an argument is out of range.
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
    if (weights := sum(conv.weights for conv in plan.convolutions)) > _MAX_WEIGHTS:
        raise ConfigError(
            f"{spec.name}: {weights:,} weights are over the limit of {_MAX_WEIGHTS:,}; "
            "lower the width multiplier, or channels and kernel sizes"
        )
    return plan


def _plan_stages(
    spec: ModelSpec, stem: ConvPlan, output_stride: int
) -> tuple[tuple[tuple[BlockPlan, ...], ...], tuple[FeaturePlan, ...]]:
    unrolled = unroll_blocks(spec)
    # 32 is the default and means the network as in its table, even with a larger stride.
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
