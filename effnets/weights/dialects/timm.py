"""timm's names: those of its EfficientNet class, which holds MobileNet and MixNet, and of its RexNet class."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from effnets.spec.plan import NetworkPlan
from effnets.spec.specs import BlockType
from effnets.weights.dialects.interface import Dialect, block_modules, conv_bn, no_such_network

_SQUEEZE_EXCITE = {"se.reduce": "se.conv_reduce", "se.expand": "se.conv_expand"}
_SEPARABLE = {**conv_bn(depthwise=("conv_dw", "bn1"), project=("conv_pw", "bn2")), **_SQUEEZE_EXCITE}
_BLOCKS: Mapping[BlockType, Mapping[str, str]] = {
    "cn": conv_bn(convolution=("conv", "bn1")),
    "ds": _SEPARABLE,
    "dsa": _SEPARABLE,
    "ir": {
        **conv_bn(expand=("conv_pw", "bn1"), depthwise=("conv_dw", "bn2"), project=("conv_pwl", "bn3")),
        **_SQUEEZE_EXCITE,
    },
    "lb": {
        **conv_bn(expand=("conv_exp.conv", "conv_exp.bn")),
        **conv_bn(depthwise=("conv_dw.conv", "conv_dw.bn")),
        "se.reduce": "se.fc1",
        "se.bn": "se.bn",
        "se.expand": "se.fc2",
        **conv_bn(project=("conv_pwl.conv", "conv_pwl.bn")),
    },
}


class Timm(Dialect):
    """timm's."""

    name = "timm"

    def claims(self, keys: Collection[str]) -> bool:
        efficientnet = "conv_stem.weight" in keys and any(key.startswith("blocks.") for key in keys)
        rexnet = "stem.conv.weight" in keys and any(key.startswith("features.") for key in keys)
        return efficientnet or rexnet

    def module_names(self, plan: NetworkPlan) -> Mapping[str, str]:
        types = [block.type for block in plan.blocks]
        rexnet = "lb" in types
        if plan.hidden_channels or (rexnet and set(types) != {"lb"}):
            raise no_such_network(
                "timm", "those of EfficientNet's blocks, or of ReXNet's without a layer behind pooling"
            )
        if rexnet:  # it counts its blocks through, and the head convolution is the last of them
            head = f"features.{len(types)}"
            names = conv_bn(stem=("stem.conv", "stem.bn"), head=(f"{head}.conv", f"{head}.bn"))
        else:
            names = conv_bn(stem=("conv_stem", "bn1"), head=("conv_head", "bn2"))
        for number, place, block, part in block_modules(plan):
            foreign = f"features.{number}" if rexnet else place.replace("stages.", "blocks.")
            names[f"{place}.{part}"] = f"{foreign}.{_BLOCKS[block.type][part]}"
        return names | {"classifier": "head.fc" if rexnet else "classifier"}
