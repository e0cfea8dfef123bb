"""timm's names: those of its EfficientNet class, which holds MobileNet and MixNet, and of its RexNet class."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from effnets.errors import WeightsError
from effnets.plan import NetworkPlan
from effnets.spec import BlockType
from effnets.weights.dialects.effnets import block_modules

__all__ = ["claims", "module_names"]

_SQUEEZE_EXCITE = {"se.reduce": "se.conv_reduce", "se.expand": "se.conv_expand"}

_DEPTHWISE_SEPARABLE = {
    "depthwise.conv": "conv_dw",
    "depthwise.bn": "bn1",
    "project.conv": "conv_pw",
    "project.bn": "bn2",
    **_SQUEEZE_EXCITE,
}

_BLOCKS: Mapping[BlockType, Mapping[str, str]] = {
    "cn": {"convolution.conv": "conv", "convolution.bn": "bn1"},
    "ds": _DEPTHWISE_SEPARABLE,
    "dsa": _DEPTHWISE_SEPARABLE,
    "ir": {
        "expand.conv": "conv_pw",
        "expand.bn": "bn1",
        "depthwise.conv": "conv_dw",
        "depthwise.bn": "bn2",
        "project.conv": "conv_pwl",
        "project.bn": "bn3",
        **_SQUEEZE_EXCITE,
    },
    "lb": {
        "expand.conv": "conv_exp.conv",
        "expand.bn": "conv_exp.bn",
        "depthwise.conv": "conv_dw.conv",
        "depthwise.bn": "conv_dw.bn",
        "se.reduce": "se.fc1",
        "se.bn": "se.bn",
        "se.expand": "se.fc2",
        "project.conv": "conv_pwl.conv",
        "project.bn": "conv_pwl.bn",
    },
}

_EFFICIENTNET = {
    "stem.conv": "conv_stem",
    "stem.bn": "bn1",
    "head.conv": "conv_head",
    "head.bn": "bn2",
    "classifier": "classifier",
}


def claims(keys: Collection[str]) -> bool:
    """Whether these are names of timm's EfficientNet or RexNet."""
    efficientnet = "conv_stem.weight" in keys and any(key.startswith("blocks.") for key in keys)
    rexnet = "stem.conv.weight" in keys and any(key.startswith("features.") for key in keys)
    return efficientnet or rexnet


def module_names(plan: NetworkPlan) -> Mapping[str, str]:
    """Native module names to timm's.

    Raises:
        WeightsError: timm has no such network.
    """
    types = {block.type for block in plan.blocks}
    if plan.hidden_channels or ("lb" in types and types != {"lb"}):
        raise WeightsError("timm has no network with these blocks; its weights have the names of dialect effnets")
    return _rexnet(plan) if "lb" in types else _efficientnet(plan)


def _efficientnet(plan: NetworkPlan) -> Mapping[str, str]:
    names = dict(_EFFICIENTNET)
    for stage_index, stage in enumerate(plan.stages):
        for block_index, block in enumerate(stage):
            place = f"{stage_index}.{block_index}"
            for part in block_modules(block):
                names[f"stages.{place}.{part}"] = f"blocks.{place}.{_BLOCKS[block.type][part]}"
    return names


def _rexnet(plan: NetworkPlan) -> Mapping[str, str]:
    """RexNet counts its blocks through, and the head convolution is the last of them."""
    names = {"stem.conv": "stem.conv", "stem.bn": "stem.bn", "classifier": "head.fc"}
    number = 0
    for stage_index, stage in enumerate(plan.stages):
        for block_index, block in enumerate(stage):
            for part in block_modules(block):
                names[f"stages.{stage_index}.{block_index}.{part}"] = f"features.{number}.{_BLOCKS['lb'][part]}"
            number += 1
    names |= {"head.conv": f"features.{number}.conv", "head.bn": f"features.{number}.bn"}
    return names
