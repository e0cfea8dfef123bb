"""torchvision's names: those of its MobileNetV2 class, from the state dict of ``torchvision.models.mobilenet_v2``."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from effnets.spec.plan import NetworkPlan
from effnets.weights.dialects.effnets import block_modules
from effnets.weights.dialects.interface import Dialect, block_places, by_renaming, is_mobilenet_v2, no_such_network

__all__ = ["DIALECT"]

# The first block has no expansion, so that the others' parts are counted one on.
_FIRST_BLOCK = {
    "depthwise.conv": "conv.0.0",
    "depthwise.bn": "conv.0.1",
    "project.conv": "conv.1",
    "project.bn": "conv.2",
}

_INVERTED_RESIDUAL = {
    "expand.conv": "conv.0.0",
    "expand.bn": "conv.0.1",
    "depthwise.conv": "conv.1.0",
    "depthwise.bn": "conv.1.1",
    "project.conv": "conv.2",
    "project.bn": "conv.3",
}


def _claims(keys: Collection[str]) -> bool:
    return "features.0.0.weight" in keys and "features.1.conv.0.0.weight" in keys


def _module_names(plan: NetworkPlan) -> Mapping[str, str]:
    if not is_mobilenet_v2(plan):
        raise no_such_network("torchvision", "MobileNetV2")
    names = {"stem.conv": "features.0.0", "stem.bn": "features.0.1", "classifier": "classifier.1"}
    number = 1
    for place, block in block_places(plan):
        parts = _INVERTED_RESIDUAL if block.expand else _FIRST_BLOCK
        names |= {f"{place}.{part}": f"features.{number}.{parts[part]}" for part in block_modules(block)}
        number += 1
    return names | {"head.conv": f"features.{number}.0", "head.bn": f"features.{number}.1"}


_to_native, _from_native = by_renaming(_module_names)

DIALECT = Dialect(
    name="torchvision",
    claims=_claims,
    to_native=_to_native,
    from_native=_from_native,
    settings={"padding": "symmetric", "bn_eps": 1e-5, "activation": "relu6"},
)
