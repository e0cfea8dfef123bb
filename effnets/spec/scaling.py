"""The multipliers: width and its rounding, depth, and ReXNet's channel schedule. Free of torch."""

from __future__ import annotations

import math
from dataclasses import replace

from effnets.errors import ConfigError
from effnets.spec.specs import BlockSpec, ModelSpec, Scaling
from effnets.utils.arguments import MAX_BLOCKS


def round_channels(channels: float, divisor: int) -> int:
    """The nearest multiple of `divisor`, one more where that would lose over a tenth (MobileNetV2's reference code)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def scale_channels(channels: int, scaling: Scaling, spec: ModelSpec) -> int:
    """Channels of stem or head after the width multiplier."""
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

    The rows share the total in proportion, from the last to the first, which so is the last to grow: it usually
    holds the stride (the scaling of EfficientNet and timm).
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
    """Rows → blocks, stage by stage, each with its row's index: depth applied, the stride kept by the first only.

    Raises:
        ConfigError: more blocks than any network has: a slip that would fill the memory.
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
    """Channels of block `index` of `total`."""
    if spec.channels is None:
        assert block.channels is not None, "ModelSpec checks this"
        return round_channels(block.channels * spec.width, spec.divisor)
    ramp = spec.channels
    steps = max(1, total - 1) if ramp.inclusive else total
    # Below α = 1 the official code divides the start by α first, so that only the growth shrinks.
    exact = (ramp.start / min(spec.width, 1.0) + index * ramp.growth / steps) * spec.width
    return round_channels(round(exact), spec.divisor)
