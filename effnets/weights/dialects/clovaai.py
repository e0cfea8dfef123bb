"""The names of the official ReXNet code, github.com/clovaai/rexnet: rexnetv1.py and rexnetv1_lite.py.

Everything there is a numbered part of a sequence, activations included. The classifier is a 1×1 convolution.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from torch import Tensor

from effnets.spec.plan import BlockPlan, NetworkPlan
from effnets.weights.dialects.interface import (
    Dialect,
    block_modules,
    conv_bn,
    is_rexnet,
    is_rexnet_lite,
    no_such_network,
)

# Convolution, normalization and activation of the stem come before the blocks.
_FIRST_BLOCK = 3

_REXNET_HEAD = {"classifier": "output.1"}
_LITE_HEAD = {**conv_bn(hidden=("output.0", "output.1")), "classifier": "output.4"}


class ClovaAI(Dialect):
    """The official ReXNet code's."""

    name = "clovaai"
    settings: ClassVar[Mapping[str, str | float]] = {"padding": "symmetric", "bn_eps": 1e-5}

    def claims(self, keys: Collection[str]) -> bool:
        return "features.0.weight" in keys and f"features.{_FIRST_BLOCK}.out.0.weight" in keys

    def module_names(self, plan: NetworkPlan) -> Mapping[str, str]:
        lite = is_rexnet_lite(plan)
        if not (lite or is_rexnet(plan)):
            raise no_such_network("clovaai/rexnet", "ReXNet and ReXNet-lite")
        end = _FIRST_BLOCK + len(list(plan.blocks))
        names = conv_bn(stem=("features.0", "features.1"), head=(f"features.{end}", f"features.{end + 1}"))
        for number, place, block, part in block_modules(plan):
            names[f"{place}.{part}"] = f"features.{_FIRST_BLOCK + number}.out.{_position(block, part)}"
        return names | (_LITE_HEAD if lite else _REXNET_HEAD)

    def to_native(self, tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
        native = super().to_native(tensors, plan)
        weight = native.get("classifier.weight")
        if weight is not None and weight.shape[2:] == (1, 1):
            native["classifier.weight"] = weight.flatten(1)
        return native

    def from_native(self, tensors: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
        named = super().from_native(tensors, plan)
        classifier = f"{self.module_names(plan)['classifier']}.weight"
        if classifier in named:
            named[classifier] = named[classifier][:, :, None, None]
        return named


def _position(block: BlockPlan, part: str) -> str:
    """Where a module stands in its block's sequence."""
    depthwise = 3 if block.expand else 0  # behind convolution, normalization and activation of the expansion
    squeeze = depthwise + 2
    # The depthwise activation stands behind the squeeze-and-excite, whose own activation is its fc.2.
    project = squeeze + (2 if block.squeeze_channels else 1)
    starts = {"expand": 0, "depthwise": depthwise, "project": project}
    inner = {"se.reduce": "fc.0", "se.bn": "fc.1", "se.expand": "fc.3"}
    if part in inner:
        return f"{squeeze}.{inner[part]}"
    name, _, kind = part.partition(".")
    return str(starts[name] + (kind == "bn"))
