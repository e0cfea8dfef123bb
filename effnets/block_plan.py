"""One block → its convolutions with their numbers. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from effnets.errors import ConfigError
from effnets.scaling import round_channels
from effnets.spec import Activation, BlockSpec, BlockType, ModelSpec

__all__ = ["BlockPlan", "ConvGroups", "ConvPlan", "plan_block", "split_channels"]


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


# A mixed convolution is several, each on its own slice of the channels; a plain one is a group of one.
ConvGroups = tuple[ConvPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan:
    """One block: its convolutions in the order in which they run; `expand` is empty where there is none.

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
    """Channels of each kernel group (MixConv, arXiv:1907.09595, section 3.2).

    Equal shares, the remainder to the first group, as in the official TensorFlow code; or exponential ones: a half,
    a quarter, …, and the last group what is left.

    Raises:
        ConfigError: a group would get no channel.
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
    """The block that `block`, from row `row` of the table, becomes at this place of the network.

    Raises:
        ConfigError: channels cannot be split as the row asks.
    """
    expanded = in_channels
    expand: ConvGroups = ()
    project: ConvGroups = ()
    try:
        # An lb of expansion 1 has no expansion; an ir of expansion 1 has one all the same, as in timm's FBNet.
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
    """The convolution that sees neighbours: full for `cn`, else depthwise with a kernel size for each group."""
    depthwise = block.type != "cn"
    splits = split_channels(expanded, len(block.kernel_sizes), block.exponential)
    out_splits = splits if depthwise else split_channels(out_channels, len(block.kernel_sizes))
    groups = []
    for inputs, outputs, kernel_size in zip(splits, out_splits, block.kernel_sizes, strict=True):
        # The official code leaves strided blocks their large kernels: TensorFlow has no strided dilation.
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
    # The ratio is one of the block's input: the expansion is taken out again.
    return max(1, round(expanded * block.se_ratio / Fraction(block.expansion or 1)))


def _has_shortcut(block: BlockSpec, in_channels: int, out_channels: int) -> bool:
    """Whether input is added to output. The row's own stride decides, also where it was turned into dilation."""
    if block.stride != 1 or block.shortcut is False or block.type == "dsa":
        return False
    if block.type == "lb":
        return in_channels <= out_channels
    return in_channels == out_channels and (block.type != "cn" or block.shortcut is True)
