"""timm's names: those of its EfficientNet class, which holds MobileNet and MixNet, and of its RexNet class."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from effnets.spec.plan import NetworkPlan
from effnets.spec.specs import BlockType
from effnets.weights.dialects.effnets import block_modules
from effnets.weights.dialects.interface import Dialect, block_places, by_renaming, no_such_network

__all__ = ["DIALECT"]

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


def _claims(keys: Collection[str]) -> bool:
    efficientnet = "conv_stem.weight" in keys and any(key.startswith("blocks.") for key in keys)
    rexnet = "stem.conv.weight" in keys and any(key.startswith("features.") for key in keys)
    return efficientnet or rexnet


def _module_names(plan: NetworkPlan) -> Mapping[str, str]:
    types = {block.type for block in plan.blocks}
    if plan.hidden_channels or ("lb" in types and types != {"lb"}):
        raise no_such_network("timm", "those of EfficientNet's blocks, or of ReXNet's without a layer behind pooling")
    return _rexnet(plan) if "lb" in types else _efficientnet(plan)


def _efficientnet(plan: NetworkPlan) -> Mapping[str, str]:
    names = dict(_EFFICIENTNET)
    for place, block in block_places(plan):
        foreign = place.replace("stages.", "blocks.")
        names |= {f"{place}.{part}": f"{foreign}.{_BLOCKS[block.type][part]}" for part in block_modules(block)}
    return names


def _rexnet(plan: NetworkPlan) -> Mapping[str, str]:
    """RexNet counts its blocks through, and the head convolution is the last of them."""
    names = {"stem.conv": "stem.conv", "stem.bn": "stem.bn", "classifier": "head.fc"}
    number = 0
    for place, block in block_places(plan):
        names |= {f"{place}.{part}": f"features.{number}.{_BLOCKS['lb'][part]}" for part in block_modules(block)}
        number += 1
    return names | {"head.conv": f"features.{number}.conv", "head.bn": f"features.{number}.bn"}


_to_native, _from_native = by_renaming(_module_names)

DIALECT = Dialect(name="timm", claims=_claims, to_native=_to_native, from_native=_from_native)
