"""torchvision's names: those of its MobileNetV2 class, from the state dict of ``torchvision.models.mobilenet_v2``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from effnets.spec.plan import NetworkPlan
from effnets.weights.dialects.interface import Dialect, block_modules, conv_bn, is_mobilenet_v2, no_such_network

# The first block has no expansion, so that the others' parts are counted one on.
_FIRST_BLOCK = conv_bn(depthwise=("conv.0.0", "conv.0.1"), project=("conv.1", "conv.2"))
_INVERTED_RESIDUAL = conv_bn(
    expand=("conv.0.0", "conv.0.1"), depthwise=("conv.1.0", "conv.1.1"), project=("conv.2", "conv.3")
)


class Torchvision(Dialect):
    """torchvision's."""

    name = "torchvision"
    settings: ClassVar[Mapping[str, str | float]] = {"padding": "symmetric", "bn_eps": 1e-5, "activation": "relu6"}

    def claims(self, keys: Collection[str]) -> bool:
        return "features.0.0.weight" in keys and "features.1.conv.0.0.weight" in keys

    def module_names(self, plan: NetworkPlan) -> Mapping[str, str]:
        if not is_mobilenet_v2(plan):
            raise no_such_network("torchvision", "MobileNetV2")
        end = 1 + len(list(plan.blocks))
        names = conv_bn(stem=("features.0.0", "features.0.1"), head=(f"features.{end}.0", f"features.{end}.1"))
        for number, place, block, part in block_modules(plan):
            parts = _INVERTED_RESIDUAL if block.expand else _FIRST_BLOCK
            names[f"{place}.{part}"] = f"features.{1 + number}.{parts[part]}"
        return names | {"classifier": "classifier.1"}
